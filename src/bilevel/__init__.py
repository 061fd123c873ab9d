"""Bilevel optimisation in JAX: min over x of F(x, y*(x)), where y*(x) minimises f(x, y) over y.

    problem          a problem from two functions, their starts and their data
    hypergradient    one estimate of d F(x, y*(x)) / dx
    value_function   phi(x) = F(x, y_K(x)) for jax.grad and other people's optimizers
    minimize         the whole descent; minimizer: the same, iteration by iteration
    methods          rhg, trhg, bda, hoag, kkt, neumann, darts, sama, pzobo, fomaml, reptile, imaml,
                     f2sa, pbgd, pbgd_gradient, pbgd_free, bome, bvfsm, meha, lv_hba, soba, iaptt,
                     saba, srba, stocbio, amigo, mrbo, alternating
    method           one of your own

and the pieces that methods are made of: `descent` and `lower_only` (aggregations),
`lower_optimizers` (two more in files of their own: `bounded_sgd.bounded_sgd`,
`masked_sgd.masked_sgd`) and `lower_solvers`, `hypergradients`, `linear_solvers`,
`variance_reduction`.
Pure functions on pytrees; no configuration.
"""

from bilevel import (
    bounded_sgd,
    hypergradients,
    linear_solvers,
    lower_optimizers,
    lower_solvers,
    masked_sgd,
    methods,
    upper_optimizers,
    variance_reduction,
)
from bilevel.aggregation import descent, lower_only
from bilevel.algorithms.hypergradient_descent import hypergradient_descent
from bilevel.dynamics import compose
from bilevel.estimate import hypergradient, value_function
from bilevel.estimator import Hypergradient, HypergradientOutput, Target
from bilevel.lower_level import LowerLevel, LowerProblem, Point
from bilevel.methods import Method, method
from bilevel.minimization import minimize, minimizer
from bilevel.own_problem import Problem, problem
from bilevel.types import BilevelProblem, Exact, TaskSource

__all__ = [
    "BilevelProblem",
    "Exact",
    "Hypergradient",
    "HypergradientOutput",
    "LowerLevel",
    "LowerProblem",
    "Method",
    "Point",
    "Problem",
    "Target",
    "TaskSource",
    "bounded_sgd",
    "compose",
    "descent",
    "hypergradient",
    "hypergradient_descent",
    "hypergradients",
    "linear_solvers",
    "lower_only",
    "lower_optimizers",
    "lower_solvers",
    "masked_sgd",
    "method",
    "methods",
    "minimize",
    "minimizer",
    "problem",
    "upper_optimizers",
    "value_function",
    "variance_reduction",
]
