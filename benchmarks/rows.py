"""What is measured: one row is one configuration of src.train."""

from typing import NamedTuple

from benchmarks import flop


class Row(NamedTuple):
    """One row of the table.

    overrides   the configuration, as on the command line of src.train
    gflop       of one iteration, by benchmarks/flop.py; None: there is no formula
    peer        the function of benchmarks/torch_peers.py that computes the same; None: none
    block       iterations that are timed together
    """

    name: str
    overrides: tuple[str, ...]
    gflop: float | None = None
    peer: str | None = None
    block: int = 10


FEW_SHOT = ("problem=few_shot", "data=glyphs")
IMAGES = "images.npz"  # made by benchmarks/inputs.py, in the folder of the benchmark
TABLE = "rows.svm"
SIZES = {"flat": (784, 10), "mlp300": (784, 300, 10)}


def few_shot(method: str, tasks: int, ways: int = 5, steps: int = 5, block: int = 10) -> Row:
    """5-way 1-shot letters with conv4, 15 queries per class."""
    name = f"few-shot {method}, {ways} ways, K {steps}, {tasks} tasks"
    gflop = {
        "maml": lambda: flop.maml_few_shot(tasks, ways, steps),
        "rhg": lambda: flop.rhg_few_shot(tasks, ways, steps, of_both=False),
        "bda": lambda: flop.rhg_few_shot(tasks, ways, steps, of_both=True),
    }[method]()
    chosen = (f"method={method}", f"meta_batch_size={tasks}", f"problem.ways={ways}")
    overrides = (*FEW_SHOT, *chosen, f"num_lower_steps={steps}")
    return Row(name, overrides, gflop, f"few_shot_{method}", block)


def cleaning(method: str, model: str, steps: int = 100, block: int = 2) -> Row:
    """5,000 training and 5,000 validation images of 28x28 pixels, all of them in each step."""
    chosen = (
        *("problem=hyper_cleaning", "data=arrays", f"data.path={IMAGES}"),
        *(f"method={method}", f"model={model}", f"num_lower_steps={steps}"),
    )
    gflop = flop.cleaning(SIZES[model], steps, of_both=method == "bda")
    return Row(f"cleaning {method}, {model}, K {steps}", chosen, gflop, f"cleaning_{method}", block)


def sparse(seeds: int = 1) -> Row:
    """20,000 rows of 100,000 features, 50 of which are not 0."""
    chosen = ("problem=regularisation", "data=libsvm", f"data.path={TABLE}", "data.sparse=true")
    chosen += ("data.standardise=false", "method=rhg", f"seeds={seeds}")
    return Row(f"regularisation, sparse, {seeds} seeds", chosen, block=2)


ROWS = {
    "main": [
        few_shot("maml", 4),
        few_shot("rhg", 8),
        few_shot("bda", 8),
        cleaning("rhg", "flat"),
        cleaning("bda", "flat"),
        cleaning("rhg", "mlp300", block=1),
    ],
    "larger": [
        *(few_shot("maml", tasks, block=5) for tasks in (16, 32)),
        *(few_shot("bda", tasks, block=5) for tasks in (16, 32)),
        few_shot("bda", 8, ways=20, block=5),
        sparse(),
    ],
    "steps": [few_shot("bda", 8, steps=steps, block=5) for steps in (1, 10, 100, 1000)],
    "tasks": [few_shot("rhg", tasks, block=5) for tasks in (1, 4, 16, 64)],
    "seeds": [
        few_shot("bda", 8)._replace(
            name=f"few-shot bda, {seeds} seeds",
            overrides=(*few_shot("bda", 8).overrides, f"seeds={seeds}"),
            gflop=seeds * (few_shot("bda", 8).gflop or 0.0),
            peer=None,
            block=5,
        )
        for seeds in (1, 8)
    ],
    # What a test runs: seconds.
    "smallest": [
        Row(
            "smallest",
            (*FEW_SHOT, "model.filters=4", "model.num_blocks=4", "method=rhg", "meta_batch_size=2"),
            2 * sum(sum(flop.conv4(n, 4)) for n in (5, 75)) * 3,
            "few_shot_rhg",
            block=2,
        )
    ],
}
