"""Recalibration of feature maps (Martins, Coimbra, Renna 2025, equations 21 to 25) and its four rivals.

Each class is one row of the paper's Table 1; `Multi` has a file of its own. Where paper and authors' code differ, a preset
decides and any keyword overrides it, see `presets`.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrepro.multifractal.boxes import Padding
from medrepro.multifractal.exponent import BN_EPS, BN_MOMENTUM, SCALES, Exponent, update_running
from medrepro.multifractal.maps import at_least_float32, expect_maps, one_of, without_autocast
from medrepro.multifractal.measure import Rescaling
from medrepro.multifractal.multi import Multi
from medrepro.multifractal.presets import PRESETS as PRESETS
from medrepro.multifractal.presets import Combine, Preset, combined, dyadic, glorot_, settings_of
from medrepro.multifractal.slopes import Slope


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
        chosen = settings_of("srm", preset, {"per_channel": per_channel})
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
        chosen = settings_of("fca", preset, {"fca_mode": fca_mode})
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
        chosen = settings_of("mono", preset, overrides)
        super().__init__(channels, chosen["combine"])
        self.exponent = Exponent(
            channels,
            scales=dyadic(scales, max_scale),
            slope=chosen["slope"],
            minmax=chosen["minmax"],
            batch_norm=chosen["alpha_bn"],
            padding=padding,
        )
        self.gate = Excitation(channels, reduction)

    def excitation(self, x: Tensor) -> Tensor:
        """Gate of every channel, shape (B, C)."""
        return self.gate(self.exponent.pooled(x))


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
