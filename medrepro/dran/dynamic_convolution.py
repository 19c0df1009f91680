"""Dynamic convolution: K kernels mixed by an attention over the whole image (Sharif, Naqvi, Biswas 2020).

Follows the behaviour of the authors' public code, sharif-apu/MID-DRAN at commit 0ace2d3, with two differences: biases
start at zero (theirs are uninitialised memory), and groups work.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrepro.dran.winograd import conv3x3, worthwhile

COOLING = 3.0  # step by which the temperature falls


class DynamicConv2d(nn.Module):
    r"""Convolution whose kernel is a mixture of K kernels, weighted by an attention computed from the input.

    .. math:: a = \mathrm{softmax}\big(A_2\,\mathrm{relu}(A_1 z) / T\big), \qquad
        y = \mathrm{conv}\Big(x, \sum_k a_k W_k\Big) + \sum_k a_k b_k

    where z is the mean of every channel over all pixels.

    Parameters
    ----------
    in_channels, out_channels
        Channels before and after.
    kernel_size, stride, padding, dilation, groups
        As in `torch.nn.Conv2d`; `padding` is filled with zeros.
    bias
        One bias vector for every kernel, started at zero.
    kernels
        Number K of kernels.
    temperature
        T, above 0. Large: all kernels weigh the same; small: one kernel takes all.
    ratio
        Hidden width of the attention as a share of `in_channels`, rounded down; K where there are 3 channels.
    form
        ``loop`` convolves sample by sample, ``grouped`` runs the batch as one convolution with a group for each sample;
        ``auto`` takes `conv3x3` where it is faster, else the grouped form. The results agree up to rounding.

    Shape
    -----
    (B, in_channels, H, W) -> (B, out_channels, H', W').

    Parameters of the layer at 64 channels in and out, kernel 3: 148,800.

    Raises
    ------
    ValueError
        `temperature`, `kernels` or `form` out of range; channels that `groups` does not divide.

    Notes
    -----
    Kernels start Kaiming uniform, each on its own; the attention's matrices Kaiming normal by fan-out. At T = 34 the
    attention of a new layer is 1/K to within 0.01, so the layer starts as a plain convolution with the mean kernel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        kernels: int = 4,
        temperature: float = 34.0,
        ratio: float = 0.25,
        form: str = "auto",
    ) -> None:
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups} does not divide {in_channels} channels in and {out_channels} out")
        if kernels < 1:
            raise ValueError(f"kernels is {kernels}: a dynamic convolution has at least one")
        if form not in ("auto", "loop", "grouped"):
            raise ValueError(f"form is {form!r}: choose auto, loop or grouped")
        self.in_channels, self.out_channels, self.kernels = in_channels, out_channels, kernels
        self.stride, self.padding, self.dilation, self.groups, self.form = stride, padding, dilation, groups, form
        # choice: at least one hidden unit, where the authors' rule gives none below four channels
        hidden = kernels if in_channels == 3 else max(1, int(in_channels * ratio))
        self.weight = nn.Parameter(torch.empty(kernels, out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(kernels, out_channels)) if bias else None
        self.squeeze = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.excite = nn.Conv2d(hidden, kernels, 1, bias=False)
        self.register_buffer("temperature", torch.tensor(0.0))
        self.set_temperature(temperature)
        for kernel in self.weight:
            nn.init.kaiming_uniform_(kernel, a=0)
        for matrix in (self.squeeze, self.excite):
            nn.init.kaiming_normal_(matrix.weight, mode="fan_out", nonlinearity="relu")

    def set_temperature(self, temperature: float) -> None:
        """Set T, above 0; it is kept in the state dict."""
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: it must be above 0")
        self.temperature.fill_(temperature)

    def cool(self, step: float = COOLING) -> float:
        """Lower T by a step, but not below 1; returns the new T."""
        now = float(self.temperature)
        self.set_temperature(min(now, max(1.0, now - step)))
        return float(self.temperature)

    def attention(self, x: Tensor) -> Tensor:
        """Weights a of the kernels, shape (B, K); rows sum to 1."""
        z = x.mean((2, 3))
        hidden = F.relu(F.linear(z, self.squeeze.weight.flatten(1)))
        return F.softmax(F.linear(hidden, self.excite.weight.flatten(1)) / self.temperature, -1)

    def forward(self, x: Tensor, attention: Tensor | None = None) -> Tensor:
        """Convolve with the mixed kernels; `attention`, shape (B, K), replaces the one computed from `x`."""
        a = self.attention(x) if attention is None else attention
        weight = (a @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])  # (B, out, in / groups, k, k)
        bias = None if self.bias is None else a @ self.bias  # (B, out)
        geometry = (weight.shape[-1], self.stride, self.padding, self.dilation, self.groups)
        if self.form == "auto" and geometry == (3, 1, 1, 1, 1) and worthwhile(x, weight):
            return conv3x3(x, weight, bias)
        return self._loop(x, weight, bias) if self.form == "loop" else self._grouped(x, weight, bias)

    def _loop(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        biases = [None] * len(x) if bias is None else bias.unbind()
        maps = [
            F.conv2d(x[i : i + 1], weight[i], biases[i], self.stride, self.padding, self.dilation, self.groups)
            for i in range(len(x))
        ]
        return maps[0] if len(maps) == 1 else torch.cat(maps)

    def _grouped(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        batch = len(x)
        maps = F.conv2d(
            x.reshape(1, -1, *x.shape[2:]),
            weight.flatten(0, 1),
            None if bias is None else bias.flatten(),
            self.stride,
            self.padding,
            self.dilation,
            batch * self.groups,
        )
        return maps.reshape(batch, self.out_channels, *maps.shape[2:])
