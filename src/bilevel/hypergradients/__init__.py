"""Hypergradient estimators, one file each: a factory of options that returns a `Hypergradient`."""

from bilevel.hypergradients.finite_difference import finite_difference
from bilevel.hypergradients.first_order import first_order
from bilevel.hypergradients.forward import forward
from bilevel.hypergradients.implicit import implicit
from bilevel.hypergradients.reptile import reptile
from bilevel.hypergradients.truncated import one_step, truncated
from bilevel.hypergradients.unrolled import unrolled
from bilevel.hypergradients.warp_grad import warp_grad

__all__ = [
    "finite_difference",
    "first_order",
    "forward",
    "implicit",
    "one_step",
    "reptile",
    "truncated",
    "unrolled",
    "warp_grad",
]
