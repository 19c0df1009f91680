"""Noise gate: both printed forms, border, extremes, cases by hand."""

import pytest
import torch
import torch.nn.functional as F

from medrepro.dran.dynamic_convolution import DynamicConv2d
from medrepro.dran.noise_gate import NoiseGate
from tests.dran.reference import close


@pytest.fixture
def gate():
    torch.manual_seed(0)
    return NoiseGate(6)


def separate(gate: NoiseGate, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return gate.feature(padded), gate.mask(padded)


@pytest.mark.parametrize("features", [64, 6])
def test_d02_parameters_by_formula(features):
    assert sum(p.numel() for p in NoiseGate(features).parameters()) == 2 * (features**2 * 9 + features)


def test_d11_both_forms_of_the_gate_agree(gate):
    x = torch.randn(2, 6, 7, 5)
    u, m = separate(gate, x)
    assert close(gate(x), F.leaky_relu(u, 0.2) * torch.sigmoid(m), 1e-6)
    assert close(gate(x), F.leaky_relu(u * torch.sigmoid(m), 0.2), 1e-6)
    assert close(gate.openness(x), torch.sigmoid(m), 1e-6)
    assert ((gate.openness(x) > 0) & (gate.openness(x) < 1)).all()


def test_d11_zero_input_and_extreme_masks(gate):
    at_zero = F.leaky_relu(gate.feature.bias, 0.2) * torch.sigmoid(gate.mask.bias)
    assert close(gate(torch.zeros(1, 6, 4, 4)), at_zero[None, :, None, None].expand(1, 6, 4, 4), 1e-7)
    x = torch.randn(1, 6, 4, 4)
    gate.mask.bias.data.fill_(-50)
    assert gate(x).abs().max() < 1e-6
    gate.mask.bias.data.fill_(50)
    assert close(gate(x), F.leaky_relu(separate(gate, x)[0], 0.2), 1e-6)


def test_d12_border_is_reflected_in_the_gate_and_zero_in_the_dynamic_convolution(gate):
    x = torch.full((1, 6, 5, 6), 0.7)
    g = gate(x)
    assert (g - g[..., 2:3, 2:3]).abs().max() < 1e-6
    y = DynamicConv2d(6, 6, padding=1)(x)
    assert (y - y[..., 2:3, 2:3]).abs().max() > 1e-3
    assert (y - y[..., 2:3, 2:3])[..., 1:-1, 1:-1].abs().max() < 1e-6


@pytest.mark.parametrize(("bias", "expected"), [(-1.0, -0.1), (2.0, 1.0)])
def test_f2_zero_kernels_by_hand(gate, bias, expected):
    for parameter in gate.parameters():
        parameter.data.zero_()
    gate.feature.bias.data.fill_(bias)
    assert close(gate(torch.randn(1, 6, 3, 3)), torch.full((1, 6, 3, 3), expected), 1e-7)
