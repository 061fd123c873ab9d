"""The names of what the library itself reports of an iteration or of a score.

A metric of F may have none of them: one of the two would overwrite the other. What else an
iteration reports is such a metric, for people alone.
"""

from collections.abc import Iterable

OF_LEVELS = ("lower_loss", "stationarity_norm", "upper_loss", "hypergradient_norm")
OF_ESTIMATORS = (
    "active_constraints",
    "kkt_residual",
    "linear_residual",
    "lower_residual",
    "lower_steps",
    "penalty",
    "penalty_weight",
    "undamped_residual",
    "value_gap",
    "worst_step",
)
LEARNED = ("alpha", "mask_logits", "s", "step_size", "t", "upper_variable")
OF_CONSTRAINTS = ("lower_violation", "penalised_upper_loss", "upper_violation")
COLUMNS = frozenset({*OF_LEVELS, *OF_ESTIMATORS, *LEARNED, *OF_CONSTRAINTS, "hypergradient_error"})


def refuse_taken(names: Iterable[str]) -> None:
    """Raises ValueError where a metric of F has the name of one of the library's columns."""
    for name in names:
        if name in COLUMNS:
            raise ValueError(
                f"F's metric {name!r} has the name of F, f or another column of the library; "
                f"rename it, such as my_{name}"
            )
