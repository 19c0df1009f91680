"""Convolutional rivals that predict the noise as DRAN does: DnCNN, its dynamic form, and one like Residual MID."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrepro.dran.dynamic_convolution import DynamicConv2d


class DnCNN(nn.Module):
    """Plain or dynamic chain of 3 x 3 convolutions with batch norm that predicts the noise (Zhang et al. 2017).

    Parameters
    ----------
    depth
        Convolutions in all: 17 for a known level, 20 for blind training; at least 2.
    features
        Channels between the first and the last convolution.
    in_channels
        Channels of the image.
    dynamic
        Inner convolutions are dynamic, as in the network that the authors' repository keeps beside theirs.
    out_activation
        ``tanh`` or None; the authors' dynamic form has a tanh.

    Shape
    -----
    Image in [-1, 1] plus noise (B, in_channels, H, W) -> noise of the same shape.

    Parameters at the default setting: 558,336; 2,237,376 with ``dynamic``.

    Notes
    -----
    Convolutions have no bias, apart from the dynamic ones. With 17 layers a pixel sees 35 x 35 pixels, as in DRAN.

    References
    ----------
    .. [1] Zhang, Zuo, Chen, Meng, Zhang. Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising.
       IEEE Transactions on Image Processing 26, 2017.
    """

    def __init__(
        self,
        depth: int = 17,
        *,
        features: int = 64,
        in_channels: int = 3,
        dynamic: bool = False,
        out_activation: str | None = None,
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth is {depth}: a DnCNN has at least a first and a last convolution")
        if out_activation not in ("tanh", None):
            raise ValueError(f"out_activation is {out_activation!r}: choose tanh or None")
        self.in_channels, self.out_activation = in_channels, out_activation
        inner = lambda: (
            DynamicConv2d(features, features, padding=1)
            if dynamic
            else _kaiming(nn.Conv2d(features, features, 3, padding=1, bias=False))
        )
        self.head = _kaiming(nn.Conv2d(in_channels, features, 3, padding=1, bias=False))
        self.inner = nn.ModuleList(
            nn.Sequential(inner(), nn.BatchNorm2d(features), nn.ReLU()) for _ in range(depth - 2)
        )
        self.tail = _kaiming(nn.Conv2d(features, in_channels, 3, padding=1, bias=False))

    def forward(self, image: Tensor) -> Tensor:
        """Predicted noise."""
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise ValueError(
                f"the network takes images of shape (B, {self.in_channels}, H, W), got {tuple(image.shape)}: "
                "build it with in_channels equal to the image's channels"
            )
        x = F.relu(self.head(image))
        for layer in self.inner:
            x = layer(x)
        noise = self.tail(x)
        return torch.tanh(noise) if self.out_activation else noise


def dynamic_dncnn(**options) -> DnCNN:
    """DnCNN of 17 layers, dynamic inner convolutions, tanh: DRAN without gates and blocks; 2,237,376 parameters."""
    return DnCNN(**{"dynamic": True, "out_activation": "tanh", **options})


def residual_mid_like(**options) -> DnCNN:
    """Plain residual CNN in the manner of Residual MID (Jifara et al. 2019), 8 layers.

    Depth and widths of the original could not be recovered: both are our choice.
    """
    return DnCNN(**{"depth": 8, **options})  # choice: half of DnCNN, for small training sets


def _kaiming(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv
