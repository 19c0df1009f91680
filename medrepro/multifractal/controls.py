"""Controls for Mono and Multi: what is left of their effect when the exponent is replaced, or the whole block.

Each answers one doubt of a careful reader. Does it have to be this exponent, or will another local contrast do? Does it
have to look at the image at all? Is it the normalisation that comes along?
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrepro.multifractal.exponent import BN_EPS, BN_MOMENTUM, Exponent, at_least_float32, one_of, rescale
from medrepro.multifractal.segmenter import UNet

Descriptor = Literal["blurs", "laplacian", "noise"]
#: Standard deviations in pixels of Gaussians as wide as boxes of side 2 and 8: side / sqrt(12).
BLURS = (2 / 12**0.5, 8 / 12**0.5)
#: What a freshly started Multi of the authors' code adds to every pixel in testing: sigmoid(1 / sqrt(1 + eps)).
CONSTANT = 1 / (1 + math.exp(-1 / math.sqrt(1 + BN_EPS)))


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of maps (B, C, H, W) with mirrored borders, cut off at four standard deviations."""
    reach = min(max(1, round(4 * sigma)), min(x.shape[-2:]) - 1)
    place = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-((place / sigma) ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    padded = F.pad(x, (reach, reach, reach, reach), mode="reflect")
    rows = F.conv2d(padded, kernel[..., None], groups=x.shape[1])
    return F.conv2d(rows, kernel[..., None, :], groups=x.shape[1])


class ReplacedExponent(nn.Module):
    """Another map in the place of the exponent, rescaled before and batch-normed after as the exponent was.

    Parameters
    ----------
    exponent
        The one that is replaced; its rescaling and its batch norm (fresh) are kept.
    descriptor
        ``blurs``: 2 plus half the log ratio of two Gaussian blurs, as wide as the boxes of sides 8 and 2 but without their
        offset of half a pixel. ``laplacian``: the five-point Laplacian, in units of the stretched range. ``noise``: one
        fixed draw of a standard normal, the same for every image.

    Shape
    -----
    (B, C, H, W) -> (B, C, H, W), float32 if the input is of half precision.
    """

    def __init__(self, exponent: Exponent, descriptor: Descriptor) -> None:
        super().__init__()
        self.descriptor = one_of("descriptor", descriptor, ("blurs", "laplacian", "noise"))
        self.minmax, self.scales, self.slope = exponent.minmax, exponent.scales, f"replaced by {descriptor}"
        channels = exponent.channels
        self.norm = None if exponent.norm is None else nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        """The replaced map, batch-normed if the exponent was."""
        described = self._described(at_least_float32(x))
        return described if self.norm is None else self.norm(described)

    def _described(self, x: Tensor) -> Tensor:
        if self.descriptor == "noise":
            generator = torch.Generator().manual_seed(0)
            return torch.randn(x.shape[1:], generator=generator, dtype=x.dtype).to(x.device).expand_as(x)
        measure = rescale(x, over=self.minmax)
        if self.descriptor == "blurs":
            small, large = (gaussian_blur(measure, sigma) for sigma in BLURS)
            return 2 + 0.5 * torch.log2(large / small)
        kernel = measure.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(measure, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1]) / 255

    def pooled(self, x: Tensor) -> Tensor:
        """Mean over rows and columns, shape (B, C)."""
        return self(x).mean((2, 3))


class AddConstant(nn.Module):
    """x plus a number: what Multi would do if its level map were flat."""

    def __init__(self, constant: float = CONSTANT) -> None:
        super().__init__()
        self.constant = constant

    def forward(self, x: Tensor) -> Tensor:
        """Shifted maps."""
        return x + self.constant


def with_control(net: UNet, control: str) -> UNet:
    """The network with a control in the place of every exponent, or of every recalibration.

    Parameters
    ----------
    net
        Changed in place. For ``blurs``, ``laplacian`` and ``noise`` its recalibrations have an exponent; for ``batch_norm``
        (a plain one) and ``constant`` (`AddConstant`) they are the identity.
    control
        One of these five.

    Raises
    ------
    ValueError
        An unknown control, or one that does not fit the network.
    """
    one_of("control", control, ("blurs", "laplacian", "noise", "batch_norm", "constant"))
    whole = control in ("batch_norm", "constant")
    for level in net.encoder:
        layer, channels = level.recalibrate, level.convs.conv_2.out_channels
        if whole != isinstance(layer, nn.Identity) or not (whole or hasattr(layer, "exponent")):
            wanted = "a network without recalibration" if whole else "mono or multi"
            raise ValueError(f"control {control!r} needs {wanted}, got {type(layer).__name__}")
        if control == "batch_norm":
            level.recalibrate = nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)
        elif control == "constant":
            level.recalibrate = AddConstant()
        else:
            layer.exponent = ReplacedExponent(layer.exponent, control)
    return net
