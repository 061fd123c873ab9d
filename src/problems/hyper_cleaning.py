"""Data hyper-cleaning: one learned weight per training sample, small for wrong labels.

    f(x, y) = mean over training samples of w_i(x) CE(y; image_i, label_i) + lower_l2/2 |y|^2
    F(x, y) = mean over clean validation samples of CE(y; image, label)

w_i = sigmoid(x_i), or x_i kept in [0, 1] (clip), or n softmax(x)_i. Franceschi, Donini, Frasconi,
Pontil, ICML 2017 (arXiv 1703.01785), section 5.1; Liu, Mu, Yuan, Zeng, Zhang, ICML 2020 (arXiv
2006.04045), section 5.2. Published protocols differ in sizes, noise, model and in what they call
F1: conf/problem/hyper_cleaning.yaml names each choice.

y is a whole network with its softmax head. The images are shared by all seeds of a run, which
labels are polluted follows from the seed. Batch norm, where the network has it, takes the
statistics of the rows at hand, or with model.batch_norm=support those of the training rows.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from bilevel.mini_batches import Sampling, in_mini_batches, rows, with_keys
from bilevel.types import Array, BilevelProblem, Metrics, Objectives, TaskSource, Tree
from src.data.episodes import network_inputs
from src.data.image_classes import SPLITS
from src.data.labelled import LabelledImages
from src.data.pollution import Pollution, number_polluted, pollute
from src.models.model import Model
from src.problems.adapting_network import HeadInit, draw_head, network_shapes
from src.problems.detection import ceiling, detection, f1_scores
from src.problems.few_shot import EVERY_MIX, accuracy, cross_entropy
from src.problems.weighted_samples import WeightedSamples

Weighting = Literal["sigmoid", "clip", "softmax"]
Baseline = Literal["none", "everything", "clean", "validation"]

FORMULAS = {"sigmoid": "sigmoid(x_i)", "clip": "x_i (kept in 0..1)", "softmax": "n softmax(x)_i"}
BASELINES = {
    "everything": "mean over all training samples, polluted or not",
    "clean": "mean over the training samples whose labels are right (an oracle)",
    "validation": "mean over the validation samples",
}
# A weight below this is a report of a polluted sample: sigmoid(0), the middle, the mean.
# (Below the mean by more than rounding: equal weights report nothing.)
THRESHOLDS = {"sigmoid": 0.5, "clip": 0.5, "softmax": 1.0 - 1e-4}


def hyper_cleaning(
    data: LabelledImages,
    model: Model,
    *,
    noise: float,
    pollution: Pollution,
    weighting: Weighting,
    initial: float,
    lower_l2: float,
    head_init: HeadInit,
    batch_size: int | None,
    sampling: Sampling = "rows",
    baseline: Baseline,
) -> tuple[BilevelProblem, TaskSource]:
    """x: (n,), all `initial`; y: {"network": tree of `model`, "head": {"weights", "bias"}}.

    A persistent task: {"train", "validation", "held_out"}, each {"images" (n, h, w, c) in [0, 1],
    "labels" (n,)}, and of the training samples "drawn" and "wrong", bool (n,). `batch_size`: rows
    of f (and of F, where the steps descend it too) per lower step, drawn as `sampling` says
    (src/bilevel/mini_batches.py); None for all. `baseline` other than none: x is empty, and y is
    trained alone on what it says.

    Raises ValueError for noise outside [0, 1), a negative lower_l2, a batch size below 1, a start
    outside the weights' bounds.
    """
    _refuse(data, noise, weighting, initial, lower_l2)
    if model.batch_norm == "running":
        raise ValueError(
            "model.batch_norm=running takes the statistics of a learned network, but here the "
            "lower level trains all of it; choose model.batch_norm=support (the statistics of the "
            "training rows) or batch"
        )
    size = len(data.labels["train"])
    polluted = number_polluted(size, noise) if baseline == "none" else 0
    image = jnp.zeros((1, *data.images["train"].shape[1:]))
    _, output = network_shapes(model, image)

    def init_lower(key: Array, x: Tree) -> Tree:
        del x
        network_key, head_key = jax.random.split(key)
        network = model.init(network_key, image)
        head = draw_head(head_key, head_init, output, data.num_classes)
        return {"network": network, "head": head}

    def features_of(y: Tree, task: Tree, part: str) -> Array:
        images = task[part]["images"]
        if model.batch_norm != "support" or part == "train":
            return model.apply(y["network"], images)
        _, statistics = model.measure(y["network"], task["train"]["images"])
        return model.apply(y["network"], images, statistics)

    def logits(y: Tree, task: Tree, part: str) -> Array:
        head = y["head"]
        return features_of(y, task, part) @ head["weights"] + head["bias"][None]

    def losses(y: Tree, task: Tree, part: str) -> Array:
        # Classes first: a CPU adds and multiplies along many rows faster than along ten classes.
        features, rows = features_of(y, task, part), task[part]
        found = y["head"]["weights"].T @ features.T + y["head"]["bias"][:, None]
        of_label = jnp.take_along_axis(found, rows["labels"][None], axis=0)[0]
        return jax.nn.logsumexp(found, axis=0) - of_label

    def weights_of(x: Array) -> Array:
        return {"sigmoid": jax.nn.sigmoid(x), "clip": x, "softmax": size * jax.nn.softmax(x)}[
            weighting
        ]

    def prepare(x: Tree, task: Tree) -> Tree:
        del task
        return {"weights": weights_of(x)} if baseline == "none" else {}

    def lower_objective(context: Tree, task: Tree, y: Tree) -> Array:
        # Of a baseline the weights are fixed, and stand with the rows.
        weights = {**task["train"], **context}["weights"]
        value = jnp.mean(weights * losses(y, task, "train"))
        if lower_l2:
            value += 0.5 * lower_l2 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))
        return value

    def upper_objective(context: Tree, task: Tree, y: Tree) -> tuple[Array, Metrics]:
        del context
        return jnp.mean(losses(y, task, "validation")), {}

    def evaluate(x: Tree, context: Tree, task: Tree, y: Tree) -> Metrics:
        del x
        held_out = task["held_out"]
        scores = logits(y, task, "held_out")
        metrics = {
            "upper_loss": cross_entropy(scores, held_out["labels"]),
            "lower_loss": lower_objective(context, task, y),
            "accuracy": accuracy(scores, held_out["labels"]),
            **f1_scores(scores.argmax(-1), held_out["labels"], data.num_classes),
        }
        if polluted:
            metrics |= detection(context["weights"], THRESHOLDS[weighting], task["drawn"])
        if polluted and pollution == "uniform":
            metrics |= ceiling(task["drawn"], task["wrong"])
        return {name: jnp.asarray(value, image.dtype) for name, value in metrics.items()}

    def samples(x: Tree, task: Tree) -> WeightedSamples:
        rows = task["train"]
        return WeightedSamples(
            weights_of(x), task["wrong"], rows["images"], rows["labels"], THRESHOLDS[weighting]
        )

    problem = BilevelProblem(
        init_upper=lambda key: jnp.full(size, initial) if baseline == "none" else {},
        prepare=prepare,
        init_lower=init_lower,
        lower_objective=lower_objective,
        upper_objective=upper_objective,
        evaluate=evaluate,
        formulas=_formulas(weighting, baseline, lower_l2),
        # A constant added to all logits changes nothing, nor does a weight of a blank pixel.
        singular_hessians=frozenset({Objectives.F} if lower_l2 else EVERY_MIX),
        damping=0.0 if lower_l2 else DAMPING,
    )
    if weighting == "clip" and baseline == "none":
        problem = problem._replace(project_upper=lambda x: jnp.clip(x, 0, 1))
    lower_rows = len(data.labels["validation" if baseline == "validation" else "train"])
    upper_rows = len(data.labels["validation"])
    problem = in_mini_batches(
        problem, batch_size, lower_rows, upper_rows, sampling=sampling, of_context=rows
    )
    if baseline == "none":
        problem = problem._replace(inspect=samples)
    return problem, _source(data, noise, pollution, baseline, batch_size is not None)


# About 1 / (eta K) for K = 100 steps of size 0.1: how much those steps have left of the start.
DAMPING = 0.1


def _source(
    labelled: LabelledImages, noise: float, pollution: Pollution, baseline: Baseline, batches: bool
) -> TaskSource:
    """One task; which labels are polluted follows from the seed of the run."""

    def seeded(data: Tree, key: Array) -> Tree:
        train = data["train"]
        labels, drawn = pollute(
            jax.random.fold_in(key, 2**31 - 4),
            train["labels"],
            labelled.num_classes,
            noise,
            pollution,
        )
        return {
            **data,
            "train": {**train, "labels": labels},
            "drawn": drawn,
            "wrong": labels != train["labels"],
        }

    def sample(data: Tree, key: Array, split: str, n: int) -> Tree:
        task = {name: data[name] for name in ("train", "validation", "drawn", "wrong")}
        task["held_out"] = data[split]
        if baseline != "none":
            task["train"] = _baseline_rows(baseline, task)
        tasks = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), task)
        return with_keys(tasks, key, n) if batches else tasks

    on_device = {
        split: {
            "images": network_inputs(labelled.images[split]),
            "labels": jnp.asarray(labelled.labels[split]),
        }
        for split in SPLITS
    }
    return TaskSource(data=on_device, sample=sample, persistent=True, seeded=seeded)


def _baseline_rows(baseline: Baseline, task: Tree) -> Tree:
    """The rows of f and their fixed weights: f is the mean over the samples that it trains on."""
    rows = task["validation" if baseline == "validation" else "train"]
    kept = ~task["wrong"] if baseline == "clean" else jnp.ones(len(rows["labels"]), bool)
    return {**rows, "weights": kept / kept.mean()}


def _formulas(weighting: Weighting, baseline: Baseline, lower_l2: float) -> dict[str, str]:
    penalty = f" + {lower_l2:g}/2 |y|^2" if lower_l2 else ""
    over = f"mean over training samples of {FORMULAS[weighting]} CE(y; image_i, label_i)"
    if baseline != "none":
        over = f"{BASELINES[baseline]}, of CE(y; image, label)"
    return {
        "f": f"f(x, y) = {over}{penalty}",
        "F": "F(x, y) = mean over validation samples of CE(y; image, label)",
    }


def _refuse(
    data: LabelledImages,
    noise: float,
    weighting: Weighting,
    initial: float,
    lower_l2: float,
) -> None:
    if not 0 <= noise < 1:
        raise ValueError(
            f"noise={noise} must be in [0, 1), the share of training labels that are polluted; "
            "choose noise=0.5"
        )
    rows = len(data.labels["train"])
    if number_polluted(rows, noise) == rows:
        raise ValueError(
            f"noise={noise} of {rows} training labels is all of them, which leaves none to learn "
            "from; choose noise=0.5"
        )
    if not lower_l2 >= 0:
        raise ValueError(f"lower_l2={lower_l2} must not be negative; choose lower_l2=0 for none")
    if weighting == "clip" and not 0 <= initial <= 1:
        raise ValueError(
            f"initial={initial} is outside 0..1, the weights of weighting=clip; choose initial=0.5"
        )
    for split, labels in data.labels.items():
        if labels.min() < 0 or labels.max() >= data.num_classes:
            raise ValueError(
                f"the {split} labels are in {labels.min()}..{labels.max()}, but there are "
                f"{data.num_classes} classes, 0..{data.num_classes - 1}; mend the data set"
            )
