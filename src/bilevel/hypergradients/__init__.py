"""Hypergradient estimators, one file each: a factory of options that returns a `Hypergradient`."""

from bilevel.hypergradients.dynamic_barrier import dynamic_barrier
from bilevel.hypergradients.finite_difference import finite_difference
from bilevel.hypergradients.first_order import first_order
from bilevel.hypergradients.forward import forward
from bilevel.hypergradients.gradient_penalty import gradient_penalty
from bilevel.hypergradients.implicit import implicit
from bilevel.hypergradients.implicit_kkt import implicit_kkt
from bilevel.hypergradients.lv_hba import lv_hba
from bilevel.hypergradients.moreau_envelope import moreau_envelope
from bilevel.hypergradients.multi_step import multi_step
from bilevel.hypergradients.pessimistic import pessimistic
from bilevel.hypergradients.recursive_momentum import recursive_momentum
from bilevel.hypergradients.reptile import reptile
from bilevel.hypergradients.sama import sama
from bilevel.hypergradients.sequential_penalty import sequential_penalty
from bilevel.hypergradients.single_loop import single_loop
from bilevel.hypergradients.stochastic_implicit import stochastic_implicit
from bilevel.hypergradients.truncated import one_step, truncated
from bilevel.hypergradients.unrolled import unrolled
from bilevel.hypergradients.value_penalty import value_penalty
from bilevel.hypergradients.warp_grad import warp_grad
from bilevel.hypergradients.zeroth_order import zeroth_order

__all__ = [
    "dynamic_barrier",
    "finite_difference",
    "first_order",
    "forward",
    "gradient_penalty",
    "implicit",
    "implicit_kkt",
    "lv_hba",
    "moreau_envelope",
    "multi_step",
    "one_step",
    "pessimistic",
    "recursive_momentum",
    "reptile",
    "sama",
    "sequential_penalty",
    "single_loop",
    "stochastic_implicit",
    "truncated",
    "unrolled",
    "value_penalty",
    "warp_grad",
    "zeroth_order",
]
