"""The U-Net that carries the recalibrations (Martins, Coimbra, Renna 2025), as the authors' code builds it.

Code that informed it: github.com/miguelmartins/multifractal-recalibration, commit 3b723cd. Every published experiment
left out batch norm in the convolutions, so `with_bn` is off by default, where the authors' builder has it on.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrepro.multifractal.exponent import BN_EPS, BN_MOMENTUM, expect_maps
from medrepro.multifractal.recalibration import Preset, glorot_, recalibration

_TRUNCATED_STD = 0.8796256610342398  # standard deviation of a standard normal cut at two


def he_normal_(layer: nn.Conv2d) -> nn.Conv2d:
    """Start a convolution He normal, truncated at two sigma with the variance restored, biases 0; and return it."""
    fan_in = layer.weight[0].numel()
    std = math.sqrt(2 / fan_in) / _TRUNCATED_STD
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(layer.bias)
    return layer


class DoubleConv(nn.Module):
    """Twice: 3 x 3 convolution with bias, batch norm if asked for, ReLU.

    Parameters
    ----------
    in_channels, out_channels
        Channels before the first and after either convolution.
    with_bn
        Batch norm between convolution and ReLU; the convolution keeps its bias.

    Shape
    -----
    (B, in_channels, H, W) -> (B, out_channels, H, W).

    Parameters at the default setting: 9 (in + out) out + 2 out; 4 out more with batch norm.
    """

    def __init__(self, in_channels: int, out_channels: int, *, with_bn: bool = False) -> None:
        super().__init__()
        make_norm = lambda: nn.BatchNorm2d(out_channels, eps=BN_EPS, momentum=BN_MOMENTUM) if with_bn else nn.Identity()
        self.conv_1 = he_normal_(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.norm_1 = make_norm()
        self.conv_2 = he_normal_(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.norm_2 = make_norm()

    def forward(self, x: Tensor) -> Tensor:
        """Maps after the second ReLU."""
        x = F.relu(self.norm_1(self.conv_1(x)))
        return F.relu(self.norm_2(self.conv_2(x)))


class EncoderLevel(nn.Module):
    """Double convolution, then recalibration of what its second ReLU gives."""

    def __init__(self, convs: DoubleConv, recalibrate: nn.Module) -> None:
        super().__init__()
        self.convs = convs
        self.recalibrate = recalibrate

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrated maps: both the skip and what is pooled."""
        return self.recalibrate(self.convs(x))


class UNet(nn.Module):
    """U-Net with a recalibration at every encoder level but the bottleneck.

    Parameters
    ----------
    channels
        Filters of the encoder levels, then of the bottleneck.
    in_channels
        Channels of the image.
    num_classes
        Output channels: 1 for one foreground class (sigmoid), more for as many classes (softmax).
    recalibration
        ``none``, ``cse``, ``scse``, ``srm``, ``fca``, ``mono`` or ``multi``.
    preset
        ``paper``, ``authors_code`` (the family behind Table 1) or ``corrected``, see `recalibration`.
    switches
        Keywords of the recalibration that override the preset.
    with_bn
        Batch norm in the double convolutions; off in every published experiment.
    skips
        Without them the decoder sees the upsampled maps alone (the paper's network without skips is not public).
    image_size
        (H, W) that every image must have; any if not given.

    Shape
    -----
    (B, in_channels, H, W) -> logits (B, num_classes, H, W).

    Parameters at the default setting: 1,946,881.

    Raises
    ------
    ValueError
        Fewer than two levels; an image of another size than `image_size`, of other channels, or with a side so small
        that a pooling would leave nothing (below 8 pixels for three poolings).

    Notes
    -----
    Upsampling is bilinear to the size of the level above, which is the paper's factor 2 where sides divide by 8. A
    pooling of an odd side drops the last row or column, and upsampling to the odd size brings it back, so that any size
    from 8 pixels on works.

    Examples
    --------
    >>> net = UNet((4, 8), recalibration="mono")
    >>> net(torch.zeros(2, 3, 21, 16)).shape
    torch.Size([2, 1, 21, 16])
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128, 256),
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        recalibration: str = "none",
        preset: Preset = "paper",
        switches: Mapping[str, Any] | None = None,
        with_bn: bool = False,
        skips: bool = True,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"a U-Net has at least one level and a bottleneck, got channels={tuple(channels)}")
        if num_classes < 1:
            raise ValueError(f"num_classes is at least 1, got {num_classes}")
        *levels, deepest = channels
        self.in_channels, self.num_classes = in_channels, num_classes
        self.skips, self.image_size = skips, image_size
        self.encoder = nn.ModuleList()
        before = in_channels
        for depth, width in enumerate(levels):
            size = None if image_size is None else tuple(side >> depth for side in image_size)
            recalibrate = _layer(recalibration, width, preset, size, dict(switches or {}))
            self.encoder.append(EncoderLevel(DoubleConv(before, width, with_bn=with_bn), recalibrate))
            before = width
        self.bottleneck = DoubleConv(before, deepest, with_bn=with_bn)
        self.decoder = nn.ModuleList()
        before = deepest
        for width in reversed(levels):
            # choice: without skips the concatenation goes and nothing takes its place
            self.decoder.append(DoubleConv(before + width if skips else before, width, with_bn=with_bn))
            before = width
        self.head = glorot_(nn.Conv2d(before, num_classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits, shape (B, num_classes, H, W)."""
        x = self._checked(image)
        recalibrated = []
        for level in self.encoder:
            recalibrated.append(level(x))
            x = F.max_pool2d(recalibrated[-1], 2)
        x = self.bottleneck(x)
        for convs in self.decoder:
            skip = recalibrated.pop()
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = convs(torch.cat([x, skip], 1) if self.skips else x)
        return self.head(x)

    def probability(self, image: Tensor) -> Tensor:
        """Foreground probability, or that of every class, shape (B, num_classes, H, W), in float32 at least."""
        logits = self(image)
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        return torch.sigmoid(logits) if self.num_classes == 1 else torch.softmax(logits, 1)

    def excitations(self, image: Tensor) -> list[Tensor]:
        """Excitation vector of every encoder level, each (B, C_l), for networks whose recalibration gates channels."""
        x, responses = self._checked(image), []
        for level in self.encoder:
            if not hasattr(level.recalibrate, "excitation"):
                raise ValueError(
                    f"{type(level.recalibrate).__name__} makes no vector of channel gates: use cse, scse, srm, fca or mono"
                )
            maps = level.convs(x)
            responses.append(level.recalibrate.excitation(maps))
            x = F.max_pool2d(level.recalibrate(maps), 2)
        return responses

    def _checked(self, image: Tensor) -> Tensor:
        expect_maps(image, self.in_channels)
        size, smallest = tuple(image.shape[-2:]), 1 << len(self.encoder)
        if self.image_size is not None and size != tuple(self.image_size):
            raise ValueError(f"the network was built for images of {tuple(self.image_size)}, got {size}")
        if min(size) < smallest:
            raise ValueError(
                f"an image of {size[0]} x {size[1]} is too small for {len(self.encoder)} poolings: give at least "
                f"{smallest} x {smallest} pixels"
            )
        return image


def _layer(name: str, width: int, preset: Preset, size: tuple[int, int] | None, switches: dict[str, Any]) -> nn.Module:
    return recalibration(name, width, preset=preset, size=size, **switches)
