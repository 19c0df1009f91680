"""Slopes of log mass against log size (Martins, Coimbra, Renna 2025, equation 16): least squares, plain and weighted."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from medrepro.multifractal.maps import one_of

Slope = Literal["ols", "weighted", "wls"]


def ols_slope(
    log_mass: Tensor, log_size: Tensor, *, weights: Tensor | None = None, means: Literal["plain", "weighted"] = "plain"
) -> Tensor:
    r"""Least-squares slope of log mass against log size, along the last axis.

    .. math:: \alpha = \frac{\sum_j r_j (y_j - \bar y)(t_j - \bar t)}{\sum_j r_j (t_j - \bar t)^2}

    Parameters
    ----------
    log_mass
        y, shape (..., J).
    log_size
        t, shape (J,), in the same base as `log_mass`; not all equal.
    weights
        r, shape (J,), positive; all ones (ordinary least squares) if not given.
    means
        With ``plain`` means the weighted slope is the one of the authors' code; ``weighted`` means (of both y and t)
        make it weighted least squares as in textbooks. Both are exact on a power law.

    Returns
    -------
    Tensor
        Slope, shape (...).

    Examples
    --------
    >>> t = torch.log(torch.tensor([2.0, 4.0, 8.0]))
    >>> round(ols_slope(1.5 * t + 0.3, t).item(), 4)
    1.5
    """
    one_of("means", means, ("plain", "weighted"))
    r = torch.ones_like(log_size) if weights is None else weights
    share = r / r.sum() if means == "weighted" else torch.full_like(log_size, 1 / len(log_size))
    t = log_size - (share * log_size).sum()
    y = log_mass - (share * log_mass).sum(-1, keepdim=True)
    return (r * y * t).sum(-1) / (r * t * t).sum()


def slope_coefficients(
    scales: Sequence[int],
    *,
    slope: Slope = "ols",
    weights: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Tensor:
    r"""Coefficients c with alpha = sum_j c_j log2(mass_j): every slope of `ols_slope` is linear in the log masses.

    Parameters
    ----------
    scales
        Box sides in pixels, ascending, at least two.
    slope
        ``ols``; ``weighted`` (plain means, the authors' code); ``wls`` (weighted means).
    weights
        r, shape (J,), positive; needed by the last two.
    dtype, device
        Of the result, where there are no weights to take them from.

    Returns
    -------
    Tensor
        c, shape (J,); its sum is 0 and its product with log2 of the scales is 1.

    Examples
    --------
    >>> slope_coefficients((2, 4, 8)).tolist(), slope_coefficients((2, 4, 8, 16)).tolist()
    ([-0.5, 0.0, 0.5], [-0.3, -0.1, 0.1, 0.3])
    """
    one_of("slope", slope, ("ols", "weighted", "wls"))
    scales = checked_scales(scales)
    if slope == "ols":
        t = torch.log2(torch.tensor(scales, dtype=torch.float64))
        t = t - t.mean()
        return (t / (t * t).sum()).to(dtype=dtype, device=device)
    if weights is None or weights.shape != (len(scales),):
        given = "none" if weights is None else f"shape {tuple(weights.shape)}"
        raise ValueError(f"slope={slope!r} needs one weight for each of the {len(scales)} scales, got {given}")
    t = torch.log2(torch.tensor(scales, dtype=weights.dtype, device=weights.device))
    if slope == "weighted":
        rt = weights * (t - t.mean())
        return (rt - rt.mean()) / (rt * (t - t.mean())).sum()
    t = t - (weights * t).sum() / weights.sum()
    return weights * t / (weights * t * t).sum()


def checked_scales(scales: Sequence[int]) -> tuple[int, ...]:
    """Box sides as integers, if they are at least two and ascend."""
    scales = tuple(int(side) for side in scales)
    if len(scales) < 2 or scales[0] < 1 or any(a >= b for a, b in pairwise(scales)):
        raise ValueError(f"scales are at least two ascending box sides in pixels, got {scales}")
    return scales
