"""Few-shot classification: a shared feature network above, one softmax head per task below.

    f(x, y) = mean cross-entropy of the support set  + lower_l2/2 |y|^2
    F(x, y) = mean cross-entropy of the query set,   logits = features(x, image) W + b, y = (W, b)

The hyper-representation setting of Franceschi et al., ICML 2018 (arXiv 1806.04910), and of
BOML's MetaFeat. Support and query pass through the network as two batches, so the statistics
of batch norm never mix.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from src.bilevel.types import Array, BilevelProblem, Metrics, Model, Roles, TaskSource, Tree
from src.data.episodes import episodes
from src.data.image_classes import ImageClasses

HeadInit = Literal["zeros", "xavier", "normal"]
HEADS = {
    "zeros": jax.nn.initializers.zeros,
    "xavier": jax.nn.initializers.glorot_uniform(),
    "normal": jax.nn.initializers.normal(1.0),
}


def few_shot(
    data: ImageClasses,
    model: Model,
    roles: Roles,
    *,
    ways: int,
    shots: int,
    queries: int,
    lower_l2: float = 0.0,
    head_init: HeadInit = "zeros",
) -> tuple[BilevelProblem, TaskSource]:
    """x: weights of `model`; y: {"weights": (d, ways), "bias": (ways,)}, the bias from zeros.

    context: {"support": (ways * shots, d), "query": (ways * queries, d)} features. `head_init`
    draws the weights that y starts from: zeros (all tasks start at chance), xavier (BOML's option,
    uniform +-sqrt(6 / (d + ways))) or normal (variance 1).

    Raises ValueError for roles other than head / false, a negative lower_l2, or episodes that the
    data does not admit.
    """
    if roles != Roles("head", False):
        raise ValueError(
            f"lower_variable={roles.lower_variable}, learn_start={roles.learn_start} (method.*) is "
            "not offered: the features are learned above, a head per task adapts below; "
            "choose method.lower_variable=head method.learn_start=false"
        )
    if not lower_l2 >= 0:
        raise ValueError(f"lower_l2={lower_l2} must not be negative; choose lower_l2=0 for none")
    draw_head = HEADS[head_init]
    source = episodes(data, ways=ways, shots=shots, queries=queries)
    image_shape = data.images.shape[2:]

    def init_upper(key: Array) -> Tree:
        return model.init(key, jnp.zeros((1, *image_shape)))

    def prepare(x: Tree, task: Tree) -> Tree:
        return {part: model.apply(x, task[part]["images"]) for part in ("support", "query")}

    def init_lower(key: Array, x: Tree) -> Tree:
        features = jax.eval_shape(model.apply, x, jnp.zeros((1, *image_shape)))
        shape, dtype = (features.shape[-1], ways), features.dtype
        return {"weights": draw_head(key, shape, dtype), "bias": jnp.zeros(ways, dtype)}

    def logits(context: Tree, y: Tree, part: str) -> Array:
        return context[part] @ y["weights"] + y["bias"]

    def lower_objective(context: Tree, task: Tree, y: Tree, batch: Tree) -> Array:
        del batch  # a support set is small: always all of it
        value = cross_entropy(logits(context, y, "support"), task["support"]["labels"])
        if lower_l2:
            value += 0.5 * lower_l2 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))
        return value

    def upper_objective(context: Tree, task: Tree, y: Tree, batch: Tree) -> tuple[Array, Metrics]:
        del batch
        scores, labels = logits(context, y, "query"), task["query"]["labels"]
        return cross_entropy(scores, labels), {"accuracy": accuracy(scores, labels)}

    def evaluate(x: Tree, context: Tree, task: Tree, y: Tree) -> Metrics:
        del x
        value, metrics = upper_objective(context, task, y, None)
        support = accuracy(logits(context, y, "support"), task["support"]["labels"])
        return {
            **metrics,
            "upper_loss": value,
            "lower_loss": lower_objective(context, task, y, None),
            "support_accuracy": support,
        }

    problem = BilevelProblem(
        init_upper=init_upper,
        prepare=prepare,
        init_lower=init_lower,
        lower_objective=lower_objective,
        upper_objective=upper_objective,
        evaluate=evaluate,
        formulas={
            "f": "f(x, y) = mean over the support set of CE(features(x, image) W + b, label)"
            + (f" + {lower_l2:g}/2 |y|^2" if lower_l2 else ""),
            "F": "F(x, y) = mean over the query set of CE(features(x, image) W + b, label)",
        },
    )
    return problem, source


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over rows of -log softmax(logits)[label]; logits (n, classes), labels (n,)."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -picked.mean()


def accuracy(logits: Array, labels: Array) -> Array:
    """Share of rows whose largest logit is the label's."""
    return (logits.argmax(-1) == labels).mean(dtype=logits.dtype)
