"""Few-shot classification: a network shared by all tasks, a part of it that adapts to each.

    f(x, y) = mean cross-entropy of the support set  + lower_l2/2 |y|^2
    F(x, y) = mean cross-entropy of the query set,   logits = features(image) W + b

What is x and what is y are the roles (method.lower_variable, method.learn_start):

    head, false   x: network;             y = (W, b) from a fixed start (RHG, BDA; BOML's MetaFeat)
    head, true    x: network and head;    y = (W, b) from the learned head (ANIL)
    all, true     x: network and head;    y = both, from x (MAML; BOML's MetaInit)

The hyper-representation of Franceschi et al., ICML 2018 (arXiv 1806.04910); Raghu et al., ICLR 2020
(arXiv 1909.09157); Finn et al., ICML 2017 (arXiv 1703.03400). Support and query pass through the
network as two batches, so the statistics of batch norm never mix.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from src.bilevel.types import Array, BilevelProblem, Metrics, Model, Roles, TaskSource, Tree
from src.data.episodes import episodes
from src.data.image_classes import ImageClasses

HeadInit = Literal["zeros", "xavier", "normal"]
# K steps of size eta from zero act about like the ridge 1 / (eta K) = 2: of that order.
DAMPING = 1.0
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
    """One task: {"support", "query"}, each {"images", "labels"}.

    The head is {"weights": (d, ways), "bias": (ways,)}, the network the tree of `model`. Where the
    head alone adapts, the context is {"support": (ways * shots, d), "query": (ways * queries, d)}
    features, else empty: x then acts through the start. `head_init` draws the first W: zeros (all
    tasks start at chance), xavier (BOML's option, uniform +-sqrt(6 / (d + ways))) or normal
    (variance 1); the bias starts from zeros.

    Raises ValueError for lower_variable=all without a learned start, a negative lower_l2, or
    episodes that the data does not admit.
    """
    everything = roles.lower_variable == "all"
    if everything and not roles.learn_start:
        raise ValueError(
            "lower_variable=all with learn_start=false (method.*) leaves nothing to learn above: "
            "choose method.learn_start=true (MAML), or method.lower_variable=head"
        )
    if not lower_l2 >= 0:
        raise ValueError(f"lower_l2={lower_l2} must not be negative; choose lower_l2=0 for none")
    source = episodes(data, ways=ways, shots=shots, queries=queries)
    image = jnp.zeros((1, *data.images.shape[2:]))

    def draw_head(key: Array, network: Tree) -> Tree:
        features = jax.eval_shape(model.apply, network, image)
        shape, dtype = (features.shape[-1], ways), features.dtype
        return {"weights": HEADS[head_init](key, shape, dtype), "bias": jnp.zeros(ways, dtype)}

    def init_upper(key: Array) -> Tree:
        if not roles.learn_start:
            return model.init(key, image)
        network_key, head_key = jax.random.split(key)
        network = model.init(network_key, image)
        return {"network": network, "head": draw_head(head_key, network)}

    def prepare(x: Tree, task: Tree) -> Tree:
        if everything:
            return {}
        network = x["network"] if roles.learn_start else x
        return {part: model.apply(network, task[part]["images"]) for part in ("support", "query")}

    def init_lower(key: Array, x: Tree) -> Tree:
        if everything:
            return x
        return x["head"] if roles.learn_start else draw_head(key, x)

    def logits(context: Tree, task: Tree, y: Tree, part: str) -> Array:
        if everything:
            features, head = model.apply(y["network"], task[part]["images"]), y["head"]
        else:
            features, head = context[part], y
        return features @ head["weights"] + head["bias"]

    def lower_objective(context: Tree, task: Tree, y: Tree, batch: Tree) -> Array:
        del batch  # a support set is small: always all of it
        value = cross_entropy(logits(context, task, y, "support"), task["support"]["labels"])
        if lower_l2:
            value += 0.5 * lower_l2 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))
        return value

    def upper_objective(context: Tree, task: Tree, y: Tree, batch: Tree) -> tuple[Array, Metrics]:
        del batch
        scores, labels = logits(context, task, y, "query"), task["query"]["labels"]
        return cross_entropy(scores, labels), {"accuracy": accuracy(scores, labels)}

    def evaluate(x: Tree, context: Tree, task: Tree, y: Tree) -> Metrics:
        del x
        value, metrics = upper_objective(context, task, y, None)
        support = accuracy(logits(context, task, y, "support"), task["support"]["labels"])
        return {
            **metrics,
            "upper_loss": value,
            "lower_loss": lower_objective(context, task, y, None),
            "support_accuracy": support,
        }

    features = "features(y, image)" if everything else "features(x, image)"
    problem = BilevelProblem(
        init_upper=init_upper,
        prepare=prepare,
        init_lower=init_lower,
        lower_objective=lower_objective,
        upper_objective=upper_objective,
        evaluate=evaluate,
        formulas={
            "f": f"f(x, y) = mean over the support set of CE({features} W + b, label)"
            + (f" + {lower_l2:g}/2 |y|^2" if lower_l2 else ""),
            "F": f"F(x, y) = mean over the query set of CE({features} W + b, label)",
        },
        learned_start=roles.learn_start,
        # A constant added to all logits changes nothing, and so does any W outside the features.
        singular_hessians=("F",) if lower_l2 else ("f", "F", "f + F"),
        damping=0.0 if lower_l2 else DAMPING,
    )
    return problem, source


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over rows of -log softmax(logits)[label]; logits (n, classes), labels (n,)."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -picked.mean()


def accuracy(logits: Array, labels: Array) -> Array:
    """Share of rows whose largest logit is the label's."""
    return (logits.argmax(-1) == labels).mean(dtype=logits.dtype)
