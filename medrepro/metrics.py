"""Statistics that all papers share: intervals, paired comparisons, corrected tests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean with the interval around it; `low` and `high` are infinite for fewer than two values."""

    mean: float
    low: float
    high: float
    n: int

    def __format__(self, spec: str) -> str:
        """Format as ``mean [low, high]``, each number with the given specification."""
        if self.n < 2:
            return f"{self.mean:{spec}} (n = {self.n}, no interval)"
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    @property
    def off_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


def interval(values: Sequence[float], *, confidence: float = 0.95, overlap: float = 0.0) -> Interval:
    """Mean of values with its Student t interval.

    Parameters
    ----------
    values
        One number a seed, fold or image, or one paired difference; at least one, all finite.
    confidence
        Coverage of the interval.
    overlap
        Test over training cases where the values come from folds that share training data: the variance of the mean is
        then ``var * (1/n + overlap)`` [1]_; 0 for independent values.

    Raises
    ------
    ValueError
        There is no value, or one is not finite.

    References
    ----------
    .. [1] Nadeau, Bengio. Inference for the generalization error. Machine Learning 52, 2003.

    Examples
    --------
    >>> f"{interval([1.0, 2.0, 3.0]):.2f}"
    '2.00 [-0.48, 4.48]'
    """
    array = np.asarray(values, dtype=float).ravel()
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"an interval needs finite values, got {array.tolist()[:5]}")
    mean, n = float(array.mean()), array.size
    if n < 2:
        return Interval(mean, -np.inf, np.inf, n)
    from scipy.special import stdtrit  # lighter than scipy.stats

    half = float(stdtrit(n - 1, 0.5 + confidence / 2) * array.std(ddof=1) * np.sqrt(1 / n + overlap))
    return Interval(mean, mean - half, mean + half, n)


def paired_p(differences: Sequence[float], *, overlap: float = 0.0) -> float:
    """Two-sided p of a paired t test that the mean difference is zero; `overlap` as in `interval`.

    Examples
    --------
    >>> round(paired_p([1.0, 2.0, 3.0]), 4)
    0.0742
    """
    array = np.asarray(differences, dtype=float).ravel()
    if array.size < 2:
        return float("nan")
    error = array.std(ddof=1) * np.sqrt(1 / array.size + overlap)
    if error == 0:
        return 1.0 if array.mean() == 0 else 0.0
    from scipy.special import stdtr

    return float(2 * stdtr(array.size - 1, -abs(array.mean()) / error))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p values, in the order given; NaN stays NaN and does not count.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=float)
    adjusted = np.full(values.shape, np.nan)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    raised = values[order] * np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return adjusted
