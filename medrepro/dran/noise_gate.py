"""Noise gate on the skip path of a dynamic residual attention block (Sharif, Naqvi, Biswas 2020)."""

import torch
from torch import Tensor, nn

from medrepro.dran.winograd import conv3x3, gated


class NoiseGate(nn.Module):
    r"""Features times a soft mask, per pixel and channel, both from 3 x 3 convolutions over a reflected border.

    .. math:: g(x) = \phi(U(x)) \, \sigma(M(x)), \qquad \phi = \text{leaky ReLU with slope } 0.2

    Parameters
    ----------
    features
        Channels in and out.

    Shape
    -----
    (B, C, H, W) -> (B, C, H, W), H and W at least 2.

    Parameters at 64 channels: 73,856.

    Notes
    -----
    The authors' code applies the activation to the product. The mask is positive and leaky ReLU keeps positive factors,
    so both forms are the same function. One convolution with twice the channels computes U and M.
    """

    def __init__(self, features: int = 64) -> None:
        super().__init__()
        self.feature = nn.Conv2d(features, features, 3)
        self.mask = nn.Conv2d(features, features, 3)

    def _both(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.feature.weight, self.mask.weight])
        bias = torch.cat([self.feature.bias, self.mask.bias])
        return conv3x3(x, weight[None], bias[None], reflect=True)

    def openness(self, x: Tensor) -> Tensor:
        """The mask sigma(M(x)) in (0, 1), shape (B, C, H, W)."""
        return torch.sigmoid(self._both(x).chunk(2, 1)[1])

    def forward(self, x: Tensor) -> Tensor:
        """Gated features."""
        return gated(self._both(x))
