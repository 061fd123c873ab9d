"""Single loop: y, the multiplier q and x move together, one step each (SOBA; BAMM).

    y_k = y_{k-1} - eta d(x, y_{k-1}),             d = grad_y psi, psi = w_F F + w_f f
    q_k = q_{k-1} - rho (H q_{k-1} - grad_y F),    H = d d / dy + damping I, at y_{k-1}
    g   = dF/dx - (d d / dx)^T q_{K-1},            at y_{K-1}

Dagreou, Ablin, Vaiter, Moreau: A framework for bilevel optimization that enables stochastic and
global variance reduction algorithms, NeurIPS 2022 (arXiv 2201.13409), SOBA: K = 1. With
mini-batches each step draws rows of f and of F, the same for all three directions, each of which is
unbiased at (x, y, q). Where w_F is not 0 it is the single loop of bilevel averaging (sl-BAMM: Liu,
Liu, Yao, Zeng, Zhang, ICML 2023), with fixed weights. A moving average of g (MA-SOBA) is an upper
optimizer: momentum.

Time: per lower step a gradient of F and three of f. Memory: two lower iterates. Valid where H is
regular and x moves slowly against y and q; the task must be the same in every iteration.
"""

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.lower_level import LowerProblem, LowerState, Point
from bilevel.penalties import objectives
from bilevel.stationarity import relative_error
from bilevel.types import Array, Index, Tree


def single_loop(*, step_size: float = 0.1, damping: float | None = None) -> Hypergradient:
    """g = dF/dx - (d d / dx)^T q, where y and q take K steps from those of the iteration before.

    step_size: rho, of q. damping: added to H; None for the problem's own.
    Raises ValueError where step_size <= 0 or damping < 0; `check` does for tasks that change, for a
    Hessian that is known to be singular without damping, and where lower steps end in a projection.
    """
    if not step_size > 0:
        raise ValueError(f"step_size={step_size} must be positive; choose step_size=0.1")
    if damping is not None and not damping >= 0:
        raise ValueError(f"damping={damping} must not be negative; choose damping=0")

    def added(lower: LowerProblem) -> float:
        return lower.problem.damping if damping is None else damping

    def estimate(lower: LowerProblem, point: Point, carry: Tree, key: Array) -> HypergradientOutput:
        level = lower.at(point)

        def of_upper(moved: Point, y: Tree, k: Index) -> Array:
            return objectives(lower, k).F(moved.context, y)

        def directions(state: LowerState, q: Tree, k: Index) -> tuple[Tree, Tree, Tree, Point]:
            """d, H q, grad_y F, and g."""
            direction, pull_back = jax.vjp(
                lambda moved, y: lower.at(moved).direction(y, k), point, state.y
            )
            through, curved = pull_back(q)
            direct, slope = jax.grad(of_upper, argnums=(0, 1))(point, state.y, k)
            damped = jax.tree.map(lambda h, q: h + added(lower) * q, curved, q)
            return direction, damped, slope, jax.tree.map(jnp.subtract, direct, through)

        def body(now: tuple[LowerState, Tree, Point, Array], k: Index):
            state, q, *_ = now
            direction, applied, slope, gradient = directions(state, q, k)
            moved = jax.tree.map(lambda q, h, s: q - step_size * (h - s), q, applied, slope)
            error = relative_error(applied, slope)
            return (level.move(direction, state, k), moved, gradient, error), None

        nothing = jax.tree.map(jnp.zeros_like, point)
        start = (level.init(point.y0), carry, nothing, jnp.zeros(()))
        steps = jnp.arange(1, lower.num_steps + 1)
        (state, q, gradient, error), _ = lax.scan(body, start, steps)
        value, metrics = level.upper(state.y)
        return HypergradientOutput(value, gradient, state.y, metrics, {"linear_residual": error}, q)

    def check(lower: LowerProblem, shapes: Point) -> None:
        problem, dynamics = lower.problem, lower.dynamics
        if not lower.persistent:
            raise ValueError(
                "this estimator follows one task from iteration to iteration, but the problem "
                "draws new tasks; choose hypergradient=implicit_cg, or hypergradient=unrolled"
            )
        if dynamics.projection is not None:
            raise ValueError(
                "the linear system of this estimator knows no projection; choose "
                "hypergradient=implicit_cg, or lower_optimizer=sgd"
            )
        if dynamics.descends in problem.singular_hessians and not added(lower):
            raise ValueError(
                f"damping={added(lower)}: the Hessian of {dynamics.descends} in y is singular, so "
                "q grows without end; choose hypergradient.damping=0.1, or hypergradient=unrolled"
            )

    return Hypergradient(
        "single_loop",
        estimate,
        f"g = dF/dx - (d grad_y psi / dx)^T q;  q moves by {step_size:g} (grad_y F - H q) in each "
        "lower step, H = Hessian of psi in y + damping;  psi = what the lower steps descend",
        None,
        differentiates=frozenset({"context", "aggregation"}),
        through_steps=False,
        needs_stationarity=True,
        follows=True,
        init=lambda lower, y0: jax.tree.map(jnp.zeros_like, y0),
        check=check,
    )
