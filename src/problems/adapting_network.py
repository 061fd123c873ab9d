"""A network with a linear head as the variables of a bilevel problem, by the roles of its parts.

What is x and what is y (method.lower_variable, method.learn_start):

    head, false   x: network;             y = (W, b) from a fixed start (RHG, BDA; BOML's MetaFeat)
    head, true    x: network and head;    y = (W, b) from the learned head (ANIL)
    all, true     x: network and head;    y = both, from x (MAML; BOML's MetaInit)

What a model declares `fixed` (T-layers, warp layers) is a part of x in any case, and so is a matrix
behind a head whose start is learned, where the model `transforms_head`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

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
    """Which variables adapt below, and whether the upper level learns their start."""

    lower_variable: Literal["head", "all"]
    learn_start: bool


class AdaptingNetwork(NamedTuple):
    """init_upper(key) -> x, init_lower(key, x) -> y0, and the outputs in two stages.

    prepare(x, {part: inputs}) -> context: the features where the network does not adapt (its one
    pass per task), else what of it never adapts. outputs(context, y, part, inputs) -> (n, outputs).
    """

    init_upper: InitUpper
    init_lower: InitLower
    prepare: Callable[[Tree, dict[str, Array]], Tree]
    outputs: Callable[[Tree, Tree, str, Array], Array]
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
    model: Model, roles: Roles, example: Array, num_outputs: int, head_init: HeadInit
) -> AdaptingNetwork:
    """Features of `model` for inputs like `example` (1, ...), then W (d, num_outputs) and b.

    `head_init` draws the first W: zeros, xavier (uniform +-sqrt(6 / (d + outputs))) or normal
    (variance 1); b starts from zeros.

    Raises ValueError where the roles leave nothing to learn, and for a model that such inputs do
    not fit.
    """
    everything = roles.lower_variable == "all"
    if everything and not roles.learn_start:
        raise ValueError(
            "lower_variable=all with learn_start=false (method.*) leaves nothing to learn above: "
            "choose method.learn_start=true (MAML), or method.lower_variable=head"
        )
    weights, output = network_shapes(model, example)
    if not roles.learn_start and not jax.tree.leaves(weights):
        raise ValueError(
            "the model has no weights and method.learn_start=false, so nothing would be learned "
            "above: choose model=linear, or a method with a learned start, such as method=anil"
        )
    transformed = model.transforms_head and roles.learn_start

    def init_upper(key: Array) -> Tree:
        if not roles.learn_start:
            return model.init(key, example)
        network_key, head_key = jax.random.split(key)
        network = model.init(network_key, example)
        x = {"network": network, "head": draw_head(head_key, head_init, output, num_outputs)}
        return {**x, "transform": jnp.eye(num_outputs)} if transformed else x

    def prepare(x: Tree, inputs: dict[str, Array]) -> Tree:
        context = {"transform": x["transform"]} if transformed else {}
        if everything:
            fixed = split(x["network"], model.fixed)[1]
            return {**context, "fixed": fixed} if fixed else context
        network = x["network"] if roles.learn_start else x
        return {**context, **{part: model.apply(network, given) for part, given in inputs.items()}}

    def init_lower(key: Array, x: Tree) -> Tree:
        if everything:
            return {"network": split(x["network"], model.fixed)[0], "head": x["head"]}
        return x["head"] if roles.learn_start else draw_head(key, head_init, output, num_outputs)

    def outputs(context: Tree, y: Tree, part: str, inputs: Array) -> Array:
        if everything:
            network = merge(y["network"], context.get("fixed", {}))
            features, head = model.apply(network, inputs), y["head"]
        else:
            features, head = context[part], y
        found = features @ head["weights"] + head["bias"][None]
        return found @ context["transform"] if transformed else found

    features = "features(y, input)" if everything else "features(x, input)"
    formula = f"({features} W + b) T" if transformed else f"{features} W + b"
    return AdaptingNetwork(init_upper, init_lower, prepare, outputs, formula)


def split(weights: Tree, names: frozenset[str]) -> tuple[Tree, Tree]:
    """A dict of dicts without the leaves of these names, and those leaves alone."""
    kept = {m: {n: v for n, v in ws.items() if n not in names} for m, ws in weights.items()}
    taken = {m: {n: v for n, v in ws.items() if n in names} for m, ws in weights.items()}
    kept, taken = ({m: ws for m, ws in part.items() if ws} for part in (kept, taken))
    return kept, taken


def merge(one: Tree, other: Tree) -> Tree:
    """The dict of dicts that `split` took apart."""
    return {m: {**one.get(m, {}), **other.get(m, {})} for m in {**one, **other}}
