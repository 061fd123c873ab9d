"""A warning at the end of a run whose lower constraints are clearly not met."""

import sys
from collections.abc import Mapping
from typing import Any

from bilevel.constraints import unmet
from src.settings.build import Experiment


def warn_of_violation(experiment: Experiment, result: Mapping[str, Any]) -> None:
    """Say on stderr what `bilevel.minimize` warns of."""
    penalised = experiment.problem.penalised
    if penalised is None:
        return
    message = unmet(result["validation/lower_violation"], penalised.weight)
    if message:
        print(f"warning: {message}", file=sys.stderr)
