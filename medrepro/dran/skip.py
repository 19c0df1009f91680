"""Other skip paths in place of the noise gate, for the ablation: the identity, and a plain convolution."""

import torch.nn.functional as F
from torch import Tensor, nn

from medrepro.dran.network import DRAN
from medrepro.dran.winograd import LEAK

SKIPS = ("gate", "identity", "conv")


class Identity(nn.Module):
    """A copy of the input; a copy, since the network adds to what a skip path returns."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, C, H, W), kept."""
        return x.clone()


class PlainConv(nn.Module):
    """The gate's feature branch alone: 3 x 3 convolution with reflected border, leaky ReLU; half the parameters.

    Parameters
    ----------
    features
        Channels in and out.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, C, H, W), kept."""
        return F.leaky_relu(self.conv(x), LEAK)


def with_skip(network: DRAN, kind: str) -> DRAN:
    """The network with its gates replaced in place: ``gate`` (none are), ``identity`` or ``conv``.

    Raises
    ------
    ValueError
        Unknown kind.
    """
    if kind not in SKIPS:
        raise ValueError(f"skip is {kind!r}: choose one of {', '.join(SKIPS)}")
    for place in range(len(network.gates)) if kind != "gate" else ():
        network.gates[place] = Identity() if kind == "identity" else PlainConv(network.features)
    return network
