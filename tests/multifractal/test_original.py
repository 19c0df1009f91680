"""Weights in the authors' layout: round trips by name and by order, one convolution by hand, faults."""

import numpy as np
import pytest
import torch
from torch import nn

from medrepro.multifractal.original import load_original, slots, to_original
from medrepro.multifractal.recalibration import RECALIBRATIONS, ChannelSE, Mono, Multi
from medrepro.multifractal.segmenter import UNet

SMALL = (16, 32, 16)
VARIANTS = [(name, preset) for name in RECALIBRATIONS for preset in ("paper", "authors_code")]


def network(name: str = "cse", preset: str = "authors_code", seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    net = UNet(SMALL, recalibration=name, preset=preset, with_bn=True).train()
    net(torch.rand(2, 3, 16, 16))  # moves the running statistics
    return net.eval()


def same_output(one: nn.Module, other: nn.Module) -> bool:
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return torch.equal(one(image), other(image))


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_round_trip_by_name_by_order_and_by_other_names(name, preset):
    net = network(name, preset)
    state = to_original(net)
    shuffled = dict(reversed(state.items()))
    for given in (shuffled, list(state.values()), {f"layer_{n}": array for n, array in enumerate(state.values())}):
        other = network(name, preset, seed=1)
        assert not same_output(net, other)
        load_original(other, given)
        assert same_output(net, other)


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_every_tensor_has_exactly_one_place(name, preset):
    net = network(name, preset)
    held = [slot.tensor.data_ptr() for slot in slots(net)]
    wanted = [tensor.data_ptr() for key, tensor in net.state_dict().items() if "num_batches" not in key]
    assert sorted(held) == sorted(wanted)
    assert len({slot.name for slot in slots(net)}) == len(held)


def test_order_is_that_of_the_forward_pass():
    names = list(to_original(UNet((16, 32), recalibration="multi", preset="authors_code")))
    assert names == [
        "encoder/0/convs/conv_1/kernel",
        "encoder/0/convs/conv_1/bias",
        "encoder/0/convs/conv_2/kernel",
        "encoder/0/convs/conv_2/bias",
        "encoder/0/recalibrate/exponent/slope_weights",
        "encoder/0/recalibrate/exponent/norm/gamma",
        "encoder/0/recalibrate/exponent/norm/beta",
        "encoder/0/recalibrate/exponent/norm/moving_mean",
        "encoder/0/recalibrate/exponent/norm/moving_variance",
        "encoder/0/recalibrate/centres",
        "encoder/0/recalibrate/raw_precisions",
        "encoder/0/recalibrate/phi/gamma",
        "encoder/0/recalibrate/phi/beta",
        "encoder/0/recalibrate/phi/moving_mean",
        "encoder/0/recalibrate/phi/moving_variance",
        *(
            f"{part}/conv_{n}/{kind}"
            for part in ("bottleneck", "decoder/0")
            for n in (1, 2)
            for kind in ("kernel", "bias")
        ),
        "head/kernel",
        "head/bias",
    ]


def test_kernels_are_turned_the_right_way():
    """A convolution and a dense layer computed by NumPy in the authors' layout."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.standard_normal((3, 3, 2, 4)), rng.standard_normal(4)
    conv = nn.Conv2d(2, 4, 3).double()
    load_original(conv, [kernel, bias])
    image = rng.standard_normal((5, 6, 2))
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), axis=(0, 1))  # row, column, in, kh, kw
    expected = np.einsum("rcihw,hwio->rco", windows, kernel) + bias
    got = conv(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).detach().numpy()
    assert got == pytest.approx(expected, abs=1e-12)
    dense, weights = nn.Linear(3, 2).double(), rng.standard_normal((3, 2))
    load_original(dense, {"kernel": weights, "bias": np.zeros(2)})
    vector = rng.standard_normal(3)
    assert dense(torch.from_numpy(vector)).tolist() == pytest.approx((vector @ weights).tolist(), abs=1e-12)


def test_frozen_box_kernels_are_passed_over():
    layer, other = Mono(4, preset="authors_code"), Mono(4, preset="authors_code")
    boxes = [array for k in (2, 4, 8) for array in (np.ones((k, k, 4, 1)), np.zeros(4))]
    load_original(other, boxes + list(to_original(layer).values()))
    for key, value in to_original(layer).items():
        assert np.array_equal(to_original(other)[key], value)


def test_shapes_of_multi():
    shapes = {name: array.shape for name, array in to_original(Multi(8, per_channel=True)).items()}
    assert shapes == {"centres": (8, 16), "raw_precisions": (8, 16), "phi/kernel": (16, 1), "phi/bias": (1,)}


def without(state: dict, name: str) -> dict:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: without(s, "gate/squeeze/bias"), "missing gate/squeeze/bias; not in the model none"),
        (lambda s: s | {"gate/gamma": np.ones(4)}, "missing none; not in the model gate/gamma"),
        (lambda s: list(s.values())[:3], "expected 4 arrays, got 3; missing from gate/excite/bias on"),
        (lambda s: [*s.values(), np.ones(2)], "expected 4 arrays, got 5; left over from array 4 on"),
        (
            lambda s: s | {"gate/excite/kernel": np.ones((4, 2))},
            r"gate/excite/kernel: expected shape \(2, 4\), got \(4, 2\)",
        ),
        (lambda s: s | {"gate/excite/bias": np.full(4, np.nan)}, "gate/excite/bias: .* not finite"),
        (lambda s: {}, "expected 4 arrays, got 0"),
    ],
)
def test_faults_name_the_array_and_copy_nothing(spoil, message):
    layer = ChannelSE(4)
    before = to_original(layer)
    with pytest.raises(ValueError, match=message):
        load_original(layer, spoil({key: value + 1 for key, value in before.items()}))
    assert all(np.array_equal(value, before[key]) for key, value in to_original(layer).items())
