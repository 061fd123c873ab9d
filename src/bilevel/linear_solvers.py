"""Linear solvers of implicit differentiation: what stands for the inverse of A in A q = b.

    cg, normal_cg, gmres   the inverse itself, to a tolerance
    neumann                the first terms of its series
    nystrom                the inverse of a low-rank approximation of A
    identity               the identity matrix

The numerical routines are in linear_solve.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from bilevel import linear_solve
from bilevel import option_checks as check
from bilevel.estimator import NOTHING
from bilevel.linear_solve import Matvec
from bilevel.types import Array, Tree


class Equation(NamedTuple):
    """A q = b for a symmetric A, given as a product.

    damping    0 where the products have it already
    start      a q to start from
    shrink     factor of a tolerance, from a schedule
    """

    matvec: Matvec
    b: Tree
    damping: float
    start: Tree
    shrink: Array | float


class Solve(Protocol):
    def __call__(self, equation: Equation, key: Array) -> Tree:
        """q."""
        ...


class DenseInverse(Protocol):
    def __call__(self, matrix: Array, damping: float, key: Array) -> Array:
        """The matrix that takes the place of the inverse, for a dense A."""
        ...


class LinearSolver(NamedTuple):
    """How A q = b is solved, or what takes the place of solving it.

    name             as in conf/hypergradient/implicit_<name>.yaml
    formula          the solver in words
    inverse          the dense matrix that it stands for, written apart from `solve`: the reference
                     that certification differentiates
    stands_for       what takes the place of the inverse, in words; "" for the inverse itself
    uses_start       whether a start helps
    adds_damping     whether it adds the damping itself; else the products have it
    damping          what it takes where neither option nor problem says; 0 if it needs none
    has_residual     whether |A q - b| says how well it did
    certified_with, exact_with, work    as in Hypergradient
    """

    name: str
    formula: str
    solve: Solve
    inverse: DenseInverse
    stands_for: str = ""
    uses_start: bool = False
    adds_damping: bool = False
    damping: float = 0.0
    has_residual: bool = True
    certified_with: Mapping[str, Sequence[Any]] = NOTHING
    exact_with: Mapping[str, Any] | None = None
    work: str = ""


def cg(*, tolerance: float = 1e-6, max_steps: int = 100) -> LinearSolver:
    """Conjugate gradients (HOAG, AID-CG): A positive definite.

    About sqrt(condition number) products; memory: a few vectors. Hestenes and Stiefel, 1952.
    """
    return _krylov(
        "cg", "conjugate gradients", linear_solve.conjugate_gradient, tolerance, max_steps
    )


def normal_cg(*, tolerance: float = 1e-6, max_steps: int = 100) -> LinearSolver:
    """Conjugate gradients on A^T A q = A^T b: A merely regular.

    Two products a step, about (condition number) steps. Does not break down where A is indefinite
    (a saddle, a non-convex f); the tolerance is that of the normal equations. Grazzi, Franceschi,
    Pontil, Salzo, ICML 2020 (arXiv 2006.16218) discuss both systems.
    """
    return _krylov(
        "normal_cg",
        "conjugate gradients on the normal equations",
        linear_solve.normal_conjugate_gradient,
        tolerance,
        max_steps,
    )


def gmres(*, tolerance: float = 1e-6, max_steps: int = 100, restart: int = 20) -> LinearSolver:
    """GMRES(restart) (Saad and Schultz, 1986): A regular; memory: `restart` vectors.

    Its residual never grows, also where A is indefinite. Raises ValueError where restart < 1.
    """
    restart = check.whole_number("restart", restart, least=None)
    if restart < 1:
        raise ValueError(f"restart={restart} must be at least 1; choose restart=20")
    solver = _krylov(
        "gmres", "GMRES", partial(linear_solve.gmres, restart=restart), tolerance, max_steps
    )
    return solver._replace(
        certified_with={**solver.certified_with, "restart": (200,)},
        exact_with={**(solver.exact_with or {}), "restart": 200},
    )


def neumann(*, step_size: float | None = None, num_terms: int = 50) -> LinearSolver:
    """q = eta sum_{j < m} (I - eta A)^j b, m = num_terms (Lorraine et al., AISTATS 2020, Alg. 3).

    m terms equal the last m of infinitely many unrolled steps of SGD with step eta. The paper takes
    the step of the lower level for eta; where eta |A| > 2 the series diverges. step_size=None takes
    1 / |A| from ten power iterations, for each task. Too few terms bias q towards b, as early
    stopping does.

    Raises ValueError on a value outside its range.
    """
    check.numbers(step_size=step_size)
    num_terms = check.whole_number("num_terms", num_terms, least=None)
    if step_size is not None and not 0 < step_size < math.inf:
        raise ValueError(
            f"step_size={step_size} must be positive and finite; null takes 1 / |H|, measured"
        )
    if num_terms < 1:
        raise ValueError(f"num_terms={num_terms} must be at least 1; choose num_terms=50")

    def eta(matvec: Matvec, like: Tree, key: Array) -> Array | float:
        if step_size is not None:
            return step_size
        norm = linear_solve.spectral_norm(matvec, like, key)
        return 1 / jnp.where(norm > 0, norm, 1)

    def solve(equation: Equation, key: Array) -> Tree:
        size = eta(equation.matvec, equation.b, key)
        return linear_solve.neumann(equation.matvec, equation.b, size, num_terms)

    def inverse(matrix: Array, damping: float, key: Array) -> Array:
        identity = jnp.eye(len(matrix), dtype=matrix.dtype)
        size = eta(lambda vector: matrix @ vector, matrix[0], key)
        total = power = identity
        for _ in range(num_terms - 1):
            power = power @ (identity - size * matrix)
            total = total + power
        return size * total

    return LinearSolver(
        "neumann",
        f"{num_terms} terms of the Neumann series",
        solve,
        inverse,
        stands_for="the series",
        certified_with={"step_size": (0.05, None), "num_terms": (7,)},
        exact_with={"num_terms": 4000},
        work="num_terms",
    )


def nystrom(*, rank: int = 20) -> LinearSolver:
    """q = (A_c A_cc^+ A_c^T + damping I)^-1 b from `rank` random columns A_c of A.

    A_cc^+ is the pseudo-inverse of the positive part of the rows A_cc of A_c of the same index
    (Hataya, Yamada, AISTATS 2023, arXiv 2302.09726). The columns are drawn anew for every task and
    iteration; all of them are taken where y has fewer. `rank` products in one batch, no iteration;
    memory: `rank` vectors. For a positive semi-definite A with few large eigenvalues: what the
    columns miss is taken as damping alone.

    Raises ValueError where rank < 1.
    """
    rank = check.whole_number("rank", rank, least=None)
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1; choose rank=20")

    def columns(key: Array, size: int) -> Array:
        """min(rank, size) of them without repetition."""
        return jax.random.permutation(key, size)[:rank]

    def solve(equation: Equation, key: Array) -> Tree:
        size = sum(leaf.size for leaf in jax.tree.leaves(equation.b))
        return linear_solve.nystrom(
            equation.matvec, equation.b, columns(key, size), equation.damping
        )

    def inverse(matrix: Array, damping: float, key: Array) -> Array:
        chosen = columns(key, len(matrix))
        core = matrix[chosen][:, chosen]
        values, vectors = jnp.linalg.eigh(core)
        of_core = (vectors * jnp.where(values > 1e-12, 1 / values, 0)[None]) @ vectors.T
        low_rank = matrix[:, chosen] @ of_core @ matrix[:, chosen].T
        return jnp.linalg.inv(low_rank + damping * jnp.eye(len(matrix), dtype=matrix.dtype))

    return LinearSolver(
        "nystrom",
        f"a Nystrom approximation of rank {rank}",
        solve,
        inverse,
        stands_for="the approximation",
        adds_damping=True,
        damping=0.1,
        certified_with={"rank": (3,)},
        exact_with={"damping": 1e-9, "rank": 10},
        work="rank",
    )


def identity() -> LinearSolver:
    """q = b: the inverse Hessian replaced by the identity (T1-T2).

    Luketina, Berglund, Greff, Raiko, ICML 2016 (arXiv 1511.06727). No product at all; right up to a
    factor where H is near a multiple of the identity.
    """
    return LinearSolver(
        "identity",
        "the identity in place of the inverse",
        lambda equation, key: equation.b,
        lambda matrix, damping, key: jnp.eye(len(matrix), dtype=matrix.dtype),
        stands_for="the identity",
        has_residual=False,
    )


def _krylov(
    name: str, formula: str, routine: Callable[..., Tree], tolerance: float, max_steps: int
) -> LinearSolver:
    """routine(matvec, b, start, tolerance, max_steps) -> q, to max(tolerance shrink, epsilon)."""
    tolerance = check.number("tolerance", tolerance)
    max_steps = check.whole_number("max_steps", max_steps, least=None)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance} is outside (0, 1); choose tolerance=1e-6")
    if max_steps < 1:
        raise ValueError(f"max_steps={max_steps} must be at least 1; choose max_steps=100")

    def solve(equation: Equation, key: Array) -> Tree:
        epsilon = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(equation.b))
        wanted = jnp.maximum(tolerance * equation.shrink, epsilon)
        return routine(equation.matvec, equation.b, equation.start, wanted, max_steps)

    return LinearSolver(
        name,
        formula,
        solve,
        lambda matrix, damping, key: jnp.linalg.pinv(matrix, hermitian=True),
        uses_start=True,
        certified_with={"tolerance": (1e-14,), "max_steps": (4000,)},
        exact_with={"tolerance": 1e-13, "max_steps": 500},
        work="max_steps",
    )
