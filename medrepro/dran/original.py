"""Weights of the authors' network in ours (Sharif, Naqvi, Biswas 2020; sharif-apu/MID-DRAN, commit 0ace2d3).

Their checkpoint holds three blocks of which the first alone acts, and three gates: 2,458,944 parameters, of which
969,664 are of use. The names of its tensors are not needed: modules are told apart by the shapes they hold.
"""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medrepro.dran.network import DRAN

ROLES = ("dynamic", "squeeze", "excite", "norm", "gate", "head", "tail")


def load_original(model: DRAN, state: Mapping[str, Tensor], *, mask_first: bool = False) -> None:
    """Copy a state dict of the authors' network, read with ``weights_only=True``, into a network with a shared block.

    Parameters
    ----------
    model
        Network with ``blocks="shared"`` and one set of batch norm, of the checkpoint's widths; weights are replaced.
    state
        Tensors by name, one name ending a tensor as PyTorch gives it: ``weight``, ``bias``, ``running_mean``,
        ``running_var``, ``num_batches_tracked``. A prefix such as ``module.`` does no harm.
    mask_first
        The gates hold the mask's convolution before that of the features.

    Raises
    ------
    ValueError
        `model` has independent or per-use blocks, which the checkpoint does not describe; a module is missing, left
        over or misshapen; a tensor is not finite. Then nothing is copied.

    Notes
    -----
    Assumed, since the names could not be recovered: modules of one kind stand in the order in which they are used, with
    the acting block first; the convolution of a gate's features stands before the mask's. Dynamic biases of their fresh
    networks are uninitialised memory, which is why a tensor that is not finite is refused.
    """
    if model.block_kind != "shared" or model.bn != "shared":
        raise ValueError(
            f"the authors' checkpoint has one acting block, this network has blocks={model.block_kind!r}, "
            f"bn={model.bn!r}: build it with preset 'authors_code'; its two other blocks were never trained"
        )
    given = _by_role(state, model)
    targets = _targets(model)
    pairs: list[tuple[str, Tensor, Tensor]] = []
    for role, modules in targets.items():
        found = given[role]
        if role == "gate" and mask_first:
            found = [found[i ^ 1] for i in range(len(found) - len(found) % 2)]
        allowed = (
            (len(modules), len(modules) * len(model.gates)) if role in ("dynamic", "squeeze", "excite", "norm") else ()
        )
        if len(found) not in (allowed or (len(modules),)):
            wanted = " or ".join(map(str, sorted(set(allowed)))) or str(len(modules))
            raise ValueError(f"the checkpoint holds {len(found)} modules of kind {role}, expected {wanted}")
        for module, (name, tensors) in zip(modules, found, strict=False):
            pairs += _matched(module, name, tensors)
    with torch.no_grad():
        for _, target, tensor in pairs:
            target.copy_(tensor)


def _targets(model: DRAN) -> dict[str, list[nn.Module]]:
    layers = list(model.blocks[0])
    return {
        "dynamic": [layer.conv for layer in layers],
        "squeeze": [layer.conv.squeeze for layer in layers],
        "excite": [layer.conv.excite for layer in layers],
        "norm": [layer.norms[0] for layer in layers],
        "gate": [conv for gate in model.gates for conv in (gate.feature, gate.mask)],
        "head": [model.head],
        "tail": [model.tail],
    }


def _by_role(state: Mapping[str, Tensor], model: DRAN) -> dict[str, list[tuple[str, dict[str, Tensor]]]]:
    """Modules of a state dict as (name, tensors), by what they are, each kind in the order given."""
    modules: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in state.items():
        prefix, _, leaf = name.rpartition(".")
        modules[prefix][leaf] = tensor
    found: dict[str, list] = {role: [] for role in ROLES}
    for prefix, tensors in modules.items():
        found[_role(prefix, tensors, model)].append((prefix, tensors))
    return found


def _role(prefix: str, tensors: dict[str, Tensor], model: DRAN) -> str:
    weight = tensors.get("weight")
    if "running_mean" in tensors:
        return "norm"
    if weight is not None and weight.ndim == 5:
        return "dynamic"
    if weight is not None and weight.ndim == 4:
        if weight.shape[-1] == 1:
            return "excite" if weight.shape[0] == model.kernels else "squeeze"
        if "bias" in tensors:
            return "gate"
        return "tail" if weight.shape[0] == model.in_channels else "head"
    raise ValueError(f"the checkpoint's module {prefix!r} with tensors {sorted(tensors)} is none of a DRAN")


def _matched(module: nn.Module, name: str, tensors: dict[str, Tensor]) -> list[tuple[str, Tensor, Tensor]]:
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    own.pop("temperature", None)
    tensors = {"num_batches_tracked": torch.tensor(0), **tensors} if "num_batches_tracked" in own else tensors
    if set(own) != set(tensors):
        raise ValueError(f"module {name!r} holds {sorted(tensors)}, expected {sorted(own)}")
    for leaf, tensor in tensors.items():
        if tensor.shape != own[leaf].shape:
            raise ValueError(f"{name}.{leaf} has shape {tuple(tensor.shape)}, expected {tuple(own[leaf].shape)}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name}.{leaf} has an entry that is not finite")
    return [(f"{name}.{leaf}", own[leaf], tensor) for leaf, tensor in tensors.items()]
