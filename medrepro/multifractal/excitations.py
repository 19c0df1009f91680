"""The excitation analysis (Martins, Coimbra, Renna 2025): how many components the gates of a layer need, and how much they vary.

An excitation is the vector of channel gates that an attention function gives one image; those of a set of images make a
matrix (n, C). Code that informed it: the analysis notebook of github.com/miguelmartins/multifractal-recalibration, commit
3b723cd. The statistics of instance variability are ours: the sources at hand do not define one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medrepro.metrics import Interval

#: Share of the variance that the components of the threshold must exceed.
SHARE = 0.95
#: Distance from 0 or 1 within which a gate counts as saturated.
SATURATED = 1e-3


def _matrix(excitations: np.ndarray) -> np.ndarray:
    # choice: float64, as the authors' CSV files are read; a gate stored in float32 varies by 6e-8 at least, if it varies
    x = np.asarray(excitations, dtype=np.float64)
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 1:
        raise ValueError(f"excitations have shape {x.shape}: expected (images, channels) with at least two images")
    if not np.isfinite(x).all():
        raise ValueError(
            f"excitations hold {(~np.isfinite(x)).sum()} values that are not finite: expected gates in [0, 1]"
        )
    return x


def interquartile_range(excitations: np.ndarray) -> np.ndarray:
    """Third minus first quartile of every channel over the images, by linear interpolation; (n, C) -> (C,)."""
    low, high = np.percentile(_matrix(excitations), (25, 75), axis=0)
    return high - low


def robust_scale(excitations: np.ndarray) -> np.ndarray:
    """Every channel minus its median, divided by its inter-quartile range.

    Parameters
    ----------
    excitations
        Gates, shape (n, C), n at least 2.

    Returns
    -------
    ndarray
        Shape (n, C), float64, no unit.

    Raises
    ------
    ValueError
        Another shape, or values that are not finite.

    Notes
    -----
    The rule of scikit-learn's RobustScaler: a range below ten times the machine epsilon counts as 0, and such a channel is
    only centred. A range of 1e-7, as of a saturated gate, is *not* 0, and dividing by it blows the channel up.

    Examples
    --------
    >>> robust_scale([[0.1, 0.5], [0.2, 0.5], [0.3, 0.5], [0.4, 0.5], [0.9, 0.5]]).round(2).tolist()
    [[-1.0, 0.0], [-0.5, 0.0], [0.0, 0.0], [0.5, 0.0], [3.0, 0.0]]
    """
    x = _matrix(excitations)
    spread = interquartile_range(x)
    spread[spread < 10 * np.finfo(np.float64).eps] = 1.0
    return (x - np.median(x, axis=0)) / spread


def explained_variance(excitations: np.ndarray, *, robust: bool = True) -> np.ndarray:
    """Cumulative explained-variance ratio of a full, centred PCA of the gates.

    Parameters
    ----------
    excitations
        Gates, shape (n, C), n at least 2.
    robust
        Scale the channels first (`robust_scale`), as the paper does.

    Returns
    -------
    ndarray
        c_1 <= c_2 <= ... = 1, shape (min(n, C),); all NaN where no channel varies over the images.

    Raises
    ------
    ValueError
        Another shape, or values that are not finite.
    """
    x = _matrix(excitations)
    if not np.ptp(x, axis=0).any():
        return np.full(min(x.shape), np.nan)
    scaled = robust_scale(x) if robust else x
    variance = np.linalg.svd(scaled - scaled.mean(axis=0), compute_uv=False) ** 2
    return np.cumsum(variance) / variance.sum()


def pca_threshold(excitations: np.ndarray, *, robust: bool = True, share: float = SHARE) -> float:
    """Excitation PCA threshold (EPT): the smallest number of components that explain more than `share` of the variance.

    Parameters
    ----------
    excitations
        Gates, shape (n, C), n at least 2.
    robust
        Scale the channels first, as the paper does.
    share
        Share of the variance in [0, 1) to be exceeded: 0.95 in the paper.

    Returns
    -------
    float
        A whole number from 1 to min(n - 1, C), or NaN where no channel varies: then nothing can be explained.

    Raises
    ------
    ValueError
        Another shape, values that are not finite, or a share outside [0, 1).

    Notes
    -----
    The number of c_n <= share, plus 1. It grows with the number of images: independent noise in C channels needs
    floor(share C) + 1 components only when n is very large, so that sets are compared at equal n.

    Examples
    --------
    >>> pca_threshold([[0.1, 0.2], [0.2, 0.4], [0.3, 0.6], [0.4, 0.8]])
    1.0
    """
    if not 0 <= share < 1:
        raise ValueError(f"share is {share}: expected a number from 0 up to, and without, 1")
    cumulative = explained_variance(excitations, robust=robust)
    return float("nan") if np.isnan(cumulative[0]) else float((cumulative <= share).sum() + 1)


def subsampled_threshold(excitations: np.ndarray, num_images: int, *, draws: int = 20, seed: int = 0) -> float:
    """Mean threshold over random subsets of so many images, drawn without replacement.

    Raises
    ------
    ValueError
        More images asked for than there are, or fewer than two.
    """
    x = _matrix(excitations)
    if not 2 <= num_images <= len(x):
        raise ValueError(f"num_images is {num_images}: expected 2 to {len(x)}, the number of images")
    rng = np.random.default_rng(seed)
    found = [pca_threshold(x[rng.choice(len(x), num_images, replace=False)]) for _ in range(draws)]
    return float(np.mean(found))


def depth_slope(thresholds: Sequence[float]) -> float:
    """Least-squares slope of thresholds at depths 1, 2, ... against depth, in components a level.

    Examples
    --------
    >>> depth_slope([2, 3, 6])
    2.0
    """
    depth = np.arange(len(thresholds)) - (len(thresholds) - 1) / 2
    return float(depth @ np.asarray(thresholds, float) / (depth @ depth))


# -- the curve of explained variance ---------------------------------------------------------------------------------


def double_exponential(n: np.ndarray, a: float, k1: float, b: float, k2: float, n0: float) -> np.ndarray:
    """The model that the authors' code fits: a (1 - exp(-k1 (n - n0))) + b (1 - exp(-k2 (n - n0))), which levels off at a + b."""
    return -a * np.expm1(-k1 * (n - n0)) - b * np.expm1(-k2 * (n - n0))


def growing_minus_decaying(n: np.ndarray, a: float, k1: float, b: float, k2: float, n0: float) -> np.ndarray:
    """The model that the text of the authors' notebook names, as we read it: a exp(k1 (n - n0)) - b exp(-k2 (n - n0))."""
    return a * np.exp(k1 * (n - n0)) - b * np.exp(-k2 * (n - n0))


def _double_exponential_slopes(n: np.ndarray, a: float, k1: float, b: float, k2: float, n0: float) -> np.ndarray:
    """Derivatives of `double_exponential` by its parameters, shape (N, 5)."""
    m = n - n0
    first, second = np.exp(-k1 * m), np.exp(-k2 * m)
    by = 1 - first, a * m * first, 1 - second, b * m * second, -a * k1 * first - b * k2 * second
    return np.stack(by, 1)


def _growing_minus_decaying_slopes(n: np.ndarray, a: float, k1: float, b: float, k2: float, n0: float) -> np.ndarray:
    """Derivatives of `growing_minus_decaying` by its parameters, shape (N, 5)."""
    m = n - n0
    grown, decayed = np.exp(k1 * m), np.exp(-k2 * m)
    return np.stack((grown, a * m * grown, -decayed, b * m * decayed, -a * k1 * grown - b * k2 * decayed), 1)


SLOPES = {
    double_exponential: _double_exponential_slopes,
    growing_minus_decaying: _growing_minus_decaying_slopes,
}
#: Distance from 1 within which a whole curve counts as 1.
FLAT = 1e-5
#: Gradient, for a curve that varies by 1, at which a fit ends: R^2 of trained layers is right to 1e-5, at a third of the time that the default takes.
GTOL = 1e-6
#: Share of a curve's variance left over at which a fit ends: R^2 is then 1 to seven digits.
EXACT = 1e-8
#: Starting values of the fits: a, k1, b, k2, n0.
STARTS = {
    double_exponential: ((0.5, 1.0, 0.5, 0.1, 0.1), (0.5, 3.0, 0.5, 0.5, 0.5), (0.9, 5.0, 0.1, 2.0, 0.3)),
    growing_minus_decaying: ((0.9, 1e-4, 0.5, 0.5, 0.1), (0.9, 1e-3, 0.5, 1.0, 0.5)),
}


@dataclass(frozen=True)
class Fit:
    """A curve fitted to cumulative explained variance: parameters (a, k1, b, k2, n0) and the share of variance explained."""

    parameters: tuple[float, float, float, float, float]
    r2: float


def fit_curve(cumulative: np.ndarray, *, model: Callable[..., np.ndarray] = double_exponential) -> Fit | None:
    """Least-squares fit of a five-parameter curve, all parameters at least 0, to cumulative explained variance.

    Parameters
    ----------
    cumulative
        c_1, c_2, ..., shape (N,).
    model
        `double_exponential` or `growing_minus_decaying`.

    Returns
    -------
    Fit or None
        The best of the fits from `STARTS`, up to the first with R^2 above 0.999 (choice: the authors' start is not known). None where nothing can be fitted:
        fewer than six points, undefined values, or no start that converges. A curve that is 1 from its first point on, to
        `FLAT`, is not fitted: it is a = 1 with a steep k1, and R^2 = 1 by rule, since there is no variance left to explain.
    """
    y = np.asarray(cumulative, float)
    if len(y) < 6 or not np.isfinite(y).all():
        return None
    if y[0] > 1 - FLAT:
        return Fit((1.0, 50.0, 0.0, 0.0, 0.0), 1.0)
    total, found = float(((y - y.mean()) ** 2).sum()), []
    for xtol in (1e-8, 1e-4):  # a fit that crawls along a flat valley ends at the wider step
        for start in STARTS[model]:
            found += _fit_from(start, y, model, gtol=GTOL * min(1.0, total**0.5), xtol=xtol)
            if found and min(found)[0] < 1e-3 * total:
                break  # another start would move the third digit at most
        if found:
            rest, parameters = min(found)
            return Fit(parameters, 1 - rest / total)
    return None


def _fit_from(start: Sequence[float], y: np.ndarray, model: Callable[..., np.ndarray], **ends: float) -> list[tuple]:
    """Sum of squares and parameters of the fit from one start; nothing where it does not converge."""
    from scipy.optimize import least_squares

    n = np.arange(1, len(y) + 1, dtype=float)
    enough = EXACT * float(((y - y.mean()) ** 2).sum())

    def stop(intermediate_result: Any) -> None:
        if 2 * intermediate_result.cost < enough:
            raise StopIteration

    with np.errstate(over="ignore", invalid="ignore"):
        try:
            found = least_squares(
                lambda p: model(n, *p) - y, start, lambda p: SLOPES[model](n, *p), (0, np.inf), max_nfev=400, callback=stop,
                **ends,
            )  # fmt: skip
        except ValueError:  # a growing exponential that ran over
            return []
    exact = 2 * found.cost < enough
    return [(2 * float(found.cost), tuple(map(float, found.x)))] if exact or found.status > 0 else []


# -- how much gates vary between images ------------------------------------------------------------------------------


def variability(excitations: np.ndarray) -> dict[str, float]:
    """Statistics of how much the unscaled gates vary between images.

    Parameters
    ----------
    excitations
        Gates, shape (n, C), n at least 2.

    Returns
    -------
    dict
        ``total variance``: sum over channels of the variance over images; ``mean std``: mean over channels of the standard
        deviation over images; ``participation ratio``: (sum of eigenvalues)^2 over the sum of their squares, from 1 (all
        images on a line) to C (NaN where no channel varies); ``saturated``: share of gates within `SATURATED` of 0 or 1.

    Raises
    ------
    ValueError
        Another shape, or values that are not finite.

    Notes
    -----
    choice: the paper relates effectiveness to "instance variability" without a definition that could be recovered; these
    three are common ones. Variances have the denominator n - 1.
    """
    x = _matrix(excitations)
    variance = x.var(axis=0, ddof=1)
    eigenvalues = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    varies = np.ptp(x, axis=0).any()
    return {
        "total variance": float(variance.sum()),
        "mean std": float(np.sqrt(variance).mean()),
        "participation ratio": float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum()) if varies else float("nan"),
        "saturated": float(((x <= SATURATED) | (x >= 1 - SATURATED)).mean()),
    }


def largest_channel_share(excitations: np.ndarray) -> float:
    """Share of the variance that one channel owns after robust scaling; NaN where no channel varies."""
    x = _matrix(excitations)
    variance = robust_scale(x).var(axis=0)
    return float(variance.max() / variance.sum()) if np.ptp(x, axis=0).any() else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their mean rank."""
    below = (values[:, None] > values).sum(axis=1)
    equal = (values[:, None] == values).sum(axis=1)
    return below + (equal + 1) / 2


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Spearman's rank correlation with a 95 % interval.

    Parameters
    ----------
    first, second
        Paired values, at least two of each.

    Returns
    -------
    Interval
        The interval is Fisher's transform with the variance (1 + rho^2 / 2) / (n - 3) [1]_; infinite for n < 4, and for
        |rho| = 1, where the transform is. The mean is NaN where one side does not vary.

    Raises
    ------
    ValueError
        Lists of different lengths, or shorter than two.

    References
    ----------
    .. [1] Bonett, Wright. Sample size requirements for estimating Pearson, Kendall and Spearman correlations.
       Psychometrika 65, 2000.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"got {a.shape} and {b.shape} values: expected two lists of equal length, at least two")
    a, b = (_ranks(values) - (len(values) + 1) / 2 for values in (a, b))
    if not (a.any() and b.any()):
        return Interval(float("nan"), -np.inf, np.inf, len(a))
    rho = float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
    if len(a) < 4 or abs(rho) > 1 - 1e-12:
        return Interval(rho, -np.inf, np.inf, len(a))
    half = 1.959963984540054 * np.sqrt((1 + rho**2 / 2) / (len(a) - 3))
    return Interval(rho, float(np.tanh(np.arctanh(rho) - half)), float(np.tanh(np.arctanh(rho) + half)), len(a))
