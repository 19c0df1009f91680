"""Weights of the authors' networks in ours, and back (Martins, Coimbra, Renna 2025).

Their framework keeps convolution kernels as (rows, columns, in, out), dense kernels as (in, out) and batch norm as
gamma, beta, moving mean, moving variance. Ours has one tensor for each of theirs, except for the all-ones kernels and
zero biases of their box sums, which nobody trains and we do not hold.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from medrepro.multifractal.recalibration import SRM, Multi

# From our axes to theirs, by kind of tensor; the inverse permutation leads back.
_KERNEL_AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}


class Slot(NamedTuple):
    """A tensor of ours with the name, and the order of axes, that it has on the other side."""

    name: str
    tensor: Tensor
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape on the other side."""
        return tuple(self.tensor.shape[axis] for axis in self.axes)


def _slot(name: str, tensor: Tensor, *, kernel: bool = False) -> Slot:
    axes = _KERNEL_AXES[tensor.ndim] if kernel else tuple(range(tensor.ndim))
    return Slot(name, tensor, axes)


def slots(module: nn.Module, prefix: str = "") -> Iterator[Slot]:
    """Every tensor of a network or layer in the order in which a forward pass uses them.

    Names are paths such as ``encoder/0/convs/conv_1/kernel``.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        yield _slot(f"{prefix}kernel", module.weight, kernel=True)
        yield _slot(f"{prefix}bias", module.bias)
        return
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        yield _slot(f"{prefix}gamma", module.weight)
        yield _slot(f"{prefix}beta", module.bias)
        yield _slot(f"{prefix}moving_mean", module.running_mean)
        yield _slot(f"{prefix}moving_variance", module.running_var)
        return
    order = {Multi: ("exponent", "centres", "raw_precisions", "phi"), SRM: ("style", "norm")}.get(type(module))
    if order is None:
        own, children = dict(module.named_parameters(recurse=False)), dict(module.named_children())
        order = (*own, *children)
    for name in order:
        part = getattr(module, name)
        if isinstance(part, nn.Module):
            yield from slots(part, f"{prefix}{name}/")
        else:
            yield _slot(f"{prefix}{name}", part, kernel=name == "style")


def to_original(model: nn.Module) -> dict[str, np.ndarray]:
    """Weights in the layout of the authors' framework, by name and in forward order.

    Examples
    --------
    >>> from medrepro.multifractal.recalibration import ChannelSE
    >>> {name: array.shape for name, array in to_original(ChannelSE(4)).items()}
    {'gate/squeeze/kernel': (4, 2), 'gate/squeeze/bias': (2,), 'gate/excite/kernel': (2, 4), 'gate/excite/bias': (4,)}
    """
    return {slot.name: slot.tensor.detach().cpu().permute(slot.axes).numpy().copy() for slot in slots(model)}


def load_original(model: nn.Module, state: Mapping[str, np.ndarray] | Sequence[np.ndarray]) -> None:
    """Copy weights in the layout of the authors' framework into a network or layer.

    Parameters
    ----------
    model
        Network or recalibration layer; its weights are replaced.
    state
        Arrays in the layout of the authors' framework: a mapping with the names of `to_original`, in any order; or a
        mapping with other names, or a sequence, in forward order (the order of `to_original`). In forward order,
        all-ones box kernels (k, k, C, 1) and the zero bias behind each are passed over.

    Raises
    ------
    ValueError
        An array is missing, left over or misshapen, or not finite; then nothing is copied.
    """
    wanted = list(slots(model))
    names = [slot.name for slot in wanted]
    if isinstance(state, Mapping) and set(state) & set(names):
        missing, extra = [name for name in names if name not in state], [key for key in state if key not in set(names)]
        if missing or extra:
            raise ValueError(f"weights by name: missing {_listed(missing)}; not in the model {_listed(extra)}")
        given = [(name, np.asarray(state[name])) for name in names]
    else:
        pairs = state.items() if isinstance(state, Mapping) else enumerate(state)
        given = _without_boxes([(f"array {key}", np.asarray(array)) for key, array in pairs])
        if len(given) != len(wanted):
            at = min(len(given), len(wanted))
            where = f"missing from {names[at]} on" if at < len(wanted) else f"left over from {given[at][0]} on"
            raise ValueError(f"weights in forward order: expected {len(wanted)} arrays, got {len(given)}; {where}")
    for slot, (label, array) in zip(wanted, given, strict=True):
        if array.shape != slot.shape:
            raise ValueError(f"{slot.name}: expected shape {slot.shape}, got {array.shape} from {label}")
        if not np.isfinite(array).all():
            raise ValueError(f"{slot.name}: {label} has an entry that is not finite")
    with torch.no_grad():
        for slot, (_, array) in zip(wanted, given, strict=True):
            slot.tensor.copy_(torch.from_numpy(np.ascontiguousarray(array.transpose(np.argsort(slot.axes)))))


def _without_boxes(given: list[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    kept, bias_of = [], None
    for label, array in given:
        if bias_of is not None and array.shape == (bias_of,) and not array.any():
            bias_of = None
            continue
        bias_of = None
        if array.ndim == 4 and array.shape[0] == array.shape[1] > 1 and array.shape[3] == 1 and (array == 1).all():
            bias_of = array.shape[2]
            continue
        kept.append((label, array))
    return kept


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most]) or "none"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
