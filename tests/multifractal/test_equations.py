"""Equations of the paper that decide ledger rows, against NumPy alone."""

import numpy as np
import pytest
import torch

from medrepro.multifractal.exponent import box_mass, local_exponent
from medrepro.multifractal.recalibration import Mono, Multi

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("scales", [(2, 4, 8), (2, 4), (2, 4, 8, 16), (3, 5, 9)])
def test_equation_16_is_the_least_squares_slope(scales):
    image = 1 + 255 * torch.rand(1, 2, 24, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logs = np.stack([np.log(box_mass(image, side).numpy()).ravel() for side in scales])
    slope = np.polyfit(np.log(scales), logs, 1)[0]
    alpha = local_exponent(image, scales=scales).numpy().ravel()
    np.testing.assert_allclose(
        alpha, slope, atol=1e-7
    )  # 1e-7: the epsilon inside the logarithm over a mass of 4 or more


def test_box_mass_sums_the_pixels_of_its_box():
    image = np.random.default_rng(2).random((9, 11))
    for side in (2, 3, 4, 8):
        before = (side - 1) // 2
        padded = np.pad(image, (before, side // 2))
        expected = [[padded[r : r + side, c : c + side].sum() for c in range(11)] for r in range(9)]
        given = box_mass(torch.as_tensor(image)[None, None], side)[0, 0].numpy()
        np.testing.assert_allclose(given, expected, atol=1e-12)


def stack(seed):
    return torch.rand(3, 4, 16, 18, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exponents(x):
    """Equation 16 in NumPy on maps stretched to [1, 256], channel by channel over the batch."""
    x = x.numpy()
    low, high = x.min((0, 2, 3), keepdims=True), x.max((0, 2, 3), keepdims=True)
    padded = np.pad(1 + 255 * (x - low) / (high - low), ((0, 0), (0, 0), (3, 4), (3, 4)))
    windows = lambda side, first: np.lib.stride_tricks.sliding_window_view(
        padded[:, :, first : first + x.shape[2] + side - 1, first : first + x.shape[3] + side - 1], (side, side), (2, 3)
    ).sum((-2, -1))
    masses = np.stack([windows(2, 3), windows(4, 2), windows(8, 0)])
    return np.polyfit(np.log([2, 4, 8]), np.log(masses).reshape(3, -1), 1)[0].reshape(x.shape)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def test_equations_21_and_22_are_gates_from_mean_exponents():
    x = stack(3)
    layer = Mono(4, preset="paper").double()
    w1, b1 = (value.detach().numpy() for value in layer.gate.squeeze.parameters())
    w2, b2 = (value.detach().numpy() for value in layer.gate.excite.parameters())
    gates = sigmoid(np.maximum(exponents(x).mean((2, 3)) @ w1.T + b1, 0) @ w2.T + b2)
    np.testing.assert_allclose(layer.excitation(x).detach(), gates, atol=1e-9)
    np.testing.assert_allclose(layer(x).detach(), x.numpy() * gates[:, :, None, None], atol=1e-9)


@pytest.mark.parametrize("form", ["literal", "table"])
def test_equations_23_to_25_add_the_response_of_soft_level_sets(form):
    x = stack(4)
    layer = Multi(4, preset="paper", num_levels=5, form=form).double()
    layer.table_from = 0
    with torch.no_grad():
        layer.centres.uniform_(1.5, 2.5)
        layer.raw_precisions.uniform_(-3, 3)
    alpha = exponents(x)[..., None]
    weight = np.exp(-(layer.raw_precisions.detach().numpy() ** 2) * (alpha - layer.centres.detach().numpy()) ** 2)
    p = weight / weight.sum(-1, keepdims=True)
    phi, bias = layer.phi.weight.detach().numpy()[0], layer.phi.bias.item()
    levels = sigmoid(np.maximum(p @ phi + bias, 0))
    if form == "literal":
        np.testing.assert_allclose(layer.memberships(torch.as_tensor(alpha[..., 0])).detach(), p, atol=1e-12)
    atol = 1e-9 if form == "literal" else 1e-5  # the table's interpolation
    np.testing.assert_allclose(layer(x).detach(), x.numpy() + levels, atol=atol)
