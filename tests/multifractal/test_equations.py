"""Equations of the paper that decide ledger rows, against NumPy's polynomial fit."""

import numpy as np
import pytest
import torch

from medrepro.multifractal.exponent import box_mass, local_exponent

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
