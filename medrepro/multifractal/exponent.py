"""Local Hölder exponents (Martins, Coimbra, Renna 2025, equation 16) and the box sums they rest on.

Two forms of one map. `literal_exponent` reads like the equation: all-ones convolutions, logarithms, a slope.
`local_exponent` is the one to use: every slope here is a fixed combination of the log masses, and the boxes of sides
2, 4, 8, ... come from one another by additions. Rescaling, the placement of even boxes and the zeros outside the border
follow the authors' code (github.com/miguelmartins/multifractal-recalibration, commit 3b723cd).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrepro.multifractal.boxes import PAD_MODE, NestedBoxes, Padding, pad_for_box
from medrepro.multifractal.boxes import box_mass as box_mass
from medrepro.multifractal.maps import (
    at_least_float32,
    expect_maps,
    fits_in_a_block,
    one_of,
    planes_in_a_block,
    split,
    without_autocast,
)
from medrepro.multifractal.measure import HIGH, LOW, Extremes, Rescaling, planes_of, rescale
from medrepro.multifractal.slopes import Slope, checked_scales, ols_slope, slope_coefficients

SCALES = (2, 4, 8)
EPS = 1e-7  # added to a mass before the logarithm, as the authors' code
BN_EPS, BN_MOMENTUM = 1e-3, 0.01  # batch norm as in the authors' framework, where it is written as momentum .99


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
    scales = checked_scales(scales)
    with without_autocast(measure):
        measure = at_least_float32(measure)
        if check and not (torch.isfinite(measure).all() and (measure >= 0).all()):
            raise ValueError("a measure has finite entries, none negative: rescale the maps first (`rescale`)")
        if weights is not None:
            weights = weights.to(measure.dtype)
        c, sides = _coefficients(scales, slope, weights, measure)
        if padding != "zero":
            measure = pad_for_box(measure, scales[-1], padding=padding)
        return _ExponentMap.apply(measure, c, _Slope(sides, framed=padding == "zero", eps=eps))


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
    over: Rescaling = "none"  # the map is rescaled first, unless ``none``
    channels: int | None = None  # C, if it is rescaled over the batch


class _Exponents:
    r"""Exponents of a map, block by block of planes: on a CPU all but input and output stays in cache.

    Coefficients of a slope sum to 0, so that one logarithm of a ratio serves two boxes:

    .. math:: \alpha = \sum_j c_j \log_2 \mu_j = \sum_j d_j \log_2 \frac{\mu_{j+1}}{\mu_j}, \qquad d_j = \sum_{i > j} c_i

    A factor on a measure leaves its exponent alone: a map is not stretched to [1, 256] but to [1/255, 256/255] of its
    span, which takes no product. Masses are then at least that of one entry, and eps would change nothing.
    """

    def __init__(
        self,
        planes: Tensor,
        c: Tensor,
        how: _Slope,
        ends: Tensor | None = None,
        made: list[Tensor] | None = None,
    ) -> None:
        self.planes, self.how = planes, how
        self.extremes = None if how.over == "none" else Extremes(planes, how.channels, ends)
        self.c = c.tolist()
        self.d = [sum(self.c[j + 1 :]) for j in range(len(self.c) - 1)]
        self.count = planes_in_a_block(planes)
        self.boxes = NestedBoxes(planes, self.count, *planes.shape[-2:], how.sides, framed=how.framed)
        self.size = self.boxes.masses_size
        self.made = made or None  # masses of all planes, where they fit into one block and wait for the backward pass

    def blocks(self, *others: Tensor) -> Iterator[tuple[list[Tensor], tuple[Tensor, ...]]]:
        """Masses of block after block, with the same blocks of other tensors."""
        parts = [split(part, self.count) for part in (self.planes, *others)]
        if self.made is not None:
            yield self.made, others
            return
        eps, offset = self.how.eps, None
        if self.extremes is not None:
            eps, offset = 0.0, self.extremes.span * (LOW / (HIGH - LOW))
            parts += [split(part, self.count) for part in (self.extremes.least, offset)]
        for block, *rest in zip(*parts, strict=True):
            measure = self.boxes.block(len(block))
            if offset is None:
                measure.copy_(block)
            else:
                more, least = rest.pop(), rest.pop()
                torch.sub(block, least[:, None, None], out=measure).add_(more[:, None, None])
            masses = self.boxes.masses(len(block), eps)
            if fits_in_a_block(self.planes):
                self.made = masses
            yield masses, tuple(rest)

    def alpha(self, masses: list[Tensor], out: Tensor) -> Tensor:
        """Exponents of a block, into `out`."""
        torch.div(masses[1], masses[0], out=out).log2_().mul_(self.d[0])
        for d, (smaller, larger) in zip(self.d[1:], pairwise(masses[1:])):
            out.add_(torch.div(larger, smaller).log2_(), alpha=d)
        return out

    def to_c(self, masses: list[Tensor], upstream: Tensor) -> Tensor:
        """Gradient of the coefficients, shape (J,), up to a constant along which their sum would move."""
        logs = (torch.div(larger, smaller).log2_() for smaller, larger in pairwise(masses))
        along = torch.stack([log.mul_(upstream).sum() for log in logs])
        return F.pad(along.cumsum(0), (1, 0))

    def gradient(
        self, upstream: Callable[..., Tensor], others: Sequence[Tensor], *, to_c: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients of planes and coefficients, from the gradient `upstream` makes of masses and blocks of `others`."""
        to_planes = torch.empty_like(self.planes)
        factors = [c / math.log(2) for c in self.c]
        totals, coefficients = [], []
        for masses, (out, *parts) in self.blocks(to_planes, *others):
            given = upstream(masses, *parts)
            if to_c:
                coefficients.append(self.to_c(masses, given))
            self.boxes.spread(given, masses, factors, out)
            if self.extremes is not None:
                totals.append(out.sum((1, 2)))
        if self.extremes is not None:
            total = torch.cat(totals)
            stretch = (total * (LOW / (HIGH - LOW))).masked_fill_(self.extremes.no_gradient_to_span(), 0)
            self.extremes.add_gradient(to_planes, torch.stack([-total - stretch, stretch]))
        return to_planes, sum(coefficients) if to_c else None


def _keep(ctx, exponents: _Exponents, c: Tensor) -> None:
    """Put aside what the backward pass needs: planes, two numbers for each, and the masses of small maps."""
    ends = None if exponents.extremes is None else exponents.extremes.ends
    ctx.save_for_backward(exponents.planes, c, ends, *(exponents.made or ()))
    ctx.how = exponents.how


def _again(ctx) -> _Exponents:
    """The same exponents in the backward pass: to make masses anew is cheaper than to store and to read large ones."""
    planes, c, ends, *made = ctx.saved_tensors
    return _Exponents(planes, c, ctx.how, ends, made)


class _ExponentMap(torch.autograd.Function):
    """The map of exponents."""

    @staticmethod
    def forward(ctx, x: Tensor, c: Tensor, how: _Slope) -> Tensor:
        exponents = _Exponents(planes_of(x), c, how)
        alpha = x.new_empty(len(exponents.planes), *exponents.size)
        for masses, (out,) in exponents.blocks(alpha):
            exponents.alpha(masses, out)
        _keep(ctx, exponents, c)
        ctx.shape = x.shape
        return alpha.view(*x.shape[:-2], *exponents.size)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        same = lambda masses, upstream: upstream
        to_planes, to_c = _again(ctx).gradient(same, [planes_of(grad)], to_c=ctx.needs_input_grad[1])
        return to_planes.view(ctx.shape), to_c, None


class _PooledExponent(torch.autograd.Function):
    """Mean of alpha over every plane and, if asked for, its population variance there; (B, C) each, no map of alpha."""

    @staticmethod
    def forward(ctx, x: Tensor, c: Tensor, how: _Slope, with_variance: bool) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        exponents = _Exponents(planes_of(x), c, how)
        alpha, means, variances = x.new_empty(exponents.count, *exponents.size), [], []
        for masses, (block,) in exponents.blocks(exponents.planes):
            out = exponents.alpha(masses, alpha[: len(block)])
            means.append(out.mean((1, 2)))
            if with_variance:
                norm = torch.linalg.vector_norm(out.sub_(means[-1][:, None, None]), dim=(1, 2))
                variances.append(norm.square_().div_(out[0].numel()))
        _keep(ctx, exponents, c)
        ctx.shape, ctx.mean = x.shape, torch.cat(means)
        variance = torch.cat(variances).view(x.shape[:2]) if with_variance else None
        return ctx.mean.clone().view(x.shape[:2]), variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, to_mean: Tensor | None, to_variance: Tensor | None) -> tuple[Tensor, Tensor | None, None, None]:
        exponents = _again(ctx)
        pixels = exponents.size[0] * exponents.size[1]
        once = torch.zeros_like(ctx.mean) if to_mean is None else to_mean.flatten() / pixels
        if to_variance is None:
            upstream, of_planes = lambda masses, once: once, [once]
        else:
            twice = to_variance.flatten() * (2 / pixels)
            alpha = once.new_empty(exponents.count, *exponents.size)
            upstream = lambda masses, once, twice: exponents.alpha(masses, alpha[: len(once)]).mul_(twice).add_(once)
            of_planes = [once - twice * ctx.mean, twice]
        of_planes = [part[:, None, None] for part in of_planes]
        to_planes, to_c = exponents.gradient(upstream, of_planes, to_c=ctx.needs_input_grad[1])
        return to_planes.view(ctx.shape), to_c, None, None


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
        for side in checked_scales(scales):
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
        self.scales = checked_scales(scales)
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
        channels = x.shape[1] if over == "batch" else None
        return x, c, _Slope(sides, framed=self.padding == "zero", eps=self.eps, over=over, channels=channels)

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
