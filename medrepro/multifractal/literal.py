"""Mono and Multi as the equations read (Martins, Coimbra, Renna 2025, equations 16 and 21 to 25): to compare with and to time.

Min and max over the batch, one all-ones depthwise convolution a scale, logarithms, a stack, a slope, a stored map of
exponents; for Multi a last axis of Q level sets. The layers of `recalibration` give the same numbers in less time.
"""

from torch import Tensor, nn

from medrepro.multifractal.exponent import literal_exponent
from medrepro.multifractal.measure import Rescaling
from medrepro.multifractal.multi import Multi
from medrepro.multifractal.presets import combined
from medrepro.multifractal.recalibration import Mono
from medrepro.multifractal.segmenter import UNet


def literal_rescale(x: Tensor, *, over: Rescaling = "batch", low: float = 1.0, high: float = 256.0) -> Tensor:
    """As `rescale`, by plain operations whose gradient automatic differentiation finds.

    Examples
    --------
    >>> import torch
    >>> literal_rescale(torch.tensor([[[[-1.0, 0.0], [0.0, 4.0]]]])).tolist()
    [[[[1.0, 52.0], [52.0, 256.0]]]]
    """
    if over == "none":
        return x
    axes = (0, 2, 3) if over == "batch" else (2, 3)
    least, most = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
    return low + (high - low) * (x - least) / (most - least).clamp(1e-7, 1e9)


class Literal(nn.Module):
    """The literal form of a Mono or Multi layer, with that layer's own parameters.

    Parameters
    ----------
    layer
        The layer; anything but Mono and Multi is an error.

    Shape
    -----
    (B, C, H, W) -> (B, C, H, W).

    Examples
    --------
    >>> import torch
    >>> layer, x = Multi(4), torch.rand(2, 4, 9, 9)
    >>> torch.allclose(Literal(layer)(x), layer(x), atol=1e-5)
    True
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        if not isinstance(layer, Mono | Multi):
            raise ValueError(f"only Mono and Multi have a literal form, got {type(layer).__name__}")
        self.layer = layer

    def exponent(self, x: Tensor) -> Tensor:
        """Map of exponents, batch-normed if the layer does so, shape (B, C, H, W)."""
        module = self.layer.exponent
        weights = None if module.slope_weights is None else module.slope_weights.sigmoid()
        alpha = literal_exponent(
            literal_rescale(x, over=module.minmax),
            scales=module.scales,
            slope=module.slope,
            weights=weights,
            padding=module.padding,
            eps=module.eps,
        )
        return alpha if module.norm is None else module.norm(alpha)

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrated maps."""
        layer, alpha = self.layer, self.exponent(x)
        if isinstance(layer, Mono):
            return combined(x, layer.gate(alpha.mean((2, 3)))[:, :, None, None], layer.combine)
        return combined(x, layer.response(layer.memberships(alpha)), layer.combine)


def with_literal_layers(net: UNet) -> UNet:
    """`net`, changed in place so that its recalibrations are in literal form."""
    for level in net.encoder:
        level.recalibrate = Literal(level.recalibrate)
    return net
