r"""Multifractal spectra of measures on the plane, by the method of moments.

Background to Martins, Coimbra, Renna 2025: their exponent map reads one local exponent a pixel, the spectrum counts how
often each exponent occurs. A measure is cut into dyadic boxes of side k; the moments
:math:`Z_q(k) = \sum \mu(B_k)^q` scale as :math:`k^{\tau(q)}`, and the Legendre transform of :math:`\tau` is
:math:`f(\alpha)` (Halsey et al. 1986). The derivative :math:`\alpha = d\tau/dq` is taken exactly, moment by moment, as
Chhabra and Jensen 1989 do, not by differences.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

#: Moments from -5 to 5, a quarter apart.
Q = tuple(np.arange(-20, 21) / 4)
BLOCK = 8192  # boxes at a time: their powers stay in the second-level cache

# -- measures and boxes ----------------------------------------------------------------------------------------------


def as_measure(array: ArrayLike) -> np.ndarray:
    """An array as a measure of total mass 1, float64, shape (H, W).

    Parameters
    ----------
    array
        Masses, shape (H, W), any real dtype, none negative. Its unit drops out.

    Raises
    ------
    ValueError
        Not two-dimensional, empty, complex, not finite, a negative mass, or no mass at all.
    """
    mass = np.asarray(array)
    if mass.ndim != 2 or mass.size == 0:
        raise ValueError(f"a measure has shape (H, W) and at least one pixel, got {mass.shape}: pass one grey image")
    if mass.dtype.kind not in "buif":
        raise ValueError(f"masses are real numbers, got dtype {mass.dtype}: convert the array first")
    mass = mass.astype(np.float64)
    if not np.isfinite(mass).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(mass))} masses are not finite: replace or crop them first")
    if mass.min() < 0:
        raise ValueError(f"the smallest mass is {mass.min():g}, a measure has none below 0: shift or rescale the array")
    if mass.max() == 0:
        raise ValueError("all masses are 0: a spectrum needs mass somewhere")
    mass /= mass.max()  # first, so that the sum of huge masses does not overflow
    return mass / mass.sum()


def dyadic_masses(measure: ArrayLike) -> dict[int, np.ndarray]:
    """Masses of the aligned boxes of side 1, 2, 4, ..., N: side -> array of shape (N / side, N / side), sum 1.

    Parameters
    ----------
    measure
        Masses, shape (N, N), N a power of two.

    Raises
    ------
    ValueError
        As `as_measure`; or the array is not square with a power of two as its side.

    Examples
    --------
    >>> {side: mass.tolist() for side, mass in dyadic_masses([[1, 2], [3, 4]]).items()}
    {1: [[0.1, 0.2], [0.3, 0.4]], 2: [[1.0]]}
    """
    mass = as_measure(measure)
    size = mass.shape[0]
    if mass.shape[1] != size or size & (size - 1):
        raise ValueError(
            f"aligned boxes need a square array whose side is a power of two, got {mass.shape[0]} x {mass.shape[1]}: "
            f"crop it to {2 ** (min(mass.shape).bit_length() - 1)} pixels a side"
        )
    boxes = {1: mass}
    for side in 2 ** np.arange(1, size.bit_length()):
        rows = mass[0::2] + mass[1::2]
        mass = rows[:, 0::2] + rows[:, 1::2]
        boxes[int(side)] = mass
    return boxes


def aligned_exponents(measure: ArrayLike, *, small: int = 2, large: int = 8) -> np.ndarray:
    """Local exponent of every aligned box of side `small`: the slope to the aligned box of side `large` that holds it.

    Parameters
    ----------
    measure
        Masses, shape (N, N), N a power of two.
    small, large
        Box sides in pixels, powers of two, ``small < large <= N``.

    Returns
    -------
    ndarray
        log(mass of the large box / mass of the small box) / log(large / small), shape (N / small, N / small); infinite
        where the small box holds nothing and its large one does, NaN where both are empty.

    Raises
    ------
    ValueError
        As `dyadic_masses`; or sides that are no powers of two in ascending order.
    """
    boxes = dyadic_masses(measure)
    if small not in boxes or large not in boxes or small >= large:
        raise ValueError(f"small is {small}, large is {large}: expected two of {list(boxes)}, the smaller one first")
    around = np.kron(boxes[large], np.ones((large // small, large // small)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(around / boxes[small]) / np.log(large / small)


# -- the partition function ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Partition:
    r"""Moments of a measure over dyadic boxes.

    Parameters
    ----------
    q
        Moments, shape (Q,).
    sides
        Box sides in pixels, ascending, shape (S,); the last one is the whole square.
    log_z
        :math:`\log_2 Z_q(k)`, shape (Q, S).
    mean_log_mass
        :math:`d \log_2 Z_q(k) / dq`, the mean of log2 mass with weights :math:`\mu^q / Z_q`, shape (Q, S).
    """

    q: np.ndarray
    sides: np.ndarray
    log_z: np.ndarray
    mean_log_mass: np.ndarray

    @property
    def log_sides(self) -> np.ndarray:
        """Base-2 logarithm of the box side as a share of the whole, shape (S,); 0 for the whole square."""
        return np.log2(self.sides / self.sides[-1])

    @property
    def departure(self) -> np.ndarray:
        r"""What is left of `log_z` without the part :math:`2(q-1) \log_2(k/N)` of a uniform measure, shape (Q, S)."""
        return self.log_z - 2 * np.outer(self.q - 1, self.log_sides)


def _checked_moments(q: ArrayLike) -> np.ndarray:
    moments = np.atleast_1d(np.asarray(q, dtype=np.float64))
    if moments.ndim != 1 or moments.size == 0 or not np.isfinite(moments).all():
        raise ValueError(f"q holds finite moments, one or a list of them; got {q!r}")
    return moments


def _walk(log_mass: np.ndarray, q: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Sums of exp(q l) and of l exp(q l) for moments on one side of 0, in the order given; all q l are at most 0."""
    total, moment = np.zeros(len(q)), np.zeros(len(q))
    for start in range(0, log_mass.size, BLOCK):
        block = log_mass[start : start + BLOCK]
        power, step, factor = np.ones_like(block), 0.0, np.ones_like(block)
        for n, (before, now) in enumerate(zip([0.0, *q], q)):
            if abs(now - before - step) > 1e-12:  # evenly spaced moments share one factor: a product is no exponential
                step = now - before
                factor = np.exp(step * block)
            power *= factor
            total[n] += power.sum()
            moment[n] += power @ block
    return total, moment


def _moments(mass: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Natural log of Z_q and its derivative in q, for the boxes of one side; empty boxes do not count."""
    log_mass = np.log(mass[mass > 0])
    log_z, mean = np.empty(len(q)), np.empty(len(q))
    # measured from the largest mass for q >= 0 and from the smallest for q < 0, no power overflows
    for shift, chosen in ((log_mass.max(), q >= 0), (log_mass.min(), q < 0)):
        order = np.flatnonzero(chosen)[np.argsort(np.abs(q[chosen]), kind="stable")]
        total, moment = _walk(log_mass - shift, q[order].tolist())
        log_z[order] = np.log(total) + q[order] * shift
        mean[order] = moment / total + shift
    return log_z, mean


def partition_function(measure: ArrayLike, q: ArrayLike = Q) -> Partition:
    r"""Moments over all dyadic boxes of a measure on a square.

    .. math:: Z_q(k) = \sum_{B_k:\ \mu(B_k) > 0} \mu(B_k)^q, \qquad k = 1, 2, 4, \dots, N

    Parameters
    ----------
    measure
        Masses, shape (N, N), N a power of two, any real dtype; a constant factor does not matter.
    q
        Moments, any finite numbers in any order. Large positive ones weigh the boxes with most mass, negative ones
        those with least.

    Returns
    -------
    Partition
        For every q and side the logarithm of the sum and its derivative in q.

    Raises
    ------
    ValueError
        As `dyadic_masses`; or a moment that is not finite.

    Notes
    -----
    Empty boxes are left out, so that Z_0 counts the boxes that hold mass. 512 x 512 pixels and 41 evenly spaced
    moments take about 40 ms: powers of neighbouring moments come from one another by a product.

    Examples
    --------
    >>> partition_function([[1, 1], [1, 1]], q=[0, 2]).log_z
    array([[ 2.,  0.],
           [-2.,  0.]])
    """
    q, boxes = _checked_moments(q), dyadic_masses(measure)
    found = [_moments(mass.ravel(), q) for mass in boxes.values()]
    log_z, mean = (np.stack(columns, axis=1) / np.log(2) + 0.0 for columns in zip(*found))
    return Partition(q, np.array(list(boxes)), log_z, mean)


# -- mass exponents and spectrum -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spectrum:
    """Mass exponents tau(q) and their Legendre transform, all of shape (Q,).

    Parameters
    ----------
    q, tau
        Moments, and slopes of log Z_q against log k.
    alpha, f
        Exponent and its dimension: alpha = d tau / d q, f = q alpha - tau.
    r2
        Coefficient of determination of the fit of tau; 1 where log Z_q is constant, as at q = 1.
    departure_r2
        The same for what log Z_q keeps without the part of a uniform measure (`Partition.departure`); NaN where nothing
        is kept.
    sides
        Box sides that entered the fit, in pixels.
    """

    q: np.ndarray
    tau: np.ndarray
    alpha: np.ndarray
    f: np.ndarray
    r2: np.ndarray
    departure_r2: np.ndarray
    sides: np.ndarray

    @property
    def width(self) -> float:
        """Largest minus smallest alpha among the moments computed."""
        return float(np.ptp(self.alpha))


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slopes of the rows of y (Q, S) against x (S,)."""
    far = x - x.mean()
    return y @ far / (far @ far)


def _r2(x: np.ndarray, y: np.ndarray, *, constant: float) -> np.ndarray:
    """Share of each row's variance that a straight line explains; `constant` where there is no variance."""
    y = y - y.mean(axis=1, keepdims=True)
    whole = (y**2).sum(axis=1)
    left = ((y - np.outer(_slopes(x, y), x - x.mean())) ** 2).sum(axis=1)
    varies = whole > 1e-20  # rounding of log2 sums, squared
    return np.where(varies, 1 - left / np.where(varies, whole, 1), constant)


def spectrum(partition: Partition, *, smallest: int = 1, largest: int | None = None) -> Spectrum:
    r"""Mass exponents by least squares over box sides, and f(alpha) by the Legendre transform.

    .. math:: Z_q(k) \sim k^{\tau(q)}, \qquad \alpha(q) = \tau'(q), \qquad f(\alpha(q)) = q\,\alpha(q) - \tau(q)

    Parameters
    ----------
    partition
        Moments of a measure.
    smallest, largest
        Ends of the fitted range of box sides in pixels, both included; default all.

    Returns
    -------
    Spectrum
        One point a moment.

    Raises
    ------
    ValueError
        Fewer than two sides in the range.

    Notes
    -----
    tau is linear in log Z_q, so that the derivative of the fitted tau is the fitted slope of d log Z_q / dq: no
    difference quotient, and q may be as coarse as one likes.

    Examples
    --------
    >>> found = spectrum(partition_function([[9, 21], [21, 49]], q=[0, 1]))
    >>> found.tau.round(6), found.alpha.round(6)
    (array([-2.,  0.]), array([2.251539, 1.762582]))
    """
    largest = int(partition.sides[-1]) if largest is None else largest
    kept = (partition.sides >= smallest) & (partition.sides <= largest)
    if kept.sum() < 2:
        raise ValueError(
            f"a slope needs two box sides, {smallest} to {largest} pixels holds {kept.sum()} of "
            f"{partition.sides.tolist()}: widen the range"
        )
    x, log_z = partition.log_sides[kept], partition.log_z[:, kept]
    tau, alpha = _slopes(x, log_z) + 0.0, _slopes(x, partition.mean_log_mass[:, kept])
    r2 = _r2(x, log_z, constant=1.0)
    departure_r2 = _r2(x, partition.departure[:, kept], constant=np.nan)
    return Spectrum(partition.q, tau, alpha, partition.q * alpha - tau, r2, departure_r2, partition.sides[kept])


def binomial_spectrum(p: float, q: ArrayLike = Q) -> Spectrum:
    r"""Spectrum of the two-dimensional binomial cascade, in closed form.

    .. math:: \tau(q) = -2 \log_2\big(p^q + (1-p)^q\big), \qquad
              \alpha(q) = -2\,[w \log_2 p + (1-w) \log_2(1-p)], \qquad w = \frac{p^q}{p^q + (1-p)^q}

    Parameters
    ----------
    p
        Share of the mass that goes to the first half along each axis, strictly between 0 and 1.
    q
        Moments.

    Returns
    -------
    Spectrum
        With f = 2 H(w), H the binary entropy in bits; no sides, and 1 for both coefficients of determination.

    Raises
    ------
    ValueError
        `p` outside (0, 1); a moment that is not finite.
    """
    if not 0 < p < 1:
        raise ValueError(f"p is {p}: a share of the mass lies strictly between 0 and 1")
    q = _checked_moments(q)
    first, second = q * np.log2(p), q * np.log2(1 - p)
    log_sum = np.logaddexp2(first, second)
    w = np.exp2(first - log_sum)
    alpha = -2 * (w * np.log2(p) + (1 - w) * np.log2(1 - p))
    f = -2 * (w * (first - log_sum) + (1 - w) * (second - log_sum))
    ones = np.ones_like(q)
    return Spectrum(q, -2 * log_sum + 0.0, alpha, f, ones, ones, np.empty(0, int))
