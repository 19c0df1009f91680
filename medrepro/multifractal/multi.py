"""Multi: recalibration by soft level sets of the exponent (Martins, Coimbra, Renna 2025, equations 23 to 25)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrepro.multifractal.boxes import Padding
from medrepro.multifractal.exponent import BN_EPS, BN_MOMENTUM, SCALES, Exponent, update_running
from medrepro.multifractal.level_sets import Levels, response
from medrepro.multifractal.level_table import POINTS, LevelMap, grid_of, interpolate, soft_counts
from medrepro.multifractal.maps import expect_maps, one_of, without_autocast
from medrepro.multifractal.measure import Rescaling
from medrepro.multifractal.presets import Combine, Preset, combined, dyadic, glorot_, settings_of
from medrepro.multifractal.slopes import Slope


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
        ``literal`` holds all Q level sets of every pixel (the default of ``authors_code``), and is always used with
        `per_channel`. ``table`` never does: maps of more than `table_from` entries read H~ off a grid of alpha, at a cost
        that does not depend on Q (with raw exponents and zero padding without a map of alpha either); smaller ones are
        computed exactly, block by block of pixels. Overrides the preset.

    Shape
    -----
    (B, C, H, W) -> (B, C, H, W).

    Parameters at the default setting: 3Q + 1 = 49; with ``authors_code`` 2C + 3 + 4Q.

    Notes
    -----
    H~ lies in [1/2, 1), since the sigmoid's argument is never negative. The table's error is at most
    max |H~''| step^2 / 8, with 16,384 points on [0, 6] for plain raw exponents and on the range of the batch otherwise;
    a ReLU adds up to a quarter of step times the change of slope at its kink. With a ReLU on each of the levels that a
    batch norm has stretched (``authors_code``), outputs are within 1e-4 of the exact ones, the gradient of the maps within
    1 % of its norm, those of the level sets within 10 %, where sums of either sign nearly cancel.
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
        chosen = settings_of("multi", preset, overrides)
        self.channels, self.num_levels = channels, num_levels
        self.precision = one_of("precision", chosen["precision"], ("square", "relu", "softplus"))
        self.phi_kind = one_of("phi", chosen["phi"], ("linear", "bn"))
        self.relu = one_of("relu", chosen["relu"], ("after_sum", "per_q"))
        self.combine = one_of("combine", chosen["combine"], ("sum", "product", "residual_product"))
        self.start = one_of("start", chosen["start"], ("grid", "uniform"))
        self.exponent = Exponent(
            channels,
            scales=dyadic(scales, max_scale),
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

    def _without_exponents(self, x: Tensor) -> Tensor:
        """Recalibrated maps, each pixel's exponent read off the table as soon as it is known."""
        step = self._bounds()[1] / (POINTS - 1)
        table = self._exact(step * torch.arange(POINTS, device=x.device, dtype=torch.float64))
        plus_map = self.combine == "sum"
        with without_autocast(x):
            h = LevelMap.apply(*self.exponent.prepared(x), table, step, plus_map)
        return h.to(x.dtype) if plus_map else combined(x, h, self.combine)

    def _bounds(self) -> tuple[float, float] | None:
        """Range of alpha where it is known beforehand: the 2-box lies inside the 8-box, and masses in [1, 256]."""
        exponent = self.exponent
        plain = exponent.slope == "ols" and exponent.scales == SCALES and exponent.norm is None
        return (0.0, 6.0) if plain and exponent.minmax != "none" else None

    #: Entries of a map up to which the exact form costs no more than the table.
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
        expect_maps(x, self.channels)
        counted = self.phi_kind == "bn" and self.training  # its statistics are those of all exponents
        one_pass = self._bounds() and self.exponent.padding == "zero" and not counted
        if self.form == "table" and x.numel() > self.table_from and one_pass:
            return self._without_exponents(x)
        return combined(x, self.level_map(x), self.combine)
