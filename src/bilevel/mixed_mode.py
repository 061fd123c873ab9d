"""Lower steps whose reverse pass takes second derivatives by forward mode over reverse mode.

Reverse mode through y_k = y_{k-1} - eta d(z, y_{k-1}), z the point, needs v^T d d / d(z, y) for the
direction d = grad_y psi. Second derivatives are symmetric, so this is one derivative along v:

    v^T d(grad_y psi) / d(z, y) = d/de grad_{z, y} psi(z, y + e v)  at e = 0

Nothing but z and y has to be kept for it, where reverse over reverse mode keeps every layer of a
network (Kemaev, Calian, Zintgraf, Farquhar, van Hasselt: Scalable meta-learning via mixed-mode
differentiation, ICML 2025, arXiv 2505.00793).
"""

import jax

from bilevel.lower_level import LowerLevel, LowerProblem, Point
from bilevel.step_types import DynamicsParams
from bilevel.types import Array, Index, Tree


def level_of_mixed_mode(lower: LowerProblem, point: Point) -> LowerLevel:
    """The lower level at a point; reverse mode through its steps keeps z and the iterates alone.

    The same numbers up to rounding. Reverse mode only: jax refuses forward mode through it.
    """

    def psi(context: Tree, params: DynamicsParams, task: Tree, y: Tree, k: Index) -> Array:
        return lower._replace(task=task).at(Point(context, params, ())).objective(y, k)

    @jax.custom_vjp
    def direction(context: Tree, params: DynamicsParams, task: Tree, y: Tree, k: Index) -> Tree:
        return jax.grad(psi, 3)(context, params, task, y, k)

    def forward(*arguments: Tree) -> tuple[Tree, tuple[Tree, ...]]:
        return direction(*arguments), arguments

    def backward(arguments: tuple[Tree, ...], v: Tree) -> tuple[Tree, ...]:
        context, params, task, y, k = arguments

        def gradients(y: Tree) -> tuple[Tree, ...]:
            return jax.grad(psi, (0, 1, 3))(context, params, task, y, k)

        of_context, of_params, of_y = jax.jvp(gradients, (y,), (v,))[1]
        return of_context, of_params, None, of_y, None  # task and k have no derivative

    direction.defvjp(forward, backward)
    return lower.at(point)._replace(
        direction=lambda y, k: direction(point.context, point.dynamics_params, lower.task, y, k)
    )
