"""Linear solvers for implicit differentiation: A q = b for a symmetric A given as a product.

Only this file and solver_iterations.py know jaxopt (0.8.5, no longer maintained): everything else
sees (matvec, b, ...) -> q on pytrees. tests/test_linear_solve.py guards what is relied on.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from bilevel.types import Array, Tree

Matvec = Callable[[Tree], Tree]


def load_jaxopt() -> Any:
    """The package jaxopt, imported at its first use.

    Its import takes about two seconds and warns that nobody maintains it any more. A program that
    uses neither a Krylov solver nor a lower solver pays for none of this.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "JAXopt is no longer maintained", DeprecationWarning)
        import jaxopt
        import jaxopt.linear_solve
    return jaxopt


def conjugate_gradient(
    matvec: Matvec, b: Tree, start: Tree, tolerance: Array, max_steps: int
) -> Tree:
    """CG (Hestenes and Stiefel, 1952) until |A q - b| <= tolerance |b|; A positive definite."""
    return _scaled(
        lambda b, start: load_jaxopt().linear_solve.solve_cg(
            matvec, b, init=start, tol=tolerance, maxiter=max_steps
        ),
        b,
        start,
    )


def normal_conjugate_gradient(
    matvec: Matvec, b: Tree, start: Tree, tolerance: Array, max_steps: int
) -> Tree:
    """CG on A^T A q = A^T b, |A^T (A q - b)| <= tolerance |A^T b|; A merely regular."""
    return _scaled(
        lambda b, start: load_jaxopt().linear_solve.solve_normal_cg(
            matvec, b, init=start, tol=tolerance, maxiter=max_steps
        ),
        b,
        start,
    )


def gmres(
    matvec: Matvec, b: Tree, start: Tree, tolerance: Array, max_steps: int, restart: int
) -> Tree:
    """GMRES(restart) until |A q - b| <= tolerance |b|; A regular.

    At most max_steps steps, in whole restarts, each of which costs one product more.
    """
    restart = min(restart, max_steps)
    return _scaled(
        lambda b, start: load_jaxopt().linear_solve.solve_gmres(
            matvec,
            b,
            init=start,
            tol=tolerance,
            maxiter=max_steps // restart,
            restart=restart,
        ),
        b,
        start,
    )


def _scaled(solve: Callable[[Tree, Tree], Tree], b: Tree, start: Tree) -> Tree:
    """size solve(b / size, start / size), size a power of two near |b|; zero where b is.

    The solvers have thresholds that are absolute, and squares that float32 cannot hold.
    """
    largest = jnp.max(jnp.abs(ravel_pytree(b)[0]), initial=0)
    size = jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1]), 0)
    factor = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
    unit, near = (jax.tree.map(lambda leaf: leaf * factor, tree) for tree in (b, start))
    return jax.tree.map(lambda leaf: leaf * size, solve(unit, near))


def spectral_norm(matvec: Matvec, like: Tree, key: Array, num_products: int = 10) -> Array:
    """A lower bound of |A|, by power iteration from a random vector like `like`; A symmetric.

    After 10 products it is seldom under a half of |A|, which is what the step of a series needs.
    """
    flat, unravel = ravel_pytree(like)

    def body(vector: Array, _: None) -> tuple[Array, Array]:
        product = ravel_pytree(matvec(unravel(vector)))[0]
        size = jnp.linalg.norm(product)
        return product / jnp.where(size > 0, size, 1), size

    vector = jax.random.normal(key, flat.shape, flat.dtype)
    _, sizes = lax.scan(body, vector / jnp.linalg.norm(vector), None, length=num_products)
    return sizes[-1]


def neumann(matvec: Matvec, b: Tree, step_size: Array | float, num_terms: int) -> Tree:
    """q = step_size sum_{j < num_terms} (I - step_size A)^j b; needs step_size |A| < 2."""

    def body(carry: tuple[Tree, Tree], _: None) -> tuple[tuple[Tree, Tree], None]:
        total, term = carry
        total = jax.tree.map(jnp.add, total, term)
        term = jax.tree.map(lambda p, a: p - step_size * a, term, matvec(term))
        return (total, term), None

    zero = jax.tree.map(jnp.zeros_like, b)
    (total, _), _ = lax.scan(body, (zero, b), None, length=num_terms)
    return jax.tree.map(lambda leaf: step_size * leaf, total)


def nystrom(matvec: Matvec, b: Tree, columns: Array, damping: float) -> Tree:
    """q = (A_c A_cc^+ A_c^T + damping I)^{-1} b from the columns A_c = A[:, columns].

    Through the singular values of A_c A_cc^{-1/2}, which float32 survives where the textbook's
    difference of two terms of size 1 / damping does not. The part of A_cc that is not positive is
    dropped.
    """
    flat, unravel = ravel_pytree(b)

    def column(index: Array) -> Array:
        return ravel_pytree(matvec(unravel(jnp.zeros_like(flat).at[index].set(1))))[0]

    tall = jax.vmap(column, out_axes=1)(columns)
    core = tall[columns]
    values, vectors = jnp.linalg.eigh((core + core.T) / 2)
    kept = values > values.size * jnp.finfo(flat.dtype).eps * jnp.abs(values).max()
    inverse_root = jnp.where(kept, lax.rsqrt(jnp.where(kept, values, 1)), 0)
    basis, singular, _ = jnp.linalg.svd(tall @ (vectors * inverse_root[None]), full_matrices=False)
    inside = basis.T @ flat
    rest = flat - basis @ inside
    again = basis.T @ rest  # twice: rounding errors would be divided by the damping
    inside, rest = inside + again, rest - basis @ again
    solved = basis @ (inside / (singular**2 + damping)) + rest / damping
    return unravel(solved)
