"""A network with a linear head as the variables of a bilevel problem, by the roles of its parts.

What is x and what is y (method.lower_variable, method.learn_start):

    head, false   x: network;             y = (W, b) from a fixed start (RHG, BDA; BOML's MetaFeat)
    head, true    x: network and head;    y = (W, b) from the learned head (ANIL)
    all, true     x: network and head;    y = both, from x (MAML; BOML's MetaInit)
    all, network  x: network;             y = both, the head from a fixed start

From a head of zeros the first lower step moves the head alone: its output, and so the gradient of f
in the network, is zero times what the network does.

What a model declares `fixed` (T-layers, warp layers) is a part of x in any case, and so is a matrix
behind a head whose start is learned, where the model `transforms_head`.

Where the network has batch norm, its statistics (means and variances in every layer) are those of
(model.batch_norm)

    batch      the part at hand, support or query: what is said of one query depends on the others
    support    the support set, for the queries too
    running    a fixed sample of training inputs, under the weights in x: where the network adapts,
               its lower steps leave them as they are (what running averages are for)

Statistics follow from x, y and the data, and are differentiated like all else.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from bilevel.types import Array, InitLower, InitUpper, Tree
from src.models.model import Model

HeadInit = Literal["zeros", "xavier", "normal"]
HEADS = {
    "zeros": jax.nn.initializers.zeros,
    "xavier": jax.nn.initializers.glorot_uniform(),
    "normal": jax.nn.initializers.normal(1.0),
}


class Roles(NamedTuple):
    """Which variables adapt below, and whether the upper level learns their start.

    learn_start   "network": that of the network alone
    """

    lower_variable: Literal["head", "all"]
    learn_start: bool | Literal["network"]


class Outputs(Protocol):
    def __call__(
        self,
        context: Tree,
        y: Tree,
        part: str,
        inputs: dict[str, Array],
        there: Array | None = None,
    ) -> Array:
        """(n, outputs) of one part; where `there` (outputs,) is false an output counts as 0."""
        ...


class AdaptingNetwork(NamedTuple):
    """init_upper(key) -> x, init_lower(key, x) -> y0, and the outputs in two stages.

    prepare(x, {part: inputs}) -> context: the features where the network does not adapt (its one
    pass per task), else what of it never adapts. outputs(context, y, part, {part: inputs}) ->
    (n, outputs) of one part, "support" or another.
    """

    init_upper: InitUpper
    init_lower: InitLower
    prepare: Callable[[Tree, dict[str, Array]], Tree]
    outputs: Outputs
    formula: str


def network_shapes(model: Model, example: Array) -> tuple[Tree, jax.ShapeDtypeStruct]:
    """The shapes of a network's weights and of its features (1, d), for inputs like `example`.

    Raises ValueError for a model that such inputs do not fit.
    """
    try:
        weights = jax.eval_shape(model.init, jax.random.key(0), example)
        return weights, jax.eval_shape(model.apply, weights, example)
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"the model does not fit inputs of shape {example.shape[1:]} ({error}); choose another "
            "model=..., such as model=mlp"
        ) from error


def draw_head(
    key: Array, head_init: HeadInit, features: jax.ShapeDtypeStruct, num_outputs: int
) -> Tree:
    """{"weights": (d, num_outputs), "bias": zeros (num_outputs,)} for features (1, d)."""
    shape, dtype = (features.shape[-1], num_outputs), features.dtype
    return {"weights": HEADS[head_init](key, shape, dtype), "bias": jnp.zeros(num_outputs, dtype)}


def adapting_network(
    model: Model, roles: Roles, examples: Array, num_outputs: int, head_init: HeadInit
) -> AdaptingNetwork:
    """Features of `model` for inputs like `examples` (m, ...), then W (d, num_outputs) and b.

    With batch_norm=running the examples are what the statistics are taken of; else they are read
    for their shape alone. `head_init` draws the first W: zeros, xavier (uniform
    +-sqrt(6 / (d + outputs))) or normal (variance 1); b starts from zeros.

    Raises ValueError where the roles leave nothing to learn or contradict each other, and for a
    model that such inputs do not fit.
    """
    everything = roles.lower_variable == "all"
    example = examples[:1]
    if everything and not roles.learn_start:
        raise ValueError(
            "lower_variable=all with learn_start=false (method.*) leaves nothing to learn above: "
            "choose method.learn_start=true (MAML), or method.lower_variable=head"
        )
    if roles.learn_start == "network" and not everything:
        raise ValueError(
            "learn_start=network with lower_variable=head (method.*) leaves no learned start: "
            "choose method.learn_start=false, or a network that adapts, such as method=maml "
            "method.learn_start=network"
        )
    weights, output = network_shapes(model, example)
    learned_head = roles.learn_start is True
    if not learned_head and not jax.tree.leaves(weights):
        shown = str(roles.learn_start).lower()
        raise ValueError(
            f"the model has no weights and method.learn_start={shown}, so nothing would be learned "
            "above: choose model=linear, or a method with a learned start, such as method=anil"
        )
    transformed = model.transforms_head and roles.learn_start

    def init_upper(key: Array) -> Tree:
        if not roles.learn_start:
            return model.init(key, example)
        network_key, head_key = jax.random.split(key)
        x = {"network": model.init(network_key, example)}
        if learned_head:
            x["head"] = draw_head(head_key, head_init, output, num_outputs)
        return {**x, "transform": jnp.eye(num_outputs)} if transformed else x

    def prepare(x: Tree, inputs: dict[str, Array]) -> Tree:
        context = {"transform": x["transform"]} if transformed else {}
        network = x["network"] if roles.learn_start else x
        statistics = model.measure(network, examples)[1] if model.batch_norm == "running" else {}
        if not everything:
            return {**context, **features_of(model, network, inputs, list(inputs), statistics)}
        if statistics:
            context["statistics"] = statistics
        fixed = split(network, model.fixed)[1]
        return {**context, "fixed": fixed} if fixed else context

    def init_lower(key: Array, x: Tree) -> Tree:
        head = x["head"] if learned_head else draw_head(key, head_init, output, num_outputs)
        return (
            {"network": split(x["network"], model.fixed)[0], "head": head} if everything else head
        )

    def outputs(
        context: Tree, y: Tree, part: str, inputs: dict[str, Array], there: Array | None = None
    ) -> Array:
        if everything:
            network = merge(y["network"], context.get("fixed", {}))
            statistics = context.get("statistics", {})
            features = features_of(model, network, inputs, [part], statistics)[part]
            head = y["head"]
        else:
            features, head = context[part], y
        found = features @ head["weights"] + head["bias"][None]
        if there is not None:  # or T would mix into the others what is no class of the task
            found = jnp.where(there, found, 0)
        return found @ context["transform"] if transformed else found

    read = "y" if everything else "x"
    given = {"support": "; statistics of the support set", "running": "; statistics of training"}
    features = f"features({read}, input{given.get(model.batch_norm or '', '')})"
    formula = f"({features} W + b) T" if transformed else f"{features} W + b"
    return AdaptingNetwork(init_upper, init_lower, prepare, outputs, formula)


def start_of_outputs(y0: Tree, number: int) -> Tree:
    """A start of y whose head is zero, with another number of outputs."""
    if "network" in y0:
        return {**y0, "head": start_of_outputs(y0["head"], number)}
    return jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape[:-1], number), leaf.dtype), y0)


def features_of(
    model: Model, weights: Tree, inputs: dict[str, Array], parts: list[str], statistics: Tree
) -> dict[str, Array]:
    """{part: features (n, d)} of these parts of the inputs, batch norm as `model.batch_norm` says.

    statistics: of training, for batch_norm=running.
    """
    if model.batch_norm == "running":
        return {part: model.apply(weights, inputs[part], statistics) for part in parts}
    if model.batch_norm != "support":
        return {part: model.apply(weights, inputs[part]) for part in parts}
    of_support, measured = model.measure(weights, inputs["support"])
    return {
        part: of_support if part == "support" else model.apply(weights, inputs[part], measured)
        for part in parts
    }


def split(weights: Tree, names: frozenset[str]) -> tuple[Tree, Tree]:
    """A dict of dicts without the leaves of these names, and those leaves alone."""
    kept = {m: {n: v for n, v in ws.items() if n not in names} for m, ws in weights.items()}
    taken = {m: {n: v for n, v in ws.items() if n in names} for m, ws in weights.items()}
    kept, taken = ({m: ws for m, ws in part.items() if ws} for part in (kept, taken))
    return kept, taken


def merge(one: Tree, other: Tree) -> Tree:
    """The dict of dicts that `split` took apart."""
    return {m: {**one.get(m, {}), **other.get(m, {})} for m in {**one, **other}}
