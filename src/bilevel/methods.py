"""Methods: the choices that together say how a bilevel problem is solved.

    aggregation         in which direction the lower level moves
    lower_optimizer     how it moves
    hypergradient       how the result is differentiated
    num_lower_steps     K

Each function below is one published method with its choices open. Where the start of the lower
level is learned (MAML) is not a method's choice but the problem's: `lower_start(key, x)`.

The methods for mini-batches are in stochastic_methods.py, and functions of this module too.
"""

from typing import Literal, Unpack

from bilevel import hypergradients, linear_solvers
from bilevel import problem_checks as check
from bilevel.aggregation import Law, Learnable, descent
from bilevel.choices import LowerChoices, Method, following, method
from bilevel.estimator import Hypergradient
from bilevel.stochastic_methods import amigo as amigo
from bilevel.stochastic_methods import mrbo as mrbo
from bilevel.stochastic_methods import saba as saba
from bilevel.stochastic_methods import srba as srba
from bilevel.stochastic_methods import stocbio as stocbio


def rhg(
    *, checkpoints: Literal["none", "steps", "sqrt"] = "none", **lower: Unpack[LowerChoices]
) -> Method:
    """Reverse HyperGradient: unrolls all K lower steps. Franceschi et al., ICML 2017."""
    return method("rhg", hypergradients.unrolled(checkpoints=checkpoints), **lower)


def trhg(*, keep_last: int = 1, **lower: Unpack[LowerChoices]) -> Method:
    """Truncated RHG: unrolls the last `keep_last` lower steps. Shaban et al., AISTATS 2019."""
    return method("trhg", hypergradients.truncated(keep_last=keep_last), **lower)


def bda(
    *,
    law: str | Law = "harmonic",
    alpha: float = 0.5,
    s: float = 1.0,
    t: float = 1.0,
    ratio: float | None = None,
    beta: float | None = None,
    learn: tuple[Learnable, ...] = (),
    hypergradient: Hypergradient | None = None,
    **lower: Unpack[LowerChoices],
) -> Method:
    """Bi-level Descent Aggregation: the lower steps descend a mix of F and f.

    d_k = s a_k grad_y F + t b_k grad_y f, (a_k, b_k) from `law`, a name or a function of
    (alpha, k); options as in `bilevel.descent`. hypergradient: None unrolls all K steps.
    Liu et al., ICML 2020.
    """
    if hypergradient is not None:
        example = "bilevel.hypergradients.unrolled()"
        check.kind("hypergradient", hypergradient, Hypergradient, example)
    aggregation = descent(law=law, alpha=alpha, s=s, t=t, ratio=ratio, beta=beta, learn=learn)
    return method("bda", hypergradient or hypergradients.unrolled(), aggregation, **lower)


def hoag(
    *,
    tolerance: float = 0.1,
    tolerance_decay: float = 0.9,
    max_steps: int = 100,
    damping: float | None = None,
    lower_tolerance: float | None = None,
    **lower: Unpack[LowerChoices],
) -> Method:
    """Implicit differentiation by conjugate gradients. Pedregosa, ICML 2016.

    In iteration n the linear system is solved to the relative residual tolerance *
    tolerance_decay^n; `bilevel.hypergradient` and `value_function` are n = 0, for which
    tolerance=1e-10 suits. The other options are those of `bilevel.hypergradients.implicit`.
    """
    estimator = hypergradients.implicit(
        solver=linear_solvers.cg(tolerance=tolerance, max_steps=max_steps),
        damping=damping,
        lower_tolerance=lower_tolerance,
        tolerance_decay=tolerance_decay,
    )
    return method("hoag", estimator, **lower)


def kkt(
    *,
    lower_tolerance: float | None = None,
    newton_steps: int = 10,
    upper_rate: float = 10.0,
    **lower: Unpack[LowerChoices],
) -> Method:
    """Implicit differentiation under constraints of the lower level, through its KKT conditions.

    The lower steps descend the penalised f; Newton steps then make y exact. Violations of upper
    constraints fall at upper_rate. Options as in `bilevel.hypergradients.implicit_kkt`.
    """
    estimator = hypergradients.implicit_kkt(
        lower_tolerance=lower_tolerance, newton_steps=newton_steps, upper_rate=upper_rate
    )
    return method("kkt", estimator, **lower)


def neumann(
    *,
    num_terms: int = 50,
    step_size_of_series: float | None = None,
    damping: float | None = None,
    **lower: Unpack[LowerChoices],
) -> Method:
    """Implicit differentiation by a Neumann series. Lorraine et al., AISTATS 2020."""
    solver = linear_solvers.neumann(num_terms=num_terms, step_size=step_size_of_series)
    return method("neumann", hypergradients.implicit(solver=solver, damping=damping), **lower)


def darts(*, radius: float | None = None, **lower: Unpack[LowerChoices]) -> Method:
    """The last lower step by a finite difference (architecture search). Liu et al., ICLR 2019."""
    return method("darts", hypergradients.finite_difference(radius=radius), **lower)


def sama(*, radius: float = 1.0, **lower: Unpack[LowerChoices]) -> Method:
    """No Hessian, but the derivative of the lower optimizer's update. Choe et al., NeurIPS 2023.

    Made for adaptive steps: lower_optimizer=bilevel.lower_optimizers.adam(step_size=...).
    """
    return method("sama", hypergradients.sama(radius=radius), **lower)


def pzobo(
    *, radius: float = 0.01, num_directions: int = 10, **lower: Unpack[LowerChoices]
) -> Method:
    """How y_K answers to x, by differences along random directions. Sow et al., NeurIPS 2022.

    No derivative of a lower step: also for lower_optimizer=bilevel.lower_solvers.lbfgs().
    """
    estimator = hypergradients.zeroth_order(radius=radius, num_directions=num_directions)
    return method("pzobo", estimator, **lower)


def fomaml(**lower: Unpack[LowerChoices]) -> Method:
    """First-order MAML: no second derivatives; needs a learned start. Finn et al., ICML 2017."""
    return method("fomaml", hypergradients.first_order(), **lower)


def reptile(**lower: Unpack[LowerChoices]) -> Method:
    """The start moves towards y_K; needs a learned start. Nichol et al., 2018."""
    return method("reptile", hypergradients.reptile(), **lower)


def imaml(
    *, proximal_weight: float = 2.0, max_steps: int = 5, **lower: Unpack[LowerChoices]
) -> Method:
    """Implicit MAML: f gains rho/2 |y - y0|^2, rho = proximal_weight. Rajeswaran et al., 2019."""
    solver = linear_solvers.gmres(max_steps=max_steps)
    estimator = hypergradients.implicit(solver=solver)
    return method("imaml", estimator, proximal_weight=proximal_weight, **lower)


def iaptt(**lower: Unpack[LowerChoices]) -> Method:
    """The worst of the K lower steps is scored and differentiated. Liu et al., NeurIPS 2021."""
    return method("iaptt", hypergradients.pessimistic(), **lower)


# ---- y goes on from the iteration before; on tasks that change, lower_start="fixed" ----


def f2sa(*, weight: float = 10.0, power: float = 0.0, **lower: Unpack[LowerChoices]) -> Method:
    """Fully first-order: y descends f + F / lambda, z descends f. Kwon et al., ICML 2023.

    lambda = weight (n + 1)^power in upper iteration n, here and in the functions below.
    """
    estimator = hypergradients.value_penalty(weight=weight, power=power)
    return method("f2sa", estimator, **following(lower))


def pbgd(*, weight: float = 10.0, power: float = 0.0, **lower: Unpack[LowerChoices]) -> Method:
    """The same with one step of y: V-PBGD. Shen and Chen, ICML 2023."""
    estimator = hypergradients.value_penalty(weight=weight, power=power, num_steps=1)
    return method("pbgd", estimator, **following(lower))


def pbgd_gradient(
    *, weight: float = 10.0, power: float = 0.0, **lower: Unpack[LowerChoices]
) -> Method:
    """Penalty on |grad_y f|^2 in place of f - min f: G-PBGD. Shen and Chen, ICML 2023."""
    estimator = hypergradients.gradient_penalty(weight=weight, power=power)
    return method("pbgd_gradient", estimator, **following(lower))


def pbgd_free(*, weight: float = 10.0, **lower: Unpack[LowerChoices]) -> Method:
    """y descends f + F / weight, x descends F with y held fixed. Jiang et al., 2025."""
    check.positive("weight", weight)
    aggregation = descent(law="constant", alpha=1 / (1 + weight))
    return method("pbgd_free", hypergradients.first_order(), aggregation, **following(lower))


def alternating(**lower: Unpack[LowerChoices]) -> Method:
    """y descends f, x descends F with y held fixed: no lower response, a baseline."""
    return method("alternating", hypergradients.first_order(), **following(lower))


def bome(*, share: float = 0.5, **lower: Unpack[LowerChoices]) -> Method:
    """F falls as far as f still falls fast enough. Liu et al., NeurIPS 2022."""
    return method("bome", hypergradients.dynamic_barrier(share=share), **following(lower))


def bvfsm(*, weight: float = 10.0, power: float = 0.25, **lower: Unpack[LowerChoices]) -> Method:
    """F with a penalty on f(x, y) - min f. Liu et al., ICML 2021 and arXiv 2110.04974."""
    estimator = hypergradients.sequential_penalty(weight=weight, power=power)
    return method("bvfsm", estimator, **following(lower))


def meha(
    *,
    weight: float = 10.0,
    power: float = 0.25,
    gamma: float = 1.0,
    **lower: Unpack[LowerChoices],
) -> Method:
    """Moreau envelope, for f that is not convex; one lower step. Liu et al., ICML 2024."""
    estimator = hypergradients.moreau_envelope(weight=weight, power=power, gamma=gamma)
    return method("meha", estimator, **following({"num_lower_steps": 1, **lower}))


def lv_hba(
    *,
    weight: float = 10.0,
    power: float = 0.3,
    gamma: float = 1.0,
    gamma_of_multipliers: float = 1.0,
    step_size_of_multipliers: float = 0.1,
    step_size_of_centre: float = 0.1,
    bound: float = 1000.0,
    steps_of_solution: int = 200,
    **lower: Unpack[LowerChoices],
) -> Method:
    """Lower constraints by multipliers that are followed; one lower step. Yao et al., ICLR 2024.

    Options as in `bilevel.hypergradients.lv_hba`.
    """
    estimator = hypergradients.lv_hba(
        weight=weight,
        power=power,
        gamma=gamma,
        gamma_of_multipliers=gamma_of_multipliers,
        step_size_of_multipliers=step_size_of_multipliers,
        step_size_of_centre=step_size_of_centre,
        bound=bound,
        steps_of_solution=steps_of_solution,
    )
    return method("lv_hba", estimator, **following({"num_lower_steps": 1, **lower}))


def soba(
    *,
    step_size_of_system: float = 0.1,
    damping: float | None = None,
    step_power: float = 0.0,
    **lower: Unpack[LowerChoices],
) -> Method:
    """Single loop: y, the linear system and x take one step each. Dagreou et al., NeurIPS 2022.

    step_power p: the steps of y and of the system fall as (n + 1)^-p, n iterations done.
    """
    estimator = hypergradients.single_loop(
        step_size=step_size_of_system, damping=damping, step_power=step_power
    )
    return method("soba", estimator, **following({"num_lower_steps": 1, **lower}))


def __getattr__(name: str) -> Method:
    """Raises AttributeError, which says how methods with a learned start are written."""
    why = f"module {__name__!r} has no attribute {name!r}"
    if name in ("maml", "anil", "maml_bda", "meta_sgd", "mt_net", "warp_grad"):
        why += (
            ": its learned start is the problem's. maml is rhg on a problem with "
            "lower_start=lambda key, x: x; the other methods with a learned start are methods of "
            "python -m src.train"
        )
    raise AttributeError(why)
