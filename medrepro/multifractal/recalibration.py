"""Recalibration of feature maps (Martins, Coimbra, Renna 2025, equations 21 to 25) and its four rivals.

Each class is one row of the paper's Table 1. Where paper and authors' code
(github.com/miguelmartins/multifractal-recalibration, commit 3b723cd) differ, a preset decides and any keyword overrides
it. ``paper`` follows the equations, ``authors_code`` the code behind Table 1, ``corrected`` repairs what cannot be meant:
min-max per image, so that inference does not depend on batch mates; precisions that cannot die; SRM and FCA as their own
papers define them.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrepro.multifractal.exponent import (
    BN_EPS,
    BN_MOMENTUM,
    SCALES,
    Exponent,
    Padding,
    Rescaling,
    Slope,
    at_least_float32,
    expect_maps,
    one_of,
    update_running,
    without_autocast,
)
from medrepro.multifractal.level_sets import Levels, response
from medrepro.multifractal.level_table import POINTS, grid_of, interpolate, soft_counts

Preset = Literal["paper", "authors_code", "corrected"]
Combine = Literal["sum", "product", "residual_product"]

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "srm": {
        "paper": {"per_channel": False},  # choice: as coded; the text is not known to define SRM anew
        "authors_code": {"per_channel": False},
        "corrected": {"per_channel": True},
    },
    "fca": {
        "paper": {"fca_mode": "authors"},  # choice: as coded, for the same reason
        "authors_code": {"fca_mode": "authors"},
        "corrected": {"fca_mode": "dct2"},
    },
    "mono": {
        "paper": {"minmax": "batch", "slope": "ols", "alpha_bn": False, "combine": "product"},
        "authors_code": {"minmax": "batch", "slope": "ols", "alpha_bn": True, "combine": "product"},
        # batch norm stays: without it the mean exponent hardly moves between images (standard deviation .002 to .03)
        "corrected": {"minmax": "sample", "slope": "ols", "alpha_bn": True, "combine": "product"},
    },
    "multi": {
        "paper": {
            "minmax": "batch", "slope": "ols", "alpha_bn": False, "precision": "square",
            "phi": "linear", "relu": "after_sum", "combine": "sum", "start": "grid", "form": "table",
        },
        "authors_code": {
            "minmax": "batch", "slope": "weighted", "alpha_bn": True, "precision": "relu",
            "phi": "bn", "relu": "per_q", "combine": "sum", "start": "uniform",
            "form": "literal",  # exact for comparisons with the original: a ReLU on each q puts kinks into a table
        },
        "corrected": {
            "minmax": "sample", "slope": "ols", "alpha_bn": False, "precision": "softplus",
            "phi": "linear", "relu": "after_sum", "combine": "sum", "start": "grid", "form": "table",
        },
    },
}  # fmt: skip


def _preset(name: str, preset: str, overrides: dict[str, Any]) -> dict[str, Any]:
    one_of("preset", preset, tuple(PRESETS[name]))
    return PRESETS[name][preset] | {key: value for key, value in overrides.items() if value is not None}


def _dyadic(scales: Sequence[int], max_scale: int | None) -> tuple[int, ...]:
    """`scales`, or 2, 4, ..., `max_scale` if that is given."""
    if max_scale is None:
        return tuple(scales)
    if max_scale < 4 or max_scale & (max_scale - 1):
        raise ValueError(f"max_scale is a power of two, at least 4, got {max_scale}; use scales for other box sides")
    if tuple(scales) != SCALES:
        raise ValueError(f"give either scales={tuple(scales)} or max_scale={max_scale}, not both")
    return tuple(1 << j for j in range(1, max_scale.bit_length()))


def combined(x: Tensor, response: Tensor, combine: Combine) -> Tensor:
    """One of x + response, x * response and x * (1 + response), in the dtype of `x`."""
    response = response.to(x.dtype)
    if combine == "sum":
        return x + response
    return x * response if combine == "product" else torch.addcmul(x, x, response)


class Excitation(nn.Module):
    """Dense, ReLU, dense, sigmoid: one gate per channel from one number per channel.

    Parameters
    ----------
    channels
        C, divisible by `reduction`.
    reduction
        C / `reduction` hidden units.

    Shape
    -----
    (B, C) -> (B, C), entries in (0, 1); computed in float32 also under autocast.

    Parameters at reduction 2: C^2 + 3C/2. Kernels start Glorot uniform, biases at 0.

    Examples
    --------
    >>> Excitation(8)(torch.zeros(3, 8)).unique().tolist()
    [0.5]
    """

    def __init__(self, channels: int, reduction: int = 2) -> None:
        super().__init__()
        if reduction < 1 or channels % reduction:
            raise ValueError(f"reduction={reduction} does not divide {channels} channels")
        self.squeeze = glorot_(nn.Linear(channels, channels // reduction))
        self.excite = glorot_(nn.Linear(channels // reduction, channels))

    def forward(self, descriptor: Tensor) -> Tensor:
        """Gates, shape (B, C)."""
        with without_autocast(descriptor):
            return torch.sigmoid(self.excite(F.relu(self.squeeze(descriptor))))


def glorot_(layer: nn.Linear | nn.Conv2d) -> Any:
    """Start a layer with a Glorot uniform kernel and zero biases, and return it."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ChannelGate(nn.Module):
    """A recalibration with one response per channel: `excitation` makes it, `combine` applies it."""

    def __init__(self, channels: int, combine: Combine = "product") -> None:
        super().__init__()
        self.channels = channels
        self.combine = one_of("combine", combine, ("sum", "product", "residual_product"))

    def excitation(self, x: Tensor) -> Tensor:
        """Response of every channel, shape (B, C), entries in (0, 1)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrated maps, shape and dtype of `x`."""
        expect_maps(x, self.channels)
        return combined(x, self.excitation(x)[:, :, None, None], self.combine)


class ChannelSE(ChannelGate):
    """Squeeze and excite over channels (cSE): x times a gate made from the mean of every channel.

    Parameters
    ----------
    channels
        C.
    reduction
        C / `reduction` hidden units.

    Shape
    -----
    (B, C, H, W) -> (B, C, H, W).

    Parameters at the default setting: C^2 + 3C/2.
    """

    def __init__(self, channels: int, *, reduction: int = 2) -> None:
        super().__init__(channels)
        self.gate = Excitation(channels, reduction)

    def excitation(self, x: Tensor) -> Tensor:
        """Gate of every channel, shape (B, C)."""
        with without_autocast(x):
            return self.gate(at_least_float32(x).mean((2, 3)))


class SpatialChannelSE(ChannelSE):
    """Spatial and channel squeeze and excite (scSE): the larger of two products, by channel gates and by pixel gates.

    Parameters
    ----------
    channels
        C.
    reduction
        C / `reduction` hidden units.

    Shape
    -----
    (B, C, H, W) -> (B, C, H, W).

    Parameters at the default setting: C^2 + 3C/2 + C + 1.
    """

    def __init__(self, channels: int, *, reduction: int = 2) -> None:
        super().__init__(channels, reduction=reduction)
        self.spatial = glorot_(nn.Conv2d(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrated maps, shape and dtype of `x`."""
        by_channel = super().forward(x)
        return torch.maximum(by_channel, x * torch.sigmoid(self.spatial(x)).to(x.dtype))


class VectorBatchNorm(nn.BatchNorm1d):
    """Batch norm of vectors (B, C) whose running variance takes the biased variance of a batch, as the authors' framework.

    A batch of one is allowed and gives the bias.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalised vectors, shape (B, C)."""
        mean, variance = self.running_mean, self.running_var
        if self.training:
            variance, mean = torch.var_mean(x, 0, correction=0)
            update_running(self, mean, variance, 0)
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class SRM(ChannelGate):
    r"""Style-based recalibration: x times sigmoid(BN(a mean + b std)) per channel.

    Parameters
    ----------
    channels
        C.
    preset
        ``paper`` and ``authors_code`` share one pair (a, b) among all channels, ``corrected`` has one pair per channel,
        as the paper that introduced SRM.
    per_channel
        One pair (a, b) per channel; overrides the preset.

    Shape
    -----
    (B, C, H, W) -> (B, C, H, W).

    Parameters at the default setting: 2 + 2C.

    Notes
    -----
    std = sqrt(population variance + 1e-12); no bias before the batch norm.
    """

    def __init__(self, channels: int, *, preset: Preset = "paper", per_channel: bool | None = None) -> None:
        super().__init__(channels)
        chosen = _preset("srm", preset, {"per_channel": per_channel})
        self.style = nn.Parameter(torch.empty(channels if chosen["per_channel"] else 1, 2))
        nn.init.uniform_(self.style, -math.sqrt(2), math.sqrt(2))  # Glorot uniform of a layer from 2 units to 1
        self.norm = VectorBatchNorm(channels, eps=BN_EPS, momentum=BN_MOMENTUM)

    def excitation(self, x: Tensor) -> Tensor:
        """Gate of every channel, shape (B, C)."""
        with without_autocast(x):
            variance, mean = torch.var_mean(at_least_float32(x), (2, 3), correction=0)
            std = torch.sqrt(variance + 1e-12)
            return torch.sigmoid(self.norm(self.style[:, 0] * mean + self.style[:, 1] * std))


class FCA(ChannelGate):
    r"""Frequency channel attention: x times a gate made from one cosine coefficient per channel.

    The channels form 16 consecutive groups; group 4u + v takes frequency (u, v), u and v in 0..3.

    Parameters
    ----------
    channels
        C, divisible by 16, or 4 or 8, which take the first C of the 16 frequencies, one a channel.
    preset
        ``paper`` and ``authors_code`` take `fca_mode` ``authors``, ``corrected`` takes ``dct2``.
    fca_mode
        ``authors``: the sum over the map of x cos(pi i (u + 1/2) / H) cos(pi j (v + 1/2) / W), as coded: raw sums over
        up to 50,176 pixels, which saturate the gate. ``dct2``: the DCT-II, cos(pi u (i + 1/2) / H) cos(pi v (j + 1/2) / W),
        averaged over the map and times sqrt(2) for each of u, v above 0, so that (0, 0) is average pooling.
    reduction
        C / `reduction` hidden units.
    size
        (H, W) that every input must have, as in the authors' code; any size if not given.

    Shape
    -----
    (B, C, H, W) -> (B, C, H, W).

    Parameters at the default setting: C^2 + 3C/2.

    Notes
    -----
    The cosines are made anew for every call (C (H + W) numbers) instead of tables of C H W.
    """

    def __init__(
        self,
        channels: int,
        *,
        preset: Preset = "paper",
        fca_mode: Literal["authors", "dct2"] | None = None,
        reduction: int = 2,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(channels)
        if channels % 16 and channels not in (4, 8):
            raise ValueError(f"FCA splits the channels into 16 groups of equal size; {channels} is not divisible by 16")
        # choice: the authors' code has no narrower level than 32; small networks keep the lowest frequencies
        self.channels_per_group = max(1, channels // 16)
        chosen = _preset("fca", preset, {"fca_mode": fca_mode})
        self.fca_mode = one_of("fca_mode", chosen["fca_mode"], ("authors", "dct2"))
        self.size = size
        self.gate = Excitation(channels, reduction)

    def _cosines(self, length: int, frequency: Tensor) -> Tensor:
        """Basis of one axis for every channel, shape (C, length)."""
        place = torch.arange(length, device=frequency.device, dtype=frequency.dtype)
        if self.fca_mode == "authors":
            return torch.cos(torch.pi * place * (frequency[:, None] + 0.5) / length)
        # choice: divided by the number of pixels where FcaNet divides by its root on a small pooled grid; the mean is
        # then the (0, 0) coefficient at any resolution
        cosines = torch.cos(torch.pi * frequency[:, None] * (place + 0.5) / length)
        return cosines * ((frequency > 0).to(frequency.dtype).mul(math.sqrt(2) - 1).add(1) / length)[:, None]

    def coefficients(self, x: Tensor) -> Tensor:
        """One cosine coefficient per channel, shape (B, C)."""
        if self.size is not None and tuple(x.shape[-2:]) != tuple(self.size):
            raise ValueError(f"FCA was built for maps of {tuple(self.size)}, got {tuple(x.shape[-2:])}")
        with without_autocast(x):
            x = at_least_float32(x)
            group = torch.arange(self.channels, device=x.device) // self.channels_per_group
            by_row = self._cosines(x.shape[-2], (group // 4).to(x.dtype))
            by_column = self._cosines(x.shape[-1], (group % 4).to(x.dtype))
            return torch.einsum("bchw,ch,cw->bc", x, by_row, by_column)

    def excitation(self, x: Tensor) -> Tensor:
        """Gate of every channel, shape (B, C)."""
        return self.gate(self.coefficients(x))


class Mono(ChannelGate):
    r"""Monofractal recalibration: x times a gate made from the mean exponent of every channel.

    .. math:: g = \sigma(W_2\,\delta(W_1\,\mathrm{GAP}(H) + b_1) + b_2), \qquad \Psi^{Mono} = \Psi \cdot g

    Parameters
    ----------
    channels
        C.
    preset
        ``paper``: equations 21 and 22. ``authors_code``: batch norm on alpha before the mean. ``corrected``: the same with
        min-max per image; batch norm stays, since the raw mean exponent hardly differs between images.
    minmax, slope, alpha_bn, padding
        As in `Exponent` (`alpha_bn` is its `batch_norm`); override the preset.
    combine
        ``product``, ``sum`` or ``residual_product``, x (1 + g); overrides the preset.
    scales, max_scale
        Box sides in pixels, or the largest of 2, 4, 8, ...
    reduction
        C / `reduction` hidden units.

    Shape
    -----
    (B, C, H, W) -> (B, C, H, W).

    Parameters at the default setting: C^2 + 3C/2; 2C more with batch norm on alpha.
    """

    def __init__(
        self,
        channels: int,
        *,
        preset: Preset = "paper",
        minmax: Rescaling | None = None,
        slope: Slope | None = None,
        alpha_bn: bool | None = None,
        combine: Combine | None = None,
        padding: Padding = "zero",
        scales: Sequence[int] = SCALES,
        max_scale: int | None = None,
        reduction: int = 2,
    ) -> None:
        overrides = {"minmax": minmax, "slope": slope, "alpha_bn": alpha_bn, "combine": combine}
        chosen = _preset("mono", preset, overrides)
        super().__init__(channels, chosen["combine"])
        self.exponent = Exponent(
            channels,
            scales=_dyadic(scales, max_scale),
            slope=chosen["slope"],
            minmax=chosen["minmax"],
            batch_norm=chosen["alpha_bn"],
            padding=padding,
        )
        self.gate = Excitation(channels, reduction)

    def excitation(self, x: Tensor) -> Tensor:
        """Gate of every channel, shape (B, C)."""
        return self.gate(self.exponent.pooled(x))


class Multi(nn.Module):
    r"""Multifractal recalibration: x plus a map made from Q soft level sets of the exponent.

    .. math:: p_q(\alpha) = \frac{e^{-s_q^2 (\alpha - h_q)^2}}{\sum_{q'} e^{-s_{q'}^2 (\alpha - h_{q'})^2}}, \qquad
              \tilde H = \sigma\Big(\delta\Big(\sum_q \phi(p_q)\Big)\Big), \qquad \Psi^{Multi} = \Psi + \tilde H

    Parameters
    ----------
    channels
        C.
    preset
        ``paper``: equations 23 to 25 as above. ``authors_code``: weighted slope, batch norm on alpha, relu(w_q) for s_q^2,
        batch norm over q for phi, ReLU on each q before the sum, starts drawn from U(-.05, .05). ``corrected``: ``paper``
        with min-max per image and softplus for the precision, which cannot die.
    num_levels
        Q.
    minmax, slope, alpha_bn, padding
        As in `Exponent` (`alpha_bn` is its `batch_norm`); override the preset.
    precision
        ``square``, ``relu`` or ``softplus`` of the learned number; overrides the preset.
    phi
        ``linear``: a weight per level and one bias. ``bn``: batch norm over everything but q.
    relu
        ``after_sum`` over q, or ``per_q`` before it (a linear phi then gives each level its share, 1/Q, of the bias).
    combine
        ``sum``, ``product`` or ``residual_product``, x (1 + H~); overrides the preset.
    per_channel
        Level sets of its own for every channel, instead of one set for all.
    start
        ``grid``: centres evenly on [1, 3] (on [-2, 2] behind batch norm), precisions 1, phi Glorot uniform with bias 1/2.
        ``uniform``: centres and raw precisions from U(-.05, .05).
    scales, max_scale
        Box sides in pixels, or the largest of 2, 4, 8, ...
    form
        ``table`` reads H~ off a grid of alpha, at a cost that does not depend on Q; ``literal`` holds all Q level sets
        of every pixel (the default of ``authors_code``), and is always used with `per_channel`. Overrides the preset.

    Shape
    -----
    (B, C, H, W) -> (B, C, H, W).

    Parameters at the default setting: 3Q + 1 = 49; with ``authors_code`` 2C + 3 + 4Q.

    Notes
    -----
    H~ lies in [1/2, 1), since the sigmoid's argument is never negative. The table's error is at most
    max |H~''| step^2 / 8, with 16,384 points on [0, 6] for plain raw exponents and on the range of the batch otherwise;
    a ReLU adds up to a quarter of step times the change of slope at its kink, 1e-4 or less where that was measured.
    """

    def __init__(
        self,
        channels: int,
        *,
        preset: Preset = "paper",
        num_levels: int = 16,
        minmax: Rescaling | None = None,
        slope: Slope | None = None,
        alpha_bn: bool | None = None,
        precision: Literal["square", "relu", "softplus"] | None = None,
        phi: Literal["linear", "bn"] | None = None,
        relu: Literal["after_sum", "per_q"] | None = None,
        combine: Combine | None = None,
        start: Literal["grid", "uniform"] | None = None,
        per_channel: bool = False,
        padding: Padding = "zero",
        scales: Sequence[int] = SCALES,
        max_scale: int | None = None,
        form: Literal["table", "literal"] | None = None,
    ) -> None:
        super().__init__()
        if num_levels < 1:
            raise ValueError(f"num_levels is at least 1, got {num_levels}")
        overrides = {"minmax": minmax, "slope": slope, "alpha_bn": alpha_bn, "precision": precision}
        overrides |= {"phi": phi, "relu": relu, "combine": combine, "start": start, "form": form}
        chosen = _preset("multi", preset, overrides)
        self.channels, self.num_levels = channels, num_levels
        self.precision = one_of("precision", chosen["precision"], ("square", "relu", "softplus"))
        self.phi_kind = one_of("phi", chosen["phi"], ("linear", "bn"))
        self.relu = one_of("relu", chosen["relu"], ("after_sum", "per_q"))
        self.combine = one_of("combine", chosen["combine"], ("sum", "product", "residual_product"))
        self.start = one_of("start", chosen["start"], ("grid", "uniform"))
        self.exponent = Exponent(
            channels,
            scales=_dyadic(scales, max_scale),
            slope=chosen["slope"],
            minmax=chosen["minmax"],
            batch_norm=chosen["alpha_bn"],
            padding=padding,
        )
        self.form = "literal" if per_channel else one_of("form", chosen["form"], ("table", "literal"))
        sets = channels if per_channel else 1
        self.centres = nn.Parameter(torch.empty(sets, num_levels))  # h_q
        self.raw_precisions = nn.Parameter(torch.empty(sets, num_levels))  # s_q, or w_q in the authors' code
        if self.phi_kind == "bn":
            self.phi = nn.BatchNorm1d(num_levels, eps=BN_EPS, momentum=BN_MOMENTUM)
        else:
            self.phi = glorot_(nn.Linear(num_levels, 1))
        self._reset()

    def _reset(self) -> None:
        with torch.no_grad():
            if self.start == "uniform":
                self.centres.uniform_(-0.05, 0.05)
                self.raw_precisions.uniform_(-0.05, 0.05)
                return
            # choice: the starts are not known; raw exponents centre on 2
            low, high = (1.0, 3.0) if self.exponent.norm is None else (-2.0, 2.0)
            grid = torch.linspace(low, high, self.num_levels) if self.num_levels > 1 else (low + high) / 2
            self.centres.copy_(torch.as_tensor(grid).expand_as(self.centres))
            self.raw_precisions.fill_(math.log(math.e - 1) if self.precision == "softplus" else 1.0)
            if self.phi_kind == "linear":
                self.phi.bias.fill_(0.5)  # choice: the ReLU starts open

    def precisions(self) -> Tensor:
        """Precision of every level, shape (1 or C, Q), not negative."""
        w = self.raw_precisions
        if self.precision == "square":
            return w * w
        return F.relu(w) if self.precision == "relu" else F.softplus(w)

    def memberships(self, alpha: Tensor) -> Tensor:
        """Share of every level set in a pixel, shape (B, C, H, W, Q), summing to 1 over the last axis."""
        sets = (1, -1, 1, 1, self.num_levels)
        distance = (alpha[..., None] - self.centres.view(sets)) ** 2
        return torch.softmax(-self.precisions().view(sets) * distance, -1)

    def response(self, p: Tensor) -> Tensor:
        """H~ of memberships (..., Q), shape (...), entries in [1/2, 1)."""
        if self.phi_kind == "bn":
            levels = self._standardised(p)
            summed = F.relu(levels).sum(-1) if self.relu == "per_q" else F.relu(levels.sum(-1))
        else:
            weight, bias = self.phi.weight[0].to(p.dtype), self.phi.bias.to(p.dtype)
            if self.relu == "per_q":
                summed = F.relu(p * weight + bias / self.num_levels).sum(-1)
            else:
                summed = F.relu(p @ weight + bias)
        return torch.sigmoid(summed)

    def _standardised(self, p: Tensor) -> Tensor:
        """Batch norm over everything but q."""
        mean, variance = self.phi.running_mean, self.phi.running_var
        if self.training:
            variance, mean = torch.var_mean(p.flatten(0, -2), 0, correction=0)
            update_running(self.phi, mean, variance, p[..., 0].numel())
        return (p - mean) * torch.rsqrt(variance + self.phi.eps) * self.phi.weight + self.phi.bias

    def _exact(self, alpha: Tensor, counts: Tensor | None = None, total: int | None = None) -> Tensor:
        """H~ of exponents, or of a grid of them that occur `counts` times, without an axis of level sets in memory."""
        total = total or alpha.numel()
        if self.phi_kind == "linear":
            scale, shift, eps = self.phi.weight[0], (self.phi.bias / self.num_levels).expand(self.num_levels), None
        elif self.training:
            scale, shift, eps = self.phi.weight, self.phi.bias, self.phi.eps
        else:
            scale = self.phi.weight * torch.rsqrt(self.phi.running_var + self.phi.eps)
            shift, eps, counts = self.phi.bias - self.phi.running_mean * scale, None, None
        levels = Levels(self.centres[0], self.precisions()[0], scale, shift)
        h, mean, variance = response(alpha, levels, per_q=self.relu == "per_q", eps=eps, counts=counts, total=total)
        if eps is not None:
            update_running(self.phi, mean, variance, total)
        return h

    def _from_table(self, alpha: Tensor) -> Tensor:
        low, step = grid_of(alpha, bounds=self._bounds(), points=POINTS)
        grid = low.double() + step.double() * torch.arange(POINTS, device=alpha.device)
        counts = None
        if self.phi_kind == "bn" and self.training:
            counts = soft_counts(alpha, low, step, points=POINTS)
        return interpolate(alpha, self._exact(grid, counts, alpha.numel()), low, step)

    def _bounds(self) -> tuple[float, float] | None:
        """Range of alpha where it is known beforehand: the 2-box lies inside the 8-box, and masses in [1, 256]."""
        exponent = self.exponent
        plain = exponent.slope == "ols" and exponent.scales == SCALES and exponent.norm is None
        return (0.0, 6.0) if plain and exponent.minmax != "none" else None

    #: Smallest number of entries of a map for which the table pays; smaller maps take the exact form.
    table_from = 4 * POINTS

    def level_map(self, x: Tensor) -> Tensor:
        """H~ of feature maps, shape (B, C, H, W)."""
        expect_maps(x, self.channels)
        with without_autocast(x):
            alpha = self.exponent(x)
            if self.form == "literal":
                return self.response(self.memberships(alpha))
            return self._from_table(alpha) if alpha.numel() > self.table_from else self._exact(alpha)

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrated maps, shape and dtype of `x`."""
        return combined(x, self.level_map(x), self.combine)


RECALIBRATIONS: dict[str, type[nn.Module] | None] = {
    "none": None,
    "cse": ChannelSE,
    "scse": SpatialChannelSE,
    "srm": SRM,
    "fca": FCA,
    "mono": Mono,
    "multi": Multi,
}


def recalibration(
    name: str, channels: int, *, preset: Preset = "paper", size: tuple[int, int] | None = None, **switches: Any
) -> nn.Module:
    """A recalibration layer by its name in Table 1.

    Parameters
    ----------
    name
        ``none``, ``cse``, ``scse``, ``srm``, ``fca``, ``mono`` or ``multi``.
    channels
        C.
    preset
        ``paper``, ``authors_code`` or ``corrected``.
    size
        (H, W) of the maps, if it is to be fixed; read by FCA alone.
    switches
        Keywords of the class; one that it does not have is an error.

    Returns
    -------
    Module
        Maps (B, C, H, W) to the same shape; ``none`` is the identity.

    Raises
    ------
    ValueError
        Unknown name, preset or switch.

    Examples
    --------
    >>> sum(p.numel() for p in recalibration("multi", 32, preset="authors_code").parameters())
    131
    """
    one_of("recalibration", name, tuple(RECALIBRATIONS))
    one_of("preset", preset, ("paper", "authors_code", "corrected"))
    kind = RECALIBRATIONS[name]
    known = () if kind is None else tuple(inspect.signature(kind).parameters)[1:]
    for switch in switches:
        if switch not in known:
            possible = ", ".join(key for key in known if key not in ("preset", "size")) or "none"
            raise ValueError(f"recalibration {name!r} has no switch {switch!r}; it has: {possible}")
    if kind is None:
        return nn.Identity()
    shared = {"preset": preset, "size": size}
    return kind(channels, **{key: value for key, value in shared.items() if key in known}, **switches)
