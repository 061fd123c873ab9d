"""Aggregation laws: how the two objectives share lower step k = 1..K.

A law is a function (alpha, k, **options) -> (a_k, b_k); the step then moves along
s a_k grad F + t b_k grad f. Adding a law is adding a function here: `aggregation.law` names it,
its keyword-only arguments are the options it admits, and the first line of its docstring is what
`python -m src.describe` prints.
"""

from bilevel.types import Array


def constant(alpha: Array, k: Array | int) -> tuple[Array, Array]:
    """a_k = alpha, b_k = 1 - alpha.

    Has a fixed point for every alpha in (0, 1); solves the counter-example exactly.
    """
    del k
    return alpha, 1 - alpha


def harmonic(alpha: Array, k: Array | int) -> tuple[Array, Array]:
    """a_k = alpha / k, b_k = 1 - alpha / k.

    BOML's law; within the theory of Liu et al. (ICML 2020), which asks for a_k of order 1 / k.
    """
    share = alpha / k
    return share, 1 - share


def geometric(alpha: Array, k: Array | int, *, ratio: float = 0.9) -> tuple[Array, Array]:
    """a_k = alpha ratio^(k-1), b_k = 1 - alpha ratio^(k-1).

    Summable, hence outside the theory: the pull of F dies out after about 1 / (1 - ratio) steps.
    """
    share = alpha * ratio ** (k - 1)
    return share, 1 - share


def upper_geometric(alpha: Array, k: Array | int, *, ratio: float = 0.9) -> tuple[Array, Array]:
    """a_k = alpha ratio^(k-1), b_k = 1 - alpha.

    The law of the BDA authors' repository: only the upper part fades. Summable, as `geometric`.
    """
    return alpha * ratio ** (k - 1), 1 - alpha


def per_step(alpha: Array, k: Array | int) -> tuple[Array, Array]:
    """a_k = alpha_k, b_k = 1 - alpha_k, one alpha per lower step.

    BOML's `learn_alpha_itr`, without its absolute value (whose slope is 0 at the start 0).
    """
    share = alpha[k - 1] if alpha.ndim else alpha
    return share, 1 - share


def tpami(alpha: Array, k: Array | int, *, beta: float = 1.0) -> tuple[Array, Array]:
    """a_k = alpha / (k + 1), b_k = (1 - alpha) beta_k, beta_k = 1 - (1 - beta) / (k + 1).

    Liu et al. (TPAMI 2022) with mu = alpha: a step length of order 1 / k for F, and for f factors
    in [beta, 1] with |beta_k - beta_{k-1}| <= 2 (1 - beta) / (k + 1)^2.
    """
    return alpha / (k + 1), (1 - alpha) * (1 - (1 - beta) / (k + 1))
