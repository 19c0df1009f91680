"""What every layer here asks of feature maps: shape, precision, and blocks of planes that fit in a cache."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

BLOCK = 1 << 19  # elements of a block on a CPU: the few maps of it in use fit in the cache
KEPT = 1 << 18  # elements of a map up to which what is made of it waits for the backward pass


def at_least_float32(x: Tensor) -> Tensor:
    """The same values, in float32 if `x` is of half precision (bf16 box sums alone move alpha by about 1e-3)."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Context in which operations on the device of `x` keep their dtype (the meta device, of dry runs, has no autocast)."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(device_type=x.device.type, enabled=False)


def one_of(name: str, value: str, known: Sequence[str]) -> str:
    """`value`, if it is known; otherwise an error that lists what is."""
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; known: {', '.join(known)}")
    return value


def expect_maps(x: Tensor, channels: int | None = None) -> None:
    """Raise unless `x` is a batch of maps, with `channels` of them if that number is given."""
    if x.ndim != 4 or x.numel() == 0:
        raise ValueError(f"expected maps of shape (B, C, H, W) without an empty axis, got {tuple(x.shape)}")
    if channels is not None and x.shape[1] != channels:
        raise ValueError(f"expected {channels} channels, got {x.shape[1]} in maps of shape {tuple(x.shape)}")


def planes_in_a_block(x: Tensor) -> int:
    """How many planes (H, W) of maps (..., H, W) are worked on at a time: what a CPU's cache holds; all on an accelerator."""
    everything = x.shape[:-2].numel()
    return min(everything, max(1, BLOCK // x.shape[-2:].numel())) if x.device.type == "cpu" else everything


def may_be_kept(x: Tensor) -> bool:
    """Whether maps are so small that what is made of them may stay in memory: they are then one block."""
    return x.numel() <= min(KEPT, BLOCK)


def blocks_of_planes(x: Tensor, count: int | None = None) -> tuple[Tensor, ...]:
    """Blocks (n, H, W) of `count` whole planes of (..., H, W); of `planes_in_a_block` if no number is given."""
    planes = x.reshape(-1, *x.shape[-2:])
    return split(planes, count or planes_in_a_block(x))


def split(x: Tensor, count: int) -> tuple[Tensor, ...]:
    """Parts of `count` along the first axis."""
    return (x,) if count >= len(x) else x.split(count)
