"""Local Hölder exponents (Martins, Coimbra, Renna 2025, equation 16) and the box sums they rest on.

Two forms of one map. `literal_exponent` reads like the equation: all-ones convolutions, logarithms, a slope.
`local_exponent` is the one to use: every slope here is a fixed combination of the log masses, and the boxes of sides
2, 4, 8, ... come from one another by additions. Rescaling, the placement of even boxes and the zeros outside the border
follow the authors' code (github.com/miguelmartins/multifractal-recalibration, commit 3b723cd).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrepro.multifractal.boxes import PAD_MODE, Padding, pad_for_box
from medrepro.multifractal.boxes import box_mass as box_mass
from medrepro.multifractal.exponent_gradients import ExponentMap, PooledExponent, SlopeSettings
from medrepro.multifractal.maps import at_least_float32, expect_maps, one_of, without_autocast
from medrepro.multifractal.measure import Rescaling, rescale
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
        return ExponentMap.apply(measure, c, SlopeSettings(sides, framed=padding == "zero", eps=eps))


def _coefficients(
    scales: tuple[int, ...], slope: Slope, weights: Tensor | None, like: Tensor
) -> tuple[Tensor, tuple[int, ...]]:
    """Coefficients other than 0, and the scales that have them."""
    c = slope_coefficients(scales, slope=slope, weights=weights, dtype=like.dtype, device=like.device)
    if slope != "ols" or len(scales) % 2 == 0 or c[len(scales) // 2] != 0:
        return c, scales
    middle = len(scales) // 2
    return torch.cat([c[:middle], c[middle + 1 :]]), scales[:middle] + scales[middle + 1 :]


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
            return ExponentMap.apply(*self.prepared(x))

    def prepared(self, x: Tensor) -> tuple[Tensor, Tensor, SlopeSettings]:
        """Map, coefficients, and what is done with them."""
        expect_maps(x, self.channels)
        x, over = at_least_float32(x), self.minmax
        if self.padding != "zero":  # the extremes are those of the map, not of what is set around it
            x, over = pad_for_box(rescale(x, over=over), self.scales[-1], padding=self.padding), "none"
        weights = None if self.slope_weights is None else torch.sigmoid(self.slope_weights).to(x.dtype)
        c, sides = _coefficients(self.scales, self.slope, weights, x)
        channels = x.shape[1] if over == "batch" else None
        return x, c, SlopeSettings(sides, framed=self.padding == "zero", eps=self.eps, over=over, channels=channels)

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
            gap, variance = PooledExponent.apply(*self.prepared(x), from_batch)
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
