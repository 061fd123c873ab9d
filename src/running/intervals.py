"""Means and their 95 % intervals: over tasks, and over seeds."""

import numpy as np
from scipy.special import stdtrit


def mean_and_half_width(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The mean along an axis, and half of Student's 95 % interval; None for a single value."""
    number = values.shape[axis]
    mean = np.asarray(np.mean(values, axis=axis, dtype=np.float64))
    if number < 2:
        return mean, None
    deviation = np.std(values, axis=axis, ddof=1, dtype=np.float64)
    return mean, np.asarray(float(stdtrit(number - 1, 0.975)) * deviation / number**0.5)
