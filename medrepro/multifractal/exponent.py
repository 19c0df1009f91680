"""Local Hölder exponents (Martins, Coimbra, Renna 2025, equation 16) and the box sums they rest on.

Two forms of one map. `literal_exponent` reads like the equation: all-ones convolutions, logarithms, a slope.
`local_exponent` is the one to use: every slope here is a fixed combination of the log masses, and the boxes of sides
2, 4, 8, ... come from one another by additions. Rescaling, the placement of even boxes and the zeros outside the border
follow the authors' code (github.com/miguelmartins/multifractal-recalibration, commit 3b723cd).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrepro.multifractal.boxes import PAD_MODE, NestedBoxes, Padding, pad_for_box
from medrepro.multifractal.boxes import box_mass as box_mass
from medrepro.multifractal.maps import (
    at_least_float32,
    blocks_of_planes,
    by_block,
    expect_maps,
    one_of,
    planes_in_a_block,
    without_autocast,
)

Slope = Literal["ols", "weighted", "wls"]
Rescaling = Literal["batch", "sample", "none"]

SCALES = (2, 4, 8)
EPS = 1e-7  # added to a mass before the logarithm, as the authors' code
LOW, HIGH = 1.0, 256.0  # range of a rescaled measure
BN_EPS, BN_MOMENTUM = 1e-3, 0.01  # batch norm as in the authors' framework, where it is written as momentum .99


# -- step 1: a positive measure ------------------------------------------------------------------------------------


def rescale(x: Tensor, *, over: Rescaling = "batch", low: float = 1.0, high: float = 256.0) -> Tensor:
    r"""Stretch each channel to [low, high], so that it can serve as a positive measure.

    .. math:: \hat x = low + (high - low)\,\frac{x - \min x}{\mathrm{clip}(\max x - \min x,\ 10^{-7},\ 10^9)}

    Parameters
    ----------
    x
        Feature maps, shape (B, C, H, W), any sign.
    over
        Extremes per channel over the whole ``batch`` (the authors' code: an image's result depends on its batch mates),
        over each ``sample`` alone, or ``none``: `x` is returned as it is.
    low, high
        Ends of the new range. With 1 and 256 the mass of every box is at least 1.

    Returns
    -------
    Tensor
        Shape of `x`; float32 if `x` is of half precision, else its dtype. A constant channel becomes `low`.

    Raises
    ------
    ValueError
        `x` is not a batch of maps; `over` is unknown.

    Notes
    -----
    Tied extremes share the gradient equally. On a constant channel the slope is (high - low) / 1e-7: finite but huge.

    Examples
    --------
    >>> rescale(torch.tensor([[[[-1.0, 0.0], [0.0, 4.0]]]])).tolist()
    [[[[1.0, 52.0], [52.0, 256.0]]]]
    """
    one_of("over", over, ("batch", "sample", "none"))
    expect_maps(x)
    with without_autocast(x):
        x = at_least_float32(x)
        if over == "none":
            return x
        return _Rescale.apply(x, over, low, high)


class _Extremes(NamedTuple):
    """Least and most entry of every plane's group, shape (B, C) each: of a channel over the batch, or of the plane itself."""

    least: Tensor
    most: Tensor

    @classmethod
    def of(cls, x: Tensor, over: Rescaling) -> "_Extremes":
        planes = [block.flatten(1) for block in blocks_of_planes(x)]
        least = torch.cat([block.amin(1) for block in planes]).view(x.shape[:2])
        most = torch.cat([block.amax(1) for block in planes]).view(x.shape[:2])
        if over == "batch":
            least, most = least.amin(0).expand_as(least), most.amax(0).expand_as(most)
        return cls(least, most)

    def span(self) -> Tensor:
        return (self.most - self.least).clamp(1e-7, 1e9)

    def clipped(self) -> Tensor:
        """Where no gradient reaches the span."""
        span = self.most - self.least
        return (span < 1e-7) | (span > 1e9)

    def add_gradient(self, x: Tensor, to_x: Tensor, over: Rescaling, to_least: Tensor, to_most: Tensor) -> None:
        """Add to `to_x` the gradients of both extremes, planes' parts (B, C), shared equally by tied entries."""
        flags = torch.empty_like(blocks_of_planes(x)[0])
        ties = []
        for block, *ends in zip(blocks_of_planes(x), *by_block(x, *self), strict=True):
            at = [torch.eq(block, end, out=flags[: len(block)]).sum((1, 2)) for end in ends]
            ties.append(torch.stack(at))
        sums = torch.stack([to_least, to_most]), torch.cat(ties, 1).view(2, *x.shape[:2])
        if over == "batch":
            sums = [part.sum(1, keepdim=True).expand_as(part) for part in sums]
        shares = sums[0] / sums[1]
        blocks = blocks_of_planes(x), blocks_of_planes(to_x)
        for block, out, least, most, a, b in zip(*blocks, *by_block(x, *self, *shares), strict=True):
            for end, share in ((least, a), (most, b)):
                out.addcmul_(torch.eq(block, end, out=flags[: len(block)]), share)


class _Rescale(torch.autograd.Function):
    """Rescaling of planes, block by block; the extremes receive their gradient from two sums over the group."""

    @staticmethod
    def forward(ctx, x: Tensor, over: Rescaling, low: float, high: float) -> Tensor:
        ends = _Extremes.of(x, over)
        ctx.save_for_backward(x, *ends)
        ctx.over, ctx.width = over, high - low
        scaled = torch.empty_like(x, memory_format=torch.contiguous_format)
        of_planes = by_block(x, ends.least, (high - low) / ends.span())
        for block, out, m, f in zip(blocks_of_planes(x), blocks_of_planes(scaled), *of_planes, strict=True):
            torch.sub(block, m, out=out).mul_(f).add_(low)
        return scaled

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, *ends = ctx.saved_tensors
        ends = _Extremes(*ends)
        factor = ctx.width / ends.span()
        to_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        blocks = blocks_of_planes(x), blocks_of_planes(grad), blocks_of_planes(to_x)
        totals, moments = [], []
        for block, upstream, out, m, f in zip(*blocks, *by_block(x, ends.least, factor), strict=True):
            torch.sub(block, m, out=out).mul_(upstream)
            moments.append(out.sum((1, 2)))
            totals.append(torch.mul(upstream, f, out=out).sum((1, 2)))
        total, moment = (torch.cat(parts).view(x.shape[:2]) for parts in (totals, moments))
        moment = (moment * factor / ends.span()).masked_fill(ends.clipped(), 0)
        ends.add_gradient(x, to_x, ctx.over, moment - total, -moment)
        return to_x, None, None, None


# -- step 2: a slope -----------------------------------------------------------------------------------------------


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
    scales = _checked_scales(scales)
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


def _checked_scales(scales: Sequence[int]) -> tuple[int, ...]:
    scales = tuple(int(side) for side in scales)
    if len(scales) < 2 or scales[0] < 1 or any(a >= b for a, b in pairwise(scales)):
        raise ValueError(f"scales are at least two ascending box sides in pixels, got {scales}")
    return scales


# -- the exponent --------------------------------------------------------------------------------------------------


def local_exponent(
    measure: Tensor,
    *,
    scales: Sequence[int] = SCALES,
    slope: Slope = "ols",
    weights: Tensor | None = None,
    padding: Padding = "zero",
    eps: float = EPS,
    check: bool = False,
) -> Tensor:
    r"""Local Hölder exponent: the slope of log box mass against log box size at every pixel.

    .. math:: \alpha(x) = \mathrm{slope}_k \big(\log k,\ \log \mu(B_k(x))\big)

    Parameters
    ----------
    measure
        Non-negative mass, shape (B, C, H, W). A constant factor does not change the result.
    scales
        Box sides in pixels, ascending, at least two. Slopes are exact for a pure power law at any choice.
    slope
        ``ols`` (equation 16), ``weighted`` (the authors' code inside Multi: plain means) or ``wls`` (weighted means).
    weights
        Positive weight of each scale, shape (J,), for the last two.
    padding
        What lies outside the border: ``zero`` (the authors' code), ``reflect`` or ``circular``.
    eps
        Added to a box's mass before the logarithm, in the unit of `measure`.
    check
        Also look for negative and non-finite entries, at the price of a pass over the map.

    Returns
    -------
    Tensor
        alpha, shape (B, C, H, W), no unit; float32 if `measure` is of half precision, else its dtype. 2 inside a flat
        region of a plane.

    Raises
    ------
    ValueError
        Fewer than two scales, or not ascending; a map too small for the padding; weights missing or misshapen; with
        `check`, a negative or non-finite entry.

    Notes
    -----
    Equation 16 of [1]_ (least squares over log k). Border: zeros outside, as the authors' code does, so alpha falls
    below 2 along the upper and left edges of a flat image. At scales 2, 4, 8 ordinary least squares gives
    alpha = log2(mass_8 / mass_2) / 2: the middle box drops out.

    References
    ----------
    .. [1] Martins, Coimbra, Renna. Multifractal Recalibration of Neural Networks for Medical Imaging
       Segmentation. arXiv:2512.02198, 2025.

    Examples
    --------
    >>> round(local_exponent(torch.ones(1, 1, 16, 16))[0, 0, 8, 8].item(), 3)
    2.0
    """
    expect_maps(measure)
    scales = _checked_scales(scales)
    with without_autocast(measure):
        measure = at_least_float32(measure)
        if check and not (torch.isfinite(measure).all() and (measure >= 0).all()):
            raise ValueError("a measure has finite entries, none negative: rescale the maps first (`rescale`)")
        if weights is not None:
            weights = weights.to(measure.dtype)
        c, sides = _coefficients(scales, slope, weights, measure)
        if padding != "zero":
            measure = pad_for_box(measure, scales[-1], padding=padding)
        return _ExponentMap.apply(measure, c, _Slope(sides, framed=padding == "zero", eps=eps, over="none"))


def _coefficients(
    scales: tuple[int, ...], slope: Slope, weights: Tensor | None, like: Tensor
) -> tuple[Tensor, tuple[int, ...]]:
    """Coefficients other than 0, and the scales that have them."""
    c = slope_coefficients(scales, slope=slope, weights=weights, dtype=like.dtype, device=like.device)
    if slope != "ols" or len(scales) % 2 == 0 or c[len(scales) // 2] != 0:
        return c, scales
    middle = len(scales) // 2
    return torch.cat([c[:middle], c[middle + 1 :]]), scales[:middle] + scales[middle + 1 :]


class _Slope(NamedTuple):
    """How an exponent is made from a map."""

    sides: tuple[int, ...]  # with a coefficient other than 0; the largest scale is always among them
    framed: bool  # zeros outside the map; otherwise it has been padded
    eps: float  # added to a mass
    over: Rescaling  # the map is rescaled first, unless ``none``


class _Exponents:
    r"""Exponents of a map, block by block of planes: on a CPU all but input and output stays in cache.

    Coefficients of a slope sum to 0, so that one logarithm of a ratio serves two boxes:

    .. math:: \alpha = \sum_j c_j \log_2 \mu_j = \sum_j d_j \log_2 \frac{\mu_{j+1}}{\mu_j}, \qquad d_j = \sum_{i > j} c_i

    A factor on a measure leaves its exponent alone: a map is not stretched to [1, 256] but to [1/255, 256/255] of its
    span, which takes no product. Masses are then at least that of one entry, and eps would change nothing.
    """

    def __init__(self, x: Tensor, c: Tensor, how: _Slope, ends: _Extremes | None) -> None:
        self.x, self.how, self.ends = x, how, ends
        self.c = c.tolist()
        self.d = [sum(self.c[j + 1 :]) for j in range(len(self.c) - 1)]
        self.count = planes_in_a_block(x)
        self.boxes = NestedBoxes(x, self.count, *x.shape[-2:], how.sides, framed=how.framed)
        self.size = self.boxes.masses_size
        self.spare = x.new_empty(self.count, *self.size) if len(self.d) > 1 else None

    def blocks(self, *others: Tensor) -> Iterator[tuple[list[Tensor], tuple[Tensor, ...]]]:
        """Masses of block after block, with the same blocks of the other maps."""
        parts = [blocks_of_planes(other, self.count) for other in others]
        shifts = () if self.ends is None else by_block(self.x, self.ends.least, self.ends.span() * (LOW / (HIGH - LOW)))
        for number, block in enumerate(blocks_of_planes(self.x, self.count)):
            measure = self.boxes.block(len(block))
            if shifts:
                torch.sub(block, shifts[0][number], out=measure).add_(shifts[1][number])
            else:
                measure.copy_(block)
            eps = 0.0 if shifts else self.how.eps
            yield self.boxes.masses(len(block), eps), tuple(part[number] for part in parts)

    def alpha(self, masses: list[Tensor], out: Tensor) -> Tensor:
        """Exponents of a block, into `out`."""
        torch.div(masses[1], masses[0], out=out).log2_().mul_(self.d[0])
        for d, (smaller, larger) in zip(self.d[1:], pairwise(masses[1:])):
            out.add_(torch.div(larger, smaller, out=self.spare[: len(out)]).log2_(), alpha=d)
        return out

    def to_c(self, masses: list[Tensor], upstream: Tensor) -> Tensor:
        """Gradient of the coefficients, shape (J,), up to a constant along which their sum would move."""
        logs = (torch.div(larger, smaller).log2_() for smaller, larger in pairwise(masses))
        along = torch.stack([(log * upstream).sum() for log in logs])
        return F.pad(along.cumsum(0), (1, 0))

    def gradient(
        self, upstream: Callable[..., Tensor], others: Sequence[Tensor], *, to_c: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients of the map and of the coefficients, from the gradient `upstream` makes of masses and other blocks."""
        to_x = torch.empty_like(self.x, memory_format=torch.contiguous_format)
        factors = [c / math.log(2) for c in self.c]
        totals, coefficients = [], []
        for masses, (out, *parts) in self.blocks(to_x, *others):
            given = upstream(masses, *parts)
            if to_c:
                coefficients.append(self.to_c(masses, given))
            self.boxes.spread(given, masses, factors, out)
            if self.ends is not None:
                totals.append(out.sum((1, 2)))
        if self.ends is not None:
            total = torch.cat(totals).view(self.x.shape[:2])
            stretch = (total * (LOW / (HIGH - LOW))).masked_fill(self.ends.clipped(), 0)
            self.ends.add_gradient(self.x, to_x, self.how.over, -total - stretch, stretch)
        return to_x, sum(coefficients) if to_c else None


def _exponents(ctx, x: Tensor, c: Tensor, how: _Slope) -> _Exponents:
    """Exponents of a map, with what their backward pass needs put aside: the map, two numbers a plane, and no more."""
    ends = None if how.over == "none" else _Extremes.of(x, how.over)
    ctx.save_for_backward(x, c, *(ends or ()))
    ctx.how = how
    return _Exponents(x, c, how, ends)


def _again(ctx) -> _Exponents:
    """The same exponents in the backward pass: to make masses anew is cheaper than to store and to read them."""
    x, c, *ends = ctx.saved_tensors
    return _Exponents(x, c, ctx.how, _Extremes(*ends) if ends else None)


class _ExponentMap(torch.autograd.Function):
    """The map of exponents."""

    @staticmethod
    def forward(ctx, x: Tensor, c: Tensor, how: _Slope) -> Tensor:
        exponents = _exponents(ctx, x, c, how)
        alpha = x.new_empty(*x.shape[:-2], *exponents.size)
        for masses, (out,) in exponents.blocks(alpha):
            exponents.alpha(masses, out)
        return alpha

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        to_x, to_c = _again(ctx).gradient(lambda masses, given: given, [grad], to_c=ctx.needs_input_grad[1])
        return to_x, to_c, None


class _PooledExponent(torch.autograd.Function):
    """Mean of alpha over every plane and, if asked for, its population variance there; (B, C) each, no map of alpha."""

    @staticmethod
    def forward(ctx, x: Tensor, c: Tensor, how: _Slope, with_variance: bool) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        exponents = _exponents(ctx, x, c, how)
        alpha, means, variances = x.new_empty(exponents.count, *exponents.size), [], []
        for masses, (block,) in exponents.blocks(x):
            out = exponents.alpha(masses, alpha[: len(block)])
            means.append(out.mean((1, 2)))
            if with_variance:
                norm = torch.linalg.vector_norm(out.sub_(means[-1][:, None, None]), dim=(1, 2))
                variances.append(norm.square().div_(out[0].numel()))
        ctx.mean = torch.cat(means).view(x.shape[:2])
        return ctx.mean.clone(), torch.cat(variances).view(x.shape[:2]) if with_variance else None

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, to_mean: Tensor | None, to_variance: Tensor | None) -> tuple[Tensor, Tensor | None, None, None]:
        exponents = _again(ctx)
        pixels = exponents.size[0] * exponents.size[1]
        once = torch.zeros_like(ctx.mean) if to_mean is None else to_mean / pixels
        if to_variance is None:
            upstream, of_planes = lambda masses, once: once, [once]
        else:
            twice = to_variance * (2 / pixels)
            alpha = once.new_empty(exponents.count, *exponents.size)
            upstream = lambda masses, once, twice: exponents.alpha(masses, alpha[: len(once)]).mul_(twice).add_(once)
            of_planes = [once - twice * ctx.mean, twice]
        to_x, to_c = exponents.gradient(
            upstream, [part[..., None, None] for part in of_planes], to_c=ctx.needs_input_grad[1]
        )
        return to_x, to_c, None, None


def literal_exponent(
    measure: Tensor,
    *,
    scales: Sequence[int] = SCALES,
    slope: Slope = "ols",
    weights: Tensor | None = None,
    padding: Padding = "zero",
    eps: float = EPS,
) -> Tensor:
    r"""The exponent as the equation reads: all-ones convolutions, natural logarithms, a stack, a slope.

    Same arguments and result as `local_exponent`; slow, and kept to test it and to be read.

    Examples
    --------
    >>> x = torch.rand(1, 2, 9, 9) + 1
    >>> torch.allclose(literal_exponent(x), local_exponent(x), atol=1e-5)
    True
    """
    expect_maps(measure)
    channels = measure.shape[1]
    with without_autocast(measure):
        measure = at_least_float32(measure)
        log_masses = []
        for side in _checked_scales(scales):
            ones = measure.new_ones(channels, 1, side, side)
            mass = F.conv2d(pad_for_box(measure, side, padding=padding), ones, groups=channels)
            log_masses.append(torch.log(mass + eps))
        log_sizes = torch.log(torch.tensor(scales, dtype=measure.dtype, device=measure.device))
        means = "weighted" if slope == "wls" else "plain"
        return ols_slope(torch.stack(log_masses, -1), log_sizes, weights=weights, means=means)


def update_running(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, variance: Tensor, n: int) -> None:
    """Move a batch norm's running statistics towards those of n values, whose population variance is given.

    The running variance takes the unbiased one, as PyTorch does; with n = 0 it takes `variance` as it is.
    """
    with torch.no_grad():
        unbiased = variance * (n / (n - 1)) if n > 1 else variance
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
        norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
        norm.num_batches_tracked.add_(1)


class Exponent(nn.Module):
    r"""Exponent map of feature maps: rescale, box masses, slope, and batch norm if asked for.

    Parameters
    ----------
    channels
        C; needed with `batch_norm` only.
    scales, slope, padding, eps
        As in `local_exponent`. With ``weighted`` or ``wls`` the weights are r_j = sigmoid(w_j), one learned w_j per
        scale, drawn from U(-sqrt(3/J), sqrt(3/J)) at the start (Glorot uniform, U(-1, 1) for three scales).
    minmax
        Over what `rescale` looks for extremes.
    batch_norm
        Standardise alpha per channel, as the authors' code does and equations 21 to 25 do not.

    Shape
    -----
    (B, C, H, W) -> (B, C, H, W), float32 if the input is of half precision.

    Parameters at the default setting: 0. J more with a weighted slope, 2 C more with batch norm.

    Examples
    --------
    >>> Exponent()(torch.full((1, 1, 16, 16), 7.0))[0, 0, 8, 8].item()
    2.0
    """

    def __init__(
        self,
        channels: int | None = None,
        *,
        scales: Sequence[int] = SCALES,
        slope: Slope = "ols",
        minmax: Rescaling = "batch",
        batch_norm: bool = False,
        padding: Padding = "zero",
        eps: float = EPS,
    ) -> None:
        super().__init__()
        if batch_norm and channels is None:
            raise ValueError("Exponent with batch_norm=True needs the number of channels")
        self.channels = channels
        self.scales = _checked_scales(scales)
        self.slope = one_of("slope", slope, ("ols", "weighted", "wls"))
        self.minmax = one_of("minmax", minmax, ("batch", "sample", "none"))
        self.padding = one_of("padding", padding, tuple(PAD_MODE))
        self.eps = eps
        self.slope_weights = None if slope == "ols" else nn.Parameter(torch.empty(len(self.scales)))
        self.norm = nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM) if batch_norm else None
        if self.slope_weights is not None:
            bound = (3 / len(self.scales)) ** 0.5
            nn.init.uniform_(self.slope_weights, -bound, bound)

    def raw(self, x: Tensor) -> Tensor:
        """Alpha before batch norm, shape (B, C, H, W)."""
        with without_autocast(x):
            return _ExponentMap.apply(*self._prepared(x))

    def _prepared(self, x: Tensor) -> tuple[Tensor, Tensor, _Slope]:
        """Map, coefficients, and what is done with them."""
        expect_maps(x, self.channels)
        x, over = at_least_float32(x), self.minmax
        if self.padding != "zero":  # the extremes are those of the map, not of what is set around it
            x, over = pad_for_box(rescale(x, over=over), self.scales[-1], padding=self.padding), "none"
        weights = None if self.slope_weights is None else torch.sigmoid(self.slope_weights).to(x.dtype)
        c, sides = _coefficients(self.scales, self.slope, weights, x)
        return x, c, _Slope(sides, framed=self.padding == "zero", eps=self.eps, over=over)

    def forward(self, x: Tensor) -> Tensor:
        """Alpha, shape (B, C, H, W)."""
        alpha = self.raw(x)
        if self.norm is None:
            return alpha
        with without_autocast(x):
            return self.norm(alpha)

    def pooled(self, x: Tensor) -> Tensor:
        r"""Mean of `forward` over rows and columns, shape (B, C), without a map of exponents in memory.

        .. math:: \mathrm{GAP}(\mathrm{BN}(\alpha)) = \gamma\,\frac{\mathrm{GAP}(\alpha) - m}{\sqrt{v + \epsilon}} + \beta
        """
        norm = self.norm
        with without_autocast(x):
            from_batch = norm is not None and self.training
            gap, variance = _PooledExponent.apply(*self._prepared(x), from_batch)
            if norm is None:
                return gap
            mean = norm.running_mean
            if from_batch:
                mean = gap.mean(0)
                variance = variance.mean(0) + (gap - mean).square().mean(0)
                update_running(norm, mean, variance, x.numel() // x.shape[1])
            else:
                variance = norm.running_var
            return (gap - mean) * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias

    def extra_repr(self) -> str:
        """The settings, as `print` shows them."""
        return f"scales={self.scales}, slope={self.slope!r}, minmax={self.minmax!r}, padding={self.padding!r}"
