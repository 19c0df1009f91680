"""U-Net: outputs of the authors' networks, parameter counts of P23, and a contract over all variants."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medrepro.multifractal.recalibration import RECALIBRATIONS, Multi
from medrepro.multifractal.segmenter import DoubleConv, UNet, he_normal_

from .reference import draw, set_reference_weights, statistics

VARIANTS = [(name, preset) for name in RECALIBRATIONS for preset in ("paper", "authors_code", "corrected")]
SMALL = (16, 32, 16, 8)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape).astype(np.float32))


def with_reference_weights(net: UNet) -> UNet:
    """Kernels of the reference networks: numbered seeds in forward order."""
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.out_channels != 1] + [net.head]
    for t, conv in enumerate(convs):
        out, into, rows, columns = conv.weight.shape
        kernel = draw(100 + t, rows, columns, into, out, scale=math.sqrt(2 / (rows * columns * into)))
        conv.weight.data.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
    for level, encoder in enumerate(net.encoder):
        set_reference_weights(encoder.recalibrate, encoder.convs.conv_2.out_channels, level=level)
    return net


@pytest.mark.parametrize(
    ("name", "training", "expected"),
    [
        ("none", False, (0.335121, 0.081996, 0.127609, 0.617851)),
        ("cse", False, (0.481113, 0.030265, 0.371034, 0.588305)),
        ("scse", False, (0.478715, 0.031092, 0.361358, 0.596712)),
        ("srm", False, (0.449830, 0.042075, 0.295706, 0.619080)),
        ("srm", True, (0.477764, 0.031445, 0.357439, 0.587323)),
        ("fca", False, (0.503119, 0.052632, 0.309302, 0.671845)),
        ("mono", False, (0.433170, 0.042452, 0.291952, 0.592507)),
        ("mono", True, (0.480657, 0.024669, 0.385309, 0.584074)),
        ("multi", False, (0.185657, 0.129672, 0.021388, 0.646332)),
        ("multi", True, (0.153045, 0.134657, 0.013075, 0.674133)),
    ],
)
def test_probabilities_of_the_authors_networks(name, training, expected):
    """2e-5: statistics of float32 networks of 15 convolutions, rounded to six places."""
    image = np.random.default_rng(0).random((2, 64, 64, 3)).astype(np.float32)
    net = with_reference_weights(UNet(recalibration=name, preset="authors_code")).train(training)
    with torch.no_grad():
        prob = net.probability(torch.from_numpy(image).permute(0, 3, 1, 2))
    assert statistics(prob) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(
    ("settings", "without", "with_bn"),
    [
        ({}, 1_946_881, 1_949_697),
        ({"recalibration": "cse"}, 1_968_721, 1_971_537),
        ({"recalibration": "scse"}, 1_968_948, 1_971_764),
        ({"recalibration": "srm"}, 1_947_335, 1_950_151),
        ({"recalibration": "fca"}, 1_968_721, 1_971_537),
        ({"recalibration": "mono", "preset": "authors_code"}, 1_969_169, 1_971_985),
        ({"recalibration": "mono"}, 1_968_721, 1_971_537),
        ({"recalibration": "multi", "preset": "authors_code"}, 1_947_530, 1_950_346),
        ({"recalibration": "multi"}, 1_947_028, 1_949_844),
        ({"skips": False}, 1_753_345, None),
    ],
)
def test_p23_parameters_of_a_network(settings, without, with_bn):
    assert count(UNet(**settings)) == without
    if with_bn is not None:
        assert count(UNet(**settings, with_bn=True)) == with_bn


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
@pytest.mark.parametrize("size", [(2, 16, 24), (1, 17, 11), (1, 9, 8)])
def test_contract(name, preset, size):
    """Forward, backward, odd sizes, batch of one, state_dict round trip, bfloat16."""
    torch.manual_seed(0)
    net = UNet(SMALL, recalibration=name, preset=preset)
    image = images(size[0], 3, *size[1:])
    logits = net(image)
    assert logits.shape == (size[0], 1, *size[1:])
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    other = UNet(SMALL, recalibration=name, preset=preset)
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        prob = net.eval().probability(image)
        assert torch.equal(other.eval().probability(image), prob)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = net.probability(image)
    assert low.dtype == torch.float32
    assert (low - prob).abs().max() < 0.05  # bfloat16: 8 bits through 15 convolutions
    assert 0 <= prob.min() <= prob.max() <= 1


@pytest.mark.parametrize("size", [(16, 16), (15, 21)])
def test_every_variant_without_skips_and_with_classes(size):
    for name in RECALIBRATIONS:
        net = UNet(SMALL, recalibration=name, skips=False, num_classes=4, in_channels=1)
        prob = net.probability(images(2, 1, *size))
        assert prob.shape == (2, 4, *size)
        assert torch.allclose(prob.sum(1), torch.ones(2, *size), atol=1e-5)


def test_upsampling_is_bilinear_by_two_where_sides_divide_by_eight():
    net = UNet((8, 8), recalibration="none").eval()
    image = images(1, 3, 16, 24)
    x = net.encoder[0](image)
    below = net.bottleneck(nn.functional.max_pool2d(x, 2))
    up = nn.functional.interpolate(below, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(net(image), net.head(net.decoder[0](torch.cat([up, x], 1))), atol=1e-6)


def test_the_skip_is_taken_after_recalibration():
    net = UNet((4, 8), recalibration="multi")
    seen = []
    net.decoder[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = images(1, 3, 16, 16)
    net(image)
    convolved = net.encoder[0].convs(image)
    assert isinstance(net.encoder[0].recalibrate, Multi)
    assert torch.allclose(seen[0][:, 8:], net.encoder[0].recalibrate(convolved), atol=1e-6)
    assert (seen[0][:, 8:] - convolved).min() >= 0.5 - 1e-5


def test_kernels_start_he_normal_cut_at_two_sigma():
    torch.manual_seed(0)
    conv = he_normal_(nn.Conv2d(64, 128, 3))
    sigma = math.sqrt(2 / (9 * 64))
    assert conv.weight.std().item() == pytest.approx(sigma, rel=0.01)  # 73,728 draws: standard error .3 %
    assert conv.weight.abs().max().item() == pytest.approx(2 * sigma / 0.8796256610, rel=0.01)
    net = UNet()
    assert all(m.bias.abs().max() == 0 for m in net.modules() if isinstance(m, nn.Conv2d))
    assert net.head.weight.abs().max() <= math.sqrt(6 / 33)


def test_excitations_are_those_of_the_forward_pass():
    net = UNet(SMALL, recalibration="mono").eval()
    image, seen = images(3, 3, 16, 16), []
    for level in net.encoder:
        level.recalibrate.gate.register_forward_hook(lambda *args: seen.append(args[2]))
    net(image)
    expected, seen[:] = list(seen), []
    responses = net.excitations(image)
    assert [tuple(response.shape) for response in responses] == [(3, 16), (3, 32), (3, 16)]
    assert all(torch.equal(a, b) for a, b in zip(responses, expected, strict=True))


def test_double_conv_counts_its_parameters():
    assert count(DoubleConv(3, 32)) == 9 * (3 + 32) * 32 + 64
    assert count(DoubleConv(3, 32, with_bn=True)) == 9 * (3 + 32) * 32 + 64 + 128


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: UNet((8,)), r"at least one level and a bottleneck, got channels=\(8,\)"),
        (lambda: UNet(num_classes=0), "num_classes is at least 1, got 0"),
        (lambda: UNet(recalibration="se"), "recalibration='se' is unknown; known: none"),
        (lambda: UNet(recalibration="cse", switches={"q": 2}), "'cse' has no switch 'q'"),
        (lambda: UNet(SMALL)(images(1, 1, 16, 16)), "expected 3 channels, got 1"),
        (lambda: UNet(SMALL)(images(1, 3, 7, 16)), "7 x 16 is too small for 3 poolings: give at least 8 x 8"),
        (lambda: UNet(SMALL, image_size=(16, 16))(images(1, 3, 16, 24)), r"images of \(16, 16\), got \(16, 24\)"),
        (lambda: UNet(SMALL).excitations(images(1, 3, 16, 16)), "Identity makes no vector of channel gates"),
    ],
)
def test_faults_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
