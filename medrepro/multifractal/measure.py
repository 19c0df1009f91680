"""A positive measure from feature maps: each channel stretched to [1, 256], as the authors' code does (commit 3b723cd)."""

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from medrepro.multifractal.maps import at_least_float32, expect_maps, one_of, planes_in_a_block, split, without_autocast

Rescaling = Literal["batch", "sample", "none"]

LOW, HIGH = 1.0, 256.0  # range of a rescaled measure


def rescale(x: Tensor, *, over: Rescaling = "batch", low: float = 1.0, high: float = 256.0) -> Tensor:
    r"""Stretch each channel to [low, high], so that it can serve as a positive measure.

    .. math:: \hat x = low + (high - low)\,\frac{x - \min x}{\mathrm{clip}(\max x - \min x,\ 10^{-7},\ 10^9)}

    Parameters
    ----------
    x
        Feature maps, shape (B, C, H, W), any sign.
    over
        Extremes per channel over the whole ``batch`` (the authors' code: an image's result depends on its batch mates),
        over each ``sample`` alone, or ``none``: `x` is returned as it is.
    low, high
        Ends of the new range. With 1 and 256 the mass of every box is at least 1.

    Returns
    -------
    Tensor
        Shape of `x`; float32 if `x` is of half precision, else its dtype. A constant channel becomes `low`.

    Raises
    ------
    ValueError
        `x` is not a batch of maps; `over` is unknown.

    Notes
    -----
    Tied extremes share the gradient equally. On a constant channel the slope is (high - low) / 1e-7: finite but huge.

    Examples
    --------
    >>> rescale(torch.tensor([[[[-1.0, 0.0], [0.0, 4.0]]]])).tolist()
    [[[[1.0, 52.0], [52.0, 256.0]]]]
    """
    one_of("over", over, ("batch", "sample", "none"))
    expect_maps(x)
    with without_autocast(x):
        x = at_least_float32(x)
        if over == "none":
            return x
        return _Rescale.apply(x, over, low, high)


def planes_of(x: Tensor) -> Tensor:
    """All planes of (B, C, H, W) in one row, shape (B C, H, W), contiguous."""
    return x.reshape(-1, *x.shape[-2:]).contiguous()


class Extremes:
    """Least and most entry of the group of every plane: of a channel over the batch, or of the plane itself.

    Parameters
    ----------
    planes
        Maps, shape (B C, H, W).
    channels
        C where extremes are those of a channel over the batch; else not given.
    ends
        Both extremes of every plane's group, shape (2, B C), if they are known.
    """

    def __init__(self, planes: Tensor, channels: int | None, ends: Tensor | None = None) -> None:
        self.planes, self.channels, self.count = planes, channels, planes_in_a_block(planes)
        self.ends = self._found() if ends is None else ends
        self.least = self.ends[0]
        self.span = (self.ends[1] - self.least).clamp_(1e-7, 1e9)

    def _found(self) -> Tensor:
        blocks = [block.flatten(1) for block in split(self.planes, self.count)]
        ends = [torch.stack([block.amin(1), block.amax(1)]) for block in blocks]
        ends = ends[0] if len(ends) == 1 else torch.cat(ends, 1)
        if self.channels is None:
            return ends
        grouped = ends.view(2, -1, self.channels)
        of_channels = torch.stack([grouped[0].amin(0), grouped[1].amax(0)])
        return of_channels[:, None].expand_as(grouped).reshape(ends.shape)

    def no_gradient_to_span(self) -> Tensor:
        """Where the span was clipped."""
        return self.ends[1] - self.least != self.span

    @cached_property
    def _flags(self) -> Tensor:
        return self.planes.new_empty(self.count, *self.planes.shape[-2:])

    def _flagged(self, block: Tensor, end: Tensor) -> Tensor:
        """1 where an entry is an extreme, else 0; it holds until the next call."""
        return torch.eq(block, end[:, None, None], out=self._flags[: len(block)])

    def ties(self, block: Tensor, ends: Tensor) -> Tensor:
        """How often the extremes (n, 2) occur in the planes of a block, shape (2, n)."""
        return torch.stack([self._flagged(block, end).sum((1, 2)) for end in ends.unbind(1)])

    def add_gradient(self, to_planes: Tensor, to_ends: Tensor, ties: Tensor) -> None:
        """Add the gradients of both extremes, planes' parts (2, B C), shared equally by the entries that tie."""
        if self.channels is None:
            shares = to_ends / ties
        else:
            to_ends, ties = (part.view(2, -1, self.channels).sum(1) for part in (to_ends, ties))
            shares = (to_ends / ties)[:, None].expand(2, len(self.planes) // self.channels, -1).reshape(2, -1)
        parts = [split(part, self.count) for part in (self.planes, to_planes, self.ends.t(), shares.t())]
        for block, out, ends, share in zip(*parts, strict=True):
            for number, end in enumerate(ends.unbind(1)):
                out.addcmul_(self._flagged(block, end), share[:, number, None, None])


class _Rescale(torch.autograd.Function):
    """Rescaling of planes, block by block; the extremes receive their gradient from two sums over the group."""

    @staticmethod
    def forward(ctx, x: Tensor, over: Rescaling, low: float, high: float) -> Tensor:
        planes, ctx.channels = planes_of(x), x.shape[1] if over == "batch" else None
        extremes = Extremes(planes, ctx.channels)
        ctx.save_for_backward(planes, extremes.ends)
        ctx.width = high - low
        scaled = torch.empty_like(planes)
        of_planes = (extremes.least, ctx.width / extremes.span)
        parts = [split(part, extremes.count) for part in (planes, scaled, *of_planes)]
        for block, out, m, f in zip(*parts, strict=True):
            torch.sub(block, m[:, None, None], out=out).mul_(f[:, None, None]).add_(low)
        return scaled.view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        planes, ends = ctx.saved_tensors
        extremes = Extremes(planes, ctx.channels, ends)
        factor = ctx.width / extremes.span
        to_planes, totals, moments, ties = torch.empty_like(planes), [], [], []
        of_planes = planes, planes_of(grad), to_planes, ends.t(), extremes.least, factor
        for block, upstream, out, both, m, f in zip(*(split(part, extremes.count) for part in of_planes), strict=True):
            ties.append(extremes.ties(block, both))
            torch.sub(block, m[:, None, None], out=out).mul_(upstream)
            moments.append(out.sum((1, 2)))
            totals.append(torch.mul(upstream, f[:, None, None], out=out).sum((1, 2)))
        moment = (torch.cat(moments) * factor / extremes.span).masked_fill(extremes.no_gradient_to_span(), 0)
        extremes.add_gradient(to_planes, torch.stack([moment - torch.cat(totals), -moment]), torch.cat(ties, 1))
        return to_planes.view(grad.shape), None, None, None
