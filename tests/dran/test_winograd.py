"""Winograd's convolution against the library's, in value and gradient."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medrepro.dran.winograd import KERNEL, conv3x3
from medrepro.dran.winograd_loops import PLAIN, gradient_tiles, input_tiles, output_tiles
from tests.dran.reference import close

# input and output transform along one axis, for the points 0, 1, -1, 2, -2, infinity
INPUT = np.array([
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
])  # fmt: skip
OUTPUT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])

CASES = [  # batch, sets of kernels, height, width, reflected border
    (1, 1, 16, 16, False),
    (3, 3, 19, 30, False),
    (2, 1, 17, 16, True),
    (2, 2, 33, 20, True),
    (2, 1, 2, 150, True),
    (1, 1, 3, 530, False),
]


def arguments(batch: int, sets: int, height: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)
    given = draw(batch, 48, height, width), draw(sets, 56, 48, 3, 3) / 21, draw(sets, 56)
    return [one.to(dtype).requires_grad_() for one in given]


def library(x: Tensor, weight: Tensor, bias: Tensor, reflect: bool) -> Tensor:
    """Sample by sample."""
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect" if reflect else "constant")
    pick = lambda one, i: one[i % len(one)]
    return torch.cat([F.conv2d(padded[i : i + 1], pick(weight, i), pick(bias, i)) for i in range(len(x))])


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_values_and_gradients_are_those_of_the_library(case, dtype, tolerance):
    *sizes, reflect = case
    results = []
    for function, precision in ((conv3x3, dtype), (library, torch.float64)):
        given = arguments(*sizes, precision)
        y = function(*given, reflect=reflect)
        (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
        with torch.no_grad():
            results.append([y.detach(), function(*given, reflect=reflect), *(one.grad for one in given)])
    for ours, expected in zip(*results, strict=True):
        assert (ours - expected).abs().max() <= tolerance * expected.abs().max()


def test_gradients_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)
    x, weight, bias = draw(1, 48, 16, 17), draw(1, 48, 48, 3, 3), draw(1, 48)
    along = [draw(*one.shape) for one in (x, weight, bias)]
    leaves = [one.clone().requires_grad_() for one in (x, weight, bias)]
    objective = lambda *given: conv3x3(*given, reflect=True).square().mean()
    objective(*leaves).backward()
    for n, direction in enumerate(along):
        moved = [
            [one + (step * direction if n == m else 0) for m, one in enumerate((x, weight, bias))]
            for step in (1e-4, -1e-4)
        ]
        slope = (objective(*moved[0]) - objective(*moved[1])) / 2e-4
        assert slope.item() == pytest.approx((leaves[n].grad * direction).sum().item(), rel=1e-6)


def test_transforms_are_winograds_identity():
    """OUTPUT [(KERNEL g) * (INPUT d)] is the correlation of six numbers with three taps."""
    d, g = torch.rand(6, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    i, k, o = (torch.from_numpy(one).double() for one in (INPUT, KERNEL, OUTPUT))
    expected = torch.stack([(d[n : n + 3] * g).sum() for n in range(4)])
    assert close(o @ ((k @ g) * (i @ d)), expected, 1e-12)


@pytest.mark.parametrize("channels", [3, 64, 70])
def test_loops_multiply_by_the_transforms(channels):
    """One tile: INPUT d INPUT^T, OUTPUT m OUTPUT^T, and the transpose of the latter."""
    factors, generator = np.array([2.0, 4, 5, 8]), np.random.default_rng(0)
    d, m, g = (generator.standard_normal((side, side, channels)) for side in (6, 6, 4))
    out, y = np.empty((36, 1, channels)), np.empty((4, 4, channels))
    both = lambda matrix, x: np.einsum("ia,jb,abc->ijc", matrix, matrix, x)
    input_tiles(d, 0, 1, 0, False, factors, out)
    np.testing.assert_allclose(out.reshape(6, 6, -1), both(INPUT, d), atol=1e-12)
    gradient_tiles(g, 0, 1, factors, out)
    np.testing.assert_allclose(out.reshape(6, 6, -1), both(OUTPUT.T, g), atol=1e-12)
    output_tiles(m.reshape(36, 1, -1), 0, 1, np.ones(channels), PLAIN, factors, y)
    np.testing.assert_allclose(y, both(OUTPUT, m) + 1, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (18, 17)])  # the library's form, Winograd's
def test_relu_and_gate_after_the_convolution(size):
    x, weight, bias = arguments(2, 2, *size, torch.float32)
    expected = library(x, weight, bias, False)
    assert close(conv3x3(x, weight, bias, after="relu"), F.relu(expected), 1e-4)
    feature, mask = 40 * expected[:, :28], 40 * expected[:, 28:]  # masks up to the ends of the exponential
    found = conv3x3(x, 40 * weight, 40 * bias, after="gate")
    assert close(found, F.leaky_relu(feature, 0.2) * torch.sigmoid(mask), 1e-2)


@torch.no_grad()
def test_small_maps_few_channels_and_other_types_go_to_the_library():
    x, weight, bias = arguments(2, 2, 16, 16, torch.float32)
    expected = library(x, weight, bias, False)
    for dtype, tolerance in ((torch.bfloat16, 0.2), (torch.float16, 0.02)):
        y = conv3x3(x.to(dtype), weight.to(dtype), bias.to(dtype))
        assert y.dtype == dtype
        assert (y.float() - expected).abs().max() < tolerance
    assert torch.equal(conv3x3(x[..., :8], weight, bias), library(x[..., :8], weight, bias, False))
    assert close(conv3x3(x[:, :8], weight[:, :, :8], None), library(x[:, :8], weight[:, :, :8], 0 * bias, False), 1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv3x3(x, weight, bias).dtype == torch.bfloat16
