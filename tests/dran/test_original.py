"""Weights of the authors' checkpoint: a state dict of their structure under foreign names."""

import pytest
import torch
from torch import Tensor

from benchmarks.dran import network
from medrepro.dran.network import DRAN
from medrepro.dran.original import load_original

OPTIONS = {"features": 8, "layers": 2}


def theirs(net: DRAN, *, mask_first: bool = False) -> dict[str, Tensor]:
    """What a checkpoint of a network with these weights holds: three blocks, the first acting, and foreign names."""
    state = {"module.first.weight": net.head.weight}
    for block in range(3):
        for n, layer in enumerate(net.blocks[0]):
            at = f"module.b{block}.{3 * n}"
            conv, norm = layer.conv, layer.norms[0]
            state |= {f"{at}.att.one.weight": conv.squeeze.weight, f"{at}.att.two.weight": conv.excite.weight}
            state |= {f"{at}.weight": conv.weight, f"{at}.bias": conv.bias}
            state |= {f"module.b{block}.{3 * n + 1}.{key}": value for key, value in norm.state_dict().items()}
    for n, gate in enumerate(net.gates):
        for name, conv in sorted({"a": gate.feature, "b": gate.mask}.items(), reverse=mask_first):
            state |= {f"module.g{n}.{name}.{key}": value for key, value in conv.state_dict().items()}
    state["module.last.weight"] = net.tail.weight
    state = {key: value.detach().clone() for key, value in state.items()}
    for key in state:
        if key.startswith(("module.b1", "module.b2")):  # never used
            state[key] = torch.zeros_like(state[key])
    return state


@pytest.mark.parametrize("mask_first", [False, True])
@torch.no_grad()
def test_d25_checkpoint_of_the_authors_structure_gives_the_same_output(mask_first):
    source, target = network("authors_code", **OPTIONS), DRAN("authors_code", **OPTIONS).eval()
    x = torch.rand(1, 3, 12, 14)
    assert not torch.equal(source(x), target(x))
    load_original(target, theirs(source, mask_first=mask_first), mask_first=mask_first)
    assert torch.equal(source(x), target(x))
    load_original(target, theirs(source, mask_first=mask_first), mask_first=not mask_first)
    assert not torch.equal(source(x), target(x))


def test_full_checkpoint_has_the_stored_number_of_parameters():
    net = DRAN("authors_code")
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    state = theirs(net)
    assert sum(value.numel() for key, value in state.items() if not key.endswith(buffers)) == 2_458_944
    load_original(net, state)


@pytest.mark.parametrize("options", [{"preset": "paper"}, {"preset": "authors_code", "bn": "per_use"}])
def test_d25_their_shared_block_is_refused_by_other_networks(options):
    state = theirs(network("authors_code", **OPTIONS))
    with pytest.raises(
        ValueError, match=r"one acting block, this network has blocks=.*build it with preset 'authors_code'"
    ):
        load_original(DRAN(**options, **OPTIONS), state)


def spoilt(change: str) -> dict[str, Tensor]:
    state = theirs(network("authors_code", **OPTIONS))
    if change == "missing":
        del state["module.g1.a.weight"], state["module.g1.a.bias"]
    elif change == "leaf":
        del state["module.b0.0.bias"]
    elif change == "shape":
        state["module.b0.0.weight"] = state["module.b0.0.weight"][:, :4]
    elif change == "nan":
        state["module.b0.0.bias"][0, 0] = torch.inf
    else:
        state["module.extra.table"] = torch.zeros(3)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "5 modules of kind gate, expected 6"),
        ("leaf", r"holds \['weight'\], expected \['bias', 'weight'\]"),
        ("shape", r"module.b0.0.weight has shape \(4, 4, 8, 3, 3\), expected \(4, 8, 8, 3, 3\)"),
        ("nan", "module.b0.0.bias has an entry that is not finite"),
        ("extra", "'module.extra' .* none of a DRAN"),
    ],
)
def test_a_faulty_checkpoint_is_named_and_nothing_copied(change, message):
    net = DRAN("authors_code", **OPTIONS)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_original(net, spoilt(change))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
