"""Local Hölder exponents (Martins, Coimbra, Renna 2025, equation 16) and the box sums they rest on.

Two forms of one map. `literal_exponent` reads like the equation: all-ones convolutions, logarithms, a slope.
`local_exponent` is the one to use: every slope here is a fixed combination of the log masses, and the boxes of sides
2, 4, 8, ... come from one another by additions. Rescaling, the placement of even boxes and the zeros outside the border
follow the authors' code (github.com/miguelmartins/multifractal-recalibration, commit 3b723cd).
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["zero", "reflect", "circular"]
Slope = Literal["ols", "weighted", "wls"]
Rescaling = Literal["batch", "sample", "none"]

SCALES = (2, 4, 8)
EPS = 1e-7  # added to a mass before the logarithm, as the authors' code
BN_EPS, BN_MOMENTUM = 1e-3, 0.01  # batch norm as in the authors' framework, where it is written as momentum .99

_PAD_MODE = {"zero": "constant", "reflect": "reflect", "circular": "circular"}


def at_least_float32(x: Tensor) -> Tensor:
    """The same values, in float32 if `x` is of half precision (bf16 box sums alone move alpha by about 1e-3)."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Context in which operations on the device of `x` keep their dtype (the meta device, of dry runs, has no autocast)."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(device_type=x.device.type, enabled=False)


def one_of(name: str, value: str, known: Sequence[str]) -> str:
    """`value`, if it is known; otherwise an error that lists what is."""
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; known: {', '.join(known)}")
    return value


def expect_maps(x: Tensor, channels: int | None = None) -> None:
    """Raise unless `x` is a batch of maps, with `channels` of them if that number is given."""
    if x.ndim != 4 or x.numel() == 0:
        raise ValueError(f"expected maps of shape (B, C, H, W) without an empty axis, got {tuple(x.shape)}")
    if channels is not None and x.shape[1] != channels:
        raise ValueError(f"expected {channels} channels, got {x.shape[1]} in maps of shape {tuple(x.shape)}")


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


class _Rescale(torch.autograd.Function):
    """Rescaling of planes, block by block; the extremes receive their gradient from two sums over the group."""

    @staticmethod
    def forward(ctx, x: Tensor, over: Rescaling, low: float, high: float) -> Tensor:
        extremes = [block.flatten(1).aminmax(dim=1) for block in blocks_of_planes(x)]
        least = torch.cat([pair.min for pair in extremes]).view(x.shape[:2])
        most = torch.cat([pair.max for pair in extremes]).view(x.shape[:2])
        if over == "batch":
            least, most = least.amin(0).expand_as(least), most.amax(0).expand_as(most)
        factor = (high - low) / (most - least).clamp(1e-7, 1e9)
        ctx.save_for_backward(x, least, most)
        ctx.over, ctx.width = over, high - low
        scaled = torch.empty_like(x, memory_format=torch.contiguous_format)
        of_planes = _by_block(x, least, factor)
        for block, out, m, f in zip(blocks_of_planes(x), blocks_of_planes(scaled), *of_planes, strict=True):
            torch.sub(block, m, out=out).mul_(f).add_(low)
        return scaled

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, least, most = ctx.saved_tensors
        extremes = _by_block(x, least, most)
        sums = []
        for block, upstream, m, M in zip(blocks_of_planes(x), blocks_of_planes(grad), *extremes, strict=True):
            moment = (block - m).mul_(upstream)
            sums.append(torch.stack([part.sum((1, 2)) for part in (upstream, moment, block == m, block == M)]))
        sums = torch.cat(sums, 1).view(4, *x.shape[:2])
        if ctx.over == "batch":
            sums = sums.sum(1, keepdim=True).expand_as(sums)
        total, moment, at_least, at_most = sums
        span = most - least
        factor = ctx.width / span.clamp(1e-7, 1e9)
        moment = moment / span.clamp(1e-7, 1e9) * ((span >= 1e-7) & (span <= 1e9))  # no gradient to a clipped span
        to_least, to_most = factor * (moment - total) / at_least, -factor * moment / at_most
        to_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        of_planes = (*extremes, *_by_block(x, factor, to_least, to_most))
        blocks = (blocks_of_planes(x), blocks_of_planes(grad), blocks_of_planes(to_x))
        for block, upstream, out, m, M, f, a, b in zip(*blocks, *of_planes, strict=True):
            torch.mul(upstream, f, out=out)
            out.addcmul_((block == m).to(x.dtype), a).addcmul_((block == M).to(x.dtype), b)
        return to_x, None, None, None


BLOCK = 1 << 18  # elements of a block on a CPU: the few maps of it in use fit in the second-level cache


def _planes_in_a_block(x: Tensor) -> int:
    everything = x.shape[:-2].numel()
    return max(1, BLOCK // x.shape[-2:].numel()) if x.device.type == "cpu" else everything


def blocks_of_planes(x: Tensor, count: int | None = None) -> tuple[Tensor, ...]:
    """Blocks (n, H, W) of whole planes of (B, C, H, W): `count`, else what a CPU's cache holds; all on an accelerator."""
    return x.reshape(-1, *x.shape[-2:]).split(count or _planes_in_a_block(x))


def _by_block(x: Tensor, *per_plane: Tensor) -> list[tuple[Tensor, ...]]:
    """Numbers (B, C), one per plane of `x`, in the blocks of `x` and in a shape (n, 1, 1) that fits them."""
    return [values.reshape(-1, 1, 1).split(_planes_in_a_block(x)) for values in per_plane]


# -- step 2: box masses --------------------------------------------------------------------------------------------


def pad_for_box(x: Tensor, side: int, *, padding: Padding = "zero") -> Tensor:
    """Pad rows and columns by (side - 1) // 2 before and side // 2 after, so that a valid box of `side` keeps the size.

    Reflection repeats no border pixel and needs more rows and columns than side // 2; a circular border needs as many.
    """
    one_of("padding", padding, tuple(_PAD_MODE))
    if side < 1:
        raise ValueError(f"a box side is a positive number of pixels, got {side}")
    before, after = (side - 1) // 2, side // 2
    smallest = {"zero": 1, "reflect": after + 1, "circular": max(after, 1)}[padding]
    if min(x.shape[-2:]) < smallest:
        raise ValueError(
            f"a map of {x.shape[-2]} x {x.shape[-1]} pixels is too small for boxes of side {side} with "
            f"padding={padding!r}, which needs {smallest} x {smallest}: use padding='zero' or smaller scales"
        )
    return F.pad(x, (before, after, before, after), mode=_PAD_MODE[padding])


def _running_sum(x: Tensor, side: int, dim: int) -> Tensor:
    """Sums over `side` neighbours along `dim`, at every place where they fit, by doubling: about log2(side) passes."""
    places = x.shape[dim] - side + 1
    total, start, span = None, 0, 1
    while True:
        if side & span:
            piece = x.narrow(dim, start, places)
            total = piece if total is None else total + piece
            start += span
        if 2 * span > side:
            return total
        length = x.shape[dim] - span
        x = x.narrow(dim, 0, length) + x.narrow(dim, span, length)
        span *= 2


def _box_sum(x: Tensor, side: int) -> Tensor:
    return _running_sum(_running_sum(x, side, -1), side, -2)


class _ValidBoxSum(torch.autograd.Function):
    """Box sums where the box fits; the transpose is the same sum of the gradient in a frame of side - 1 zeros."""

    @staticmethod
    def forward(ctx, x: Tensor, side: int) -> Tensor:
        ctx.side = side
        return x.clone() if side == 1 else _box_sum(x, side)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        frame = ctx.side - 1
        return _ValidBoxSum.apply(F.pad(grad, (frame, frame, frame, frame)), ctx.side), None


def box_mass(x: Tensor, side: int, *, padding: Padding = "zero") -> Tensor:
    r"""Mass of the box of `side` pixels around every pixel, in the placement of a 'SAME' convolution.

    .. math:: \mu(B_k(i, j)) = \sum_{a=i-\lfloor (k-1)/2 \rfloor}^{i+\lfloor k/2 \rfloor}
              \ \sum_{b=j-\lfloor (k-1)/2 \rfloor}^{j+\lfloor k/2 \rfloor} x(a, b)

    Parameters
    ----------
    x
        Measure, shape (B, C, H, W).
    side
        Box side k in pixels. Even boxes are nested around the corner to the lower right of the pixel, not around the
        pixel: side 2 covers i and i + 1, side 4 covers i - 1 to i + 2.
    padding
        What lies outside: ``zero`` (the authors' code), ``reflect`` or ``circular``.

    Returns
    -------
    Tensor
        Mass, shape (B, C, H, W), dtype and unit of `x`.

    Raises
    ------
    ValueError
        `side` below 1; a map too small for the padding.

    Notes
    -----
    Additions only, about 4 log2(side) an element; no running total over the image, which float32 would not bear.

    Examples
    --------
    >>> box_mass(torch.ones(1, 1, 3, 3), 2)[0, 0].tolist()
    [[4.0, 4.0, 2.0], [4.0, 4.0, 2.0], [2.0, 2.0, 1.0]]
    """
    expect_maps(x)
    return _ValidBoxSum.apply(pad_for_box(x, side, padding=padding), side)


# -- step 3: a slope -----------------------------------------------------------------------------------------------


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
        c = slope_coefficients(scales, slope=slope, weights=weights, dtype=measure.dtype, device=measure.device)
        used = [j for j in range(len(scales)) if slope != "ols" or slope_coefficients(scales)[j] != 0]
        frame = (scales[-1] - 1) // 2, scales[-1] // 2
        if padding != "zero":
            measure, frame = pad_for_box(measure, scales[-1], padding=padding), (0, 0)
        return _LogMassSum.apply(measure, c[used], tuple(scales[j] for j in used), frame, eps)


class _LogMassSum(torch.autograd.Function):
    """sum_j c_j log2(mass_j + eps), block by block of planes, so that on a CPU all but input and output stays in cache.

    `frame` zeros are set around a map before its boxes are summed. Nothing but the map is kept for the backward pass,
    which makes the masses anew: that is cheaper than to store and to read them.
    """

    @staticmethod
    def forward(ctx, x: Tensor, c: Tensor, sides: tuple[int, ...], frame: tuple[int, int], eps: float) -> Tensor:
        ctx.save_for_backward(x, c)
        ctx.sides, ctx.frame, ctx.eps = sides, frame, eps
        alpha = x.new_empty(*x.shape[:-2], *(size + sum(frame) - sides[-1] + 1 for size in x.shape[-2:]))
        # the coefficients of a slope sum to 0: with two boxes left, one logarithm of their ratio is enough
        ratio_of_two = len(sides) == 2 and not ctx.needs_input_grad[1]
        c = c.tolist()
        count = _planes_in_a_block(x)
        for block, out in zip(blocks_of_planes(x, count), blocks_of_planes(alpha, count), strict=True):
            masses = _nested_masses(F.pad(block, ctx.frame * 2), ctx.sides, ctx.eps)
            if ratio_of_two:
                torch.div(masses[1], masses[0], out=out).log2_().mul_(c[1])
            else:
                torch.mul(masses[0].log2_(), c[0], out=out)
                for c_j, mass in zip(c[1:], masses[1:], strict=True):
                    out.add_(mass.log2_(), alpha=c_j)
        return alpha

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, c = ctx.saved_tensors
        to_x, to_c = torch.empty_like(x, memory_format=torch.contiguous_format), torch.zeros_like(c)
        start, rows, columns = ctx.frame[0], *x.shape[-2:]
        factors = [c_j / math.log(2) for c_j in c.tolist()]
        blocks = (blocks_of_planes(part, _planes_in_a_block(x)) for part in (x, to_x, grad))
        for block, out, upstream in zip(*blocks, strict=True):
            masses = _nested_masses(F.pad(block, ctx.frame * 2), ctx.sides, ctx.eps)
            if ctx.needs_input_grad[1]:
                to_c += torch.stack([(upstream * mass.log2()).sum() for mass in masses])
            if ctx.needs_input_grad[0]:
                shares = [torch.div(upstream, mass, out=mass).mul_(f) for f, mass in zip(factors, masses, strict=True)]
                spread = _nested_masses_transposed(shares, ctx.sides)
                out.copy_(_interior(spread, start, rows, columns))
        return to_x if ctx.needs_input_grad[0] else None, to_c if ctx.needs_input_grad[1] else None, None, None, None


def _first_place(side: int, largest: int) -> int:
    """Where, in a map padded for the largest box, the box of `side` around pixel 0 begins."""
    return (largest - 1) // 2 - (side - 1) // 2


def _powers_of_two(sides: tuple[int, ...]) -> bool:
    return all(side & (side - 1) == 0 for side in sides)


def _interior(x: Tensor, start: int, rows: int, columns: int) -> Tensor:
    return x[..., start : start + rows, start : start + columns]


def _double(sums: Tensor, span: int) -> Tensor:
    """Four boxes of side `span` make one of twice that side."""
    sums = sums[..., :-span] + sums[..., span:]
    return sums[..., :-span, :] + sums[..., span:, :]


def _nested_masses(padded: Tensor, sides: tuple[int, ...], eps: float) -> list[Tensor]:
    """Masses plus eps of the boxes of all `sides`, ascending, around every pixel of a map padded for the largest."""
    rows, columns = (size - sides[-1] + 1 for size in padded.shape[-2:])
    masses, sums, span = [], padded, 1
    for side in sides:
        if _powers_of_two(sides):
            while span < side:
                sums, span = _double(sums, span), 2 * span
        else:
            sums = _box_sum(padded, side)
        masses.append(_interior(sums, _first_place(side, sides[-1]), rows, columns))
    return [mass + eps if side == 1 else mass.add_(eps) for side, mass in zip(sides, masses, strict=True)]


def _nested_masses_transposed(shares: list[Tensor], sides: tuple[int, ...]) -> Tensor:
    """Transpose of `_nested_masses`: one gradient per mass in, the gradient of the padded map out."""
    rows, columns = shares[0].shape[-2:]
    largest = sides[-1]
    if not _powers_of_two(sides):
        grad = shares[0].new_zeros(*shares[0].shape[:-2], rows + largest - 1, columns + largest - 1)
        for side, share in zip(sides, shares, strict=True):
            spread = _box_sum(F.pad(share, (side - 1,) * 4), side)
            _interior(grad, _first_place(side, largest), *spread.shape[-2:]).add_(spread)
        return grad
    # The same doubling from the widest box down, in a frame of zeros that shrinks by `span` at each step: halfway, the
    # gradient of the sums of side k sits in a frame of k - 1.
    spread, span = F.pad(shares[-1], (largest - 1,) * 4), largest
    for side, share in zip((*sides[-2::-1], 1), (*shares[-2::-1], None), strict=True):
        while span > side:
            span //= 2
            spread = _double(spread, span)
        if share is not None:
            _interior(spread, _first_place(side, largest) + side - 1, rows, columns).add_(share)
    return spread


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
        self.padding = one_of("padding", padding, tuple(_PAD_MODE))
        self.eps = eps
        self.slope_weights = None if slope == "ols" else nn.Parameter(torch.empty(len(self.scales)))
        self.norm = nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM) if batch_norm else None
        if self.slope_weights is not None:
            bound = (3 / len(self.scales)) ** 0.5
            nn.init.uniform_(self.slope_weights, -bound, bound)

    def raw(self, x: Tensor) -> Tensor:
        """Alpha before batch norm, shape (B, C, H, W)."""
        expect_maps(x, self.channels)
        weights = None if self.slope_weights is None else torch.sigmoid(self.slope_weights)
        measure = rescale(x, over=self.minmax)
        return local_exponent(
            measure, scales=self.scales, slope=self.slope, weights=weights, padding=self.padding, eps=self.eps
        )

    def forward(self, x: Tensor) -> Tensor:
        """Alpha, shape (B, C, H, W)."""
        alpha = self.raw(x)
        if self.norm is None:
            return alpha
        with without_autocast(x):
            return self.norm(alpha)

    def pooled(self, x: Tensor) -> Tensor:
        r"""Mean of `forward` over rows and columns, shape (B, C), without a batch-normed map in memory.

        .. math:: \mathrm{GAP}(\mathrm{BN}(\alpha)) = \gamma\,\frac{\mathrm{GAP}(\alpha) - m}{\sqrt{v + \epsilon}} + \beta
        """
        alpha = self.raw(x)
        with without_autocast(x):
            gap = alpha.mean((2, 3))
            norm = self.norm
            if norm is None:
                return gap
            if self.training:
                variance, mean = torch.var_mean(alpha, (0, 2, 3), correction=0)
                update_running(norm, mean, variance, alpha.numel() // alpha.shape[1])
            else:
                mean, variance = norm.running_mean, norm.running_var
            return (gap - mean) * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias

    def extra_repr(self) -> str:
        """The settings, as `print` shows them."""
        return f"scales={self.scales}, slope={self.slope!r}, minmax={self.minmax!r}, padding={self.padding!r}"
