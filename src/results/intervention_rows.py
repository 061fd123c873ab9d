"""Rows that change one thing of Omniglot's 5-way 1-shot `rhg`, and see what validation says."""

from collections.abc import Collection, Mapping
from types import MappingProxyType

from src.results.row import Quoted, Row

# The plain setting: 12,000 tasks in each row. Three seeds in one program share tasks and starts
# with the three seeds of every other row, but where the classes differ (rotations).
BASE = {
    "experiment": "omniglot",
    "data.rotations": "false",
    "method": "rhg",
    "seeds": "3",
    "num_iterations": "1500",
    "eval_every": "500",
    "checkpoint_every": "1500",
    "num_validation_tasks": "600",
    "num_test_tasks": "20",  # the test is not looked at
}
ANNEALED = {"upper_optimizer.annealing_iterations": "1500"}
AVERAGE = {"upper_optimizer.average": "0.99"}  # scores are of the last hundred x, about
BDA = {"method": "bda"}
BOUNDED = {"lower_optimizer": "bounded_sgd"}  # its step times the largest eigenvalue is at most 1
CENTRE = {"model.centre": "true"}
CLIP = {"upper_optimizer.clip_norm": "0.5"}
COSINE = {"upper_optimizer.annealing": "cosine", **ANNEALED}
FIXED_NORM = {"model.feature_norm": "fixed"}
K1, K10 = ({"num_lower_steps": str(number)} for number in (1, 10))
LEARNED_STEP = {"lower_optimizer.learn": "scalar"}
MAX_POOL = {"model.downsample": "max_pool"}
MEAN_OF_PIXELS = {"model.features": "mean"}
NO_RELU = {"model.last_activation": "none"}
ROTATIONS = {"data.rotations": "true"}
SCALE = {"model.scale": "learned"}
SUPPORT = {"model.batch_norm": "support"}


def _tasks(number: int) -> dict[str, str]:
    """A larger meta-batch, and fewer iterations: as many tasks in all."""
    iterations = 12000 // number
    return {
        "meta_batch_size": str(number),
        "num_iterations": str(iterations),
        "eval_every": str(iterations // 3),
        "checkpoint_every": str(iterations),
    }


def lower_step(size: float) -> dict[str, str]:
    return {"lower_optimizer.step_size": f"{size:g}"}


def training_ways(ways: int, tasks: int, lower: float) -> dict[str, str]:
    """Training tasks of so many classes, `tasks` in an iteration, with this lower step."""
    numbers = {"problem.train_ways": str(ways), "meta_batch_size": str(tasks)}
    return {**numbers, **lower_step(lower)}


def _upper_step(size: float) -> dict[str, str]:
    return {"upper_optimizer.step_size": f"{size:g}"}


# In training, as many images as 8 tasks of 5 ways. The first lower step of a 20-way head moves a
# logit a quarter as far, so its size is four times as large.
TWENTY_WAYS = training_ways(20, 2, 0.4)
CHANGES = {
    "base": {},
    "rotations": ROTATIONS,
    "average": AVERAGE,
    "scale": SCALE,
    "16-tasks": _tasks(16),
    "32-tasks": _tasks(32),
    "upper-step-0.003": _upper_step(0.003),
    "upper-step-0.0003": _upper_step(0.0003),
    "inverse-time": {"upper_optimizer.decay": "0.002"},
    "cosine": COSINE,
    "clip": CLIP,
    "lower-step-0.01": lower_step(0.01),
    "lower-step-0.04": lower_step(0.04),
    "lower-step-0.4": lower_step(0.4),
    "k-1": K1,
    "k-10": K10,
    "learned-step": LEARNED_STEP,
    "bounded-step": BOUNDED,
    # From below the bound: where it is reached a learned size has no gradient.
    "learned-bounded-step": {**BOUNDED, **LEARNED_STEP, **lower_step(0.02)},
    "k-10-bounded-step": {**BOUNDED, **K10},
    "centre": CENTRE,
    "no-last-relu": NO_RELU,
    "no-last-relu-zero-offset": {**NO_RELU, "model.offset": "zero"},
    "support-statistics": SUPPORT,
    "fixed-norm": FIXED_NORM,
    "max-pool": MAX_POOL,
    "mean-of-pixels": MEAN_OF_PIXELS,
    "xavier-head": {"problem.head_init": "xavier"},
    "5-queries": {"problem.queries": "5"},
    "5-training-queries": {"problem.train_queries": "5"},
    "lower-l2": {"problem.lower_l2": "0.1"},
    "bda": BDA,
    "centre-average": {**CENTRE, **AVERAGE},
    "centre-scale": {**CENTRE, **SCALE},
    "centre-bda": {**CENTRE, **BDA},
    "centre-fixed-norm": {**CENTRE, **FIXED_NORM},
    "centre-max-pool": {**CENTRE, **MAX_POOL},
    "centre-lower-step-0.04": {**CENTRE, **lower_step(0.04)},
    "centre-lower-step-0.4": {**CENTRE, **lower_step(0.4)},
    "centre-upper-step-0.003": {**CENTRE, **_upper_step(0.003)},
    "centre-cosine": {**CENTRE, **COSINE},
    "centre-clip": {**CENTRE, **CLIP},
    "centre-support-statistics": {**CENTRE, **SUPPORT},
    "centre-32-tasks": {**CENTRE, **_tasks(32)},
    "centre-20-ways": {
        **CENTRE,
        **TWENTY_WAYS,
        "test_step_size": "0.1",  # that of all other lines
    },
    "centre-k-1": {**CENTRE, **K1},
    "centre-k-10": {**CENTRE, **K10},
    "centre-no-last-relu": {**CENTRE, **NO_RELU},
    "centre-rotations": {**CENTRE, **ROTATIONS},
}


def changed_rows(
    prefix: str,
    group: str,
    base: Mapping[str, str],
    changes: Mapping[str, Mapping[str, str]],
    of_other_tests: Collection[str] = (),
    beside: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Row, ...]:
    """A row for each change of a setting, beside the row that changes nothing, `base`.

    A change `centre-...` stands beside `centre`.

    of_other_tests   the changes whose validation tasks are others: no difference is shown
    beside           {change: the change beside which it stands}, where that is another one
    """
    alone = {"base", *of_other_tests}

    def other(name: str) -> str:
        return beside.get(name, "centre" if name.startswith("centre-") else "base")

    return tuple(
        Row(
            f"{prefix}-{name}",
            group,
            tuple(f"{key}={value}" for key, value in {**base, **change}.items()),
            (Quoted("validation/accuracy", "validation", percent=True),),
            needs="Omniglot",
            against="" if name in alone else f"{prefix}-{other(name)}",
        )
        for name, change in changes.items()
    )


INTERVENTIONS = changed_rows(
    "intervention",
    "interventions",
    BASE,
    CHANGES,
    beside={"learned-bounded-step": "learned-step", "k-10-bounded-step": "k-10"},
)
