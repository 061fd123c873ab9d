"""Few-shot classification: a network shared by all tasks, a part of it that adapts to each.

    f(x, y) = mean cross-entropy of the support set  + lower_l2/2 |y|^2
    F(x, y) = mean cross-entropy of the query set,   logits = features(image) W + b

What is x and what is y are the roles (src/problems/adapting_network.py).

The hyper-representation of Franceschi et al., ICML 2018 (arXiv 1806.04910); Raghu et al., ICLR 2020
(arXiv 1909.09157); Finn et al., ICML 2017 (arXiv 1703.03400). Support and query pass through the
network as two batches; whose statistics batch norm takes is a choice of the model
(src/problems/adapting_network.py).
"""

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.mini_batches import rows
from bilevel.types import Array, BilevelProblem, Index, Metrics, Objectives, TaskSource, Tree
from src.data.episodes import BATCHES, episodes, episodes_apart, network_inputs, with_batches
from src.data.image_classes import ImageClasses
from src.models.model import Model
from src.problems.adapting_network import HeadInit, Roles, adapting_network

# K steps of size eta from zero act about like the ridge 1 / (eta K) = 2: of that order.
DAMPING = 1.0
# Images whose statistics stand for all training images (batch_norm=running).
SAMPLE_SIZE = 64
ABSENT = -1e9  # finite, so that derivatives of any order are 0 and not NaN
EVERY_MIX = {Objectives.f, Objectives.F, Objectives.f | Objectives.F}


def few_shot(
    data: ImageClasses,
    model: Model,
    roles: Roles,
    *,
    ways: int,
    shots: int,
    queries: int,
    train_ways: int | None = None,
    train_shots: int | None = None,
    train_queries: int | None = None,
    train_shots_per_step: int | None = None,
    lower_l2: float = 0.0,
    head_init: HeadInit = "zeros",
    overlap: bool = False,
) -> tuple[BilevelProblem, TaskSource]:
    """One task: {"support", "query"}, each {"images", "labels"}.

    Training tasks may be of other numbers than those of validation and test (train_ways, ...; None:
    the same). The head has an output for each class of the larger ones; those that a task has no
    class for are left out of its softmax.

    train_shots_per_step m: in training, lower step k descends on m shots of each class, the next m
    in each step and from the first again; None: on all. (Reptile learns from how its steps differ.)

    The head is {"weights": (d, ways), "bias": (ways,)}, the network the tree of `model`. Where the
    head alone adapts, the context holds {"support": (ways * shots, d), "query": (ways * queries,
    d)} features. `head_init` draws the first W: zeros (all tasks start at chance), xavier or normal
    (BOML's options). `overlap`: support and query are drawn independently of each other (BOML).

    Raises ValueError for roles that leave nothing to learn, a negative lower_l2, or episodes that
    the data does not admit.
    """
    if not lower_l2 >= 0:
        raise ValueError(f"lower_l2={lower_l2} must not be negative; choose lower_l2=0 for none")
    scoring = {"ways": ways, "shots": shots, "queries": queries}
    asked = {"ways": train_ways, "shots": train_shots, "queries": train_queries}
    training = {**scoring, **{name: n for name, n in asked.items() if n is not None}}
    if training == scoring:
        source = episodes(data, **scoring, overlap=overlap)
    else:
        source = episodes_apart(data, training=training, scoring=scoring, overlap=overlap)
    if train_shots_per_step is not None:
        source = with_batches(source, training["ways"], training["shots"], train_shots_per_step)
    one_width, width = training["ways"] == ways, max(training["ways"], ways)
    examples = jnp.zeros((1, *data.images.shape[2:]))
    if model.batch_norm == "running":
        examples = network_inputs(training_sample(data, SAMPLE_SIZE))
    network = adapting_network(model, roles, examples, width, head_init)

    def images_of(task: Tree) -> dict[str, Array]:
        return {part: task[part]["images"] for part in ("support", "query")}

    def prepare(x: Tree, task: Tree) -> Tree:
        return network.prepare(x, images_of(task))

    def logits(context: Tree, task: Tree, y: Tree, part: str) -> Array:
        if one_width:
            return network.outputs(context, y, part, images_of(task))
        there = classes_of(task)
        outputs = network.outputs(context, y, part, images_of(task), there)
        return of_its_classes(outputs, there)

    def classes_of(task: Tree) -> Array:
        """(width,): whether the task has this class. The labels are 0..ways - 1."""
        return jnp.arange(width) <= task["support"]["labels"].max()

    def lower_objective(context: Tree, task: Tree, y: Tree) -> Array:
        value = cross_entropy(logits(context, task, y, "support"), task["support"]["labels"])
        if lower_l2:
            of_its_own = y if one_width else without_classes(y, classes_of(task))
            value += 0.5 * lower_l2 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(of_its_own))
        return value

    def upper_objective(context: Tree, task: Tree, y: Tree) -> tuple[Array, Metrics]:
        scores, labels = logits(context, task, y, "query"), task["query"]["labels"]
        return cross_entropy(scores, labels), {"accuracy": accuracy(scores, labels)}

    def evaluate(x: Tree, context: Tree, task: Tree, y: Tree) -> Metrics:
        del x
        value, metrics = upper_objective(context, task, y)
        support = accuracy(logits(context, task, y, "support"), task["support"]["labels"])
        return {
            **metrics,
            "upper_loss": value,
            "lower_loss": lower_objective(context, task, y),
            "support_accuracy": support,
        }

    def mini_batch(context: Tree, task: Tree, k: Index) -> tuple[Tree, Tree]:
        if BATCHES not in task:  # in tests all support images are seen
            return context, task
        batches = task[BATCHES]
        taken = batches[(k - 1) % len(batches)]
        if "support" in context:
            context = {**context, "support": context["support"][taken]}
        return context, {**task, "support": rows(task["support"], taken)}

    def predict(x: Tree, task: Tree, y: Tree) -> dict[str, Array]:
        context = prepare(x, task)
        return {part: logits(context, task, y, part) for part in images_of(task)}

    of_step = ""
    if train_shots_per_step is not None:
        of_step = f"; each lower step of training sees {train_shots_per_step} shots of each class"
    problem = BilevelProblem(
        init_upper=network.init_upper,
        prepare=prepare,
        init_lower=network.init_lower,
        lower_objective=lower_objective,
        upper_objective=upper_objective,
        evaluate=evaluate,
        formulas={
            "f": f"f(x, y) = mean over the support set of CE({network.formula}, label)"
            + (f" + {lower_l2:g}/2 |y|^2" if lower_l2 else "")
            + of_step,
            "F": f"F(x, y) = mean over the query set of CE({network.formula}, label)",
        },
        learned_start=bool(roles.learn_start),
        # A constant added to all logits changes nothing, and so does any W outside the features.
        singular_hessians=frozenset({Objectives.F} if lower_l2 else EVERY_MIX),
        damping=0.0 if lower_l2 else DAMPING,
        predict=predict,
        mini_batch=None if train_shots_per_step is None else mini_batch,
    )
    return problem, source


def training_sample(data: ImageClasses, size: int) -> np.ndarray:
    """(size, height, width, channels): training images, always the same; all if too few."""
    classes, of_each = data.splits["train"], data.images.shape[1]
    counts = np.full(len(classes), of_each) if data.counts is None else data.counts[classes]
    owners = np.repeat(classes, counts)
    places = np.concatenate([np.arange(count) for count in counts])
    chosen = np.random.default_rng(0).permutation(len(owners))[:size]
    return data.images[owners[chosen], places[chosen]]


def of_its_classes(logits: Array, there: Array) -> Array:
    """Logits (n, width), ABSENT for a class that is not there: the softmax gives it 0.

    Its column of the head then has no gradient.
    """
    return jnp.where(there, logits, ABSENT)


def without_classes(y: Tree, there: Array) -> Tree:
    """y with 0 in the columns of its head for which the task has no class."""
    if "network" in y:
        return {**y, "head": without_classes(y["head"], there)}
    return jax.tree.map(lambda leaf: jnp.where(there, leaf, 0), y)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over rows of -log softmax(logits)[label]; logits (n, classes), labels (n,)."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -picked.mean()


def accuracy(logits: Array, labels: Array) -> Array:
    """Share of rows whose largest logit is the label's."""
    return (logits.argmax(-1) == labels).mean(dtype=logits.dtype)
