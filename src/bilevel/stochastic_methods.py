"""Methods for a problem with a batch_size: they know how noisy a mini-batch is.

As those of methods.py, which hands them on. In all of them y goes on from the iteration before.
"""

from typing import Unpack

from bilevel import hypergradients, variance_reduction
from bilevel.choices import LowerChoices, Method, following, method


def saba(
    *, step_size_of_system: float = 0.1, damping: float | None = None, **lower: Unpack[LowerChoices]
) -> Method:
    """SOBA with the last direction of each block of rows remembered. Dagreou et al., 2022."""
    estimator = hypergradients.single_loop(
        step_size=step_size_of_system, damping=damping, reduction=variance_reduction.saga()
    )
    return method("saba", estimator, **following({"num_lower_steps": 1, **lower}))


def srba(
    *,
    period: int = 64,
    step_size_of_system: float = 0.1,
    damping: float | None = None,
    **lower: Unpack[LowerChoices],
) -> Method:
    """SOBA with all rows every `period` steps, else differences. Dagreou et al., AISTATS 2024."""
    estimator = hypergradients.single_loop(
        step_size=step_size_of_system,
        damping=damping,
        reduction=variance_reduction.sarah(period=period),
    )
    return method("srba", estimator, **following({"num_lower_steps": 1, **lower}))


def stocbio(
    *,
    num_system_steps: int = 10,
    step_size_of_system: float = 0.1,
    damping: float | None = None,
    step_power: float = 0.0,
    **lower: Unpack[LowerChoices],
) -> Method:
    """Implicit, by a Neumann series with new rows in each factor. Ji, Yang, Liang, ICML 2021."""
    estimator = hypergradients.stochastic_implicit(
        step_size=step_size_of_system,
        num_steps=num_system_steps,
        damping=damping,
        step_power=step_power,
    )
    return method("stocbio", estimator, **following({"num_lower_steps": 10, **lower}))


def amigo(
    *,
    num_system_steps: int = 10,
    step_size_of_system: float = 0.1,
    damping: float | None = None,
    step_power: float = 0.0,
    **lower: Unpack[LowerChoices],
) -> Method:
    """Implicit; y and the linear system go on from before by SGD. Arbel and Mairal, ICLR 2022."""
    estimator = hypergradients.stochastic_implicit(
        step_size=step_size_of_system,
        num_steps=num_system_steps,
        damping=damping,
        step_power=step_power,
        warm=True,
    )
    return method("amigo", estimator, **following({"num_lower_steps": 10, **lower}))


def mrbo(
    *,
    momentum: float = 1.0,
    power: float = 2 / 3,
    num_system_steps: int = 10,
    step_size_of_system: float = 0.1,
    damping: float | None = None,
    step_power: float = 0.0,
    **lower: Unpack[LowerChoices],
) -> Method:
    """y and x along averages that are corrected for their own steps. Yang et al., NeurIPS 2021.

    The average takes the share momentum (n + 1)^-power of the new direction.
    """
    estimator = hypergradients.recursive_momentum(
        step_size=step_size_of_system,
        num_steps=num_system_steps,
        damping=damping,
        step_power=step_power,
        reduction=variance_reduction.storm(momentum=momentum, power=power),
    )
    return method("mrbo", estimator, **following({"num_lower_steps": 1, **lower}))
