"""The largest eigenvalue of the lower Hessian, as a score beside the others."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from bilevel.power_method import first_vector, power_step
from bilevel.types import Array, BilevelProblem, Metrics, Tree

SCORE = "largest_eigenvalue"
ITERATIONS = 50  # of the power method


def with_curvature(problem: BilevelProblem) -> BilevelProblem:
    """The problem whose scores hold the largest eigenvalue of the Hessian of f in y, at this y.

    Steps of gradient descent of a size above 2 / largest_eigenvalue leave a minimiser of f.
    """

    def evaluate(x: Tree, context: Tree, task: Tree, y: Tree) -> Metrics:
        def lower_gradient(y: Tree) -> Tree:
            return jax.grad(lambda y: problem.lower_objective(context, task, y))(y)

        def times_hessian(vector: Tree) -> Tree:
            return jax.jvp(lower_gradient, (y,), (vector,))[1]

        scores = dict(problem.evaluate(x, context, task, y))
        return {**scores, SCORE: largest_eigenvalue(times_hessian, y)}

    return problem._replace(evaluate=evaluate)


def largest_eigenvalue(times_matrix: Callable[[Tree], Tree], like: Tree) -> Array:
    """Of a symmetric matrix, the eigenvalue of largest magnitude, with its sign.

    The power method from a fixed random vector of the form of `like`, 50 products. Its value is a
    Rayleigh quotient: not above the true one, and short of it where others are nearly as large.
    """

    def step(vector: Tree, _: None) -> tuple[Tree, Array]:
        unit, product = power_step(times_matrix, vector)
        return product, jnp.asarray(optax.tree.vdot(unit, product))

    _, quotients = jax.lax.scan(step, first_vector(like), None, length=ITERATIONS)
    return quotients[-1]
