"""PSNR, SSIM and 8-bit output against scikit-image and formulas."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medrepro.dran.quality import offset, psnr, ssim, to_uint8

WINDOWS = {
    "uniform": {"win_size": 7, "use_sample_covariance": True},
    "gaussian": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11},
}


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    clean = rng.random((3, 3, 20, 24))
    return clean + np.array([0.02, 0.1, 0.4])[:, None, None, None] * rng.standard_normal(clean.shape), clean


def test_d24_psnr_is_that_of_scikit_image_per_image(pair):
    noisy, clean = pair
    expected = [peak_signal_noise_ratio(c, n, data_range=1) for n, c in zip(noisy, clean, strict=True)]
    assert psnr(noisy, clean, clip=False) == pytest.approx(expected, abs=1e-6)
    clipped = [peak_signal_noise_ratio(c, n.clip(0, 1), data_range=1) for n, c in zip(noisy, clean, strict=True)]
    assert psnr(noisy, clean) == pytest.approx(clipped, abs=1e-6)
    assert clipped[2] > expected[2] + 0.5


def test_d24_torch_batches_agree_per_image_not_pooled(pair):
    noisy, clean = (torch.from_numpy(one) for one in pair)
    alone = [psnr(noisy[i : i + 1], clean[i : i + 1])[0] for i in range(3)]
    assert psnr(noisy, clean) == pytest.approx(alone, abs=1e-9)
    pooled = -10 * torch.log10(((noisy.clip(0, 1) - clean) ** 2).mean()).item()
    assert abs(np.mean(alone) - pooled) > 1


@pytest.mark.parametrize("window", WINDOWS)
def test_d24_ssim_is_that_of_scikit_image_in_both_windows(pair, window):
    noisy, clean = pair
    expected = [
        np.mean([structural_similarity(n[c], k[c], data_range=1, **WINDOWS[window]) for c in range(3)])
        for n, k in zip(noisy.clip(0, 1), clean, strict=True)
    ]
    assert ssim(noisy, clean, window=window) == pytest.approx(expected, abs=1e-6)
    assert ssim(noisy[:, 0], clean[:, 0], window=window)[0] != pytest.approx(expected[0], abs=1e-9)


def test_d24_ssim_of_one_window_by_hand():
    """7 x 7 image, one window: means, sample variances and covariance with C1 = 1e-4, C2 = 9e-4."""
    a, b = np.random.default_rng(1).random((2, 7, 7))
    covariance = np.cov(a.ravel(), b.ravel())
    top = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance[0, 1] + 9e-4)
    bottom = (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (covariance[0, 0] + covariance[1, 1] + 9e-4)
    assert ssim(a[None], b[None])[0] == pytest.approx(top / bottom, abs=1e-9)


def test_d24_identical_images_are_perfect(pair):
    clean = pair[1]
    assert np.isposinf(psnr(clean, clean)).all()
    for window in WINDOWS:
        assert ssim(clean, clean, window=window) == pytest.approx(np.ones(3))


def test_offset_is_in_grey_levels_and_unclipped(pair):
    clean = pair[1]
    assert offset(clean + 10 / 255, clean) == pytest.approx([10, 10, 10])


def test_d26_every_grey_level_survives_and_halves_round_up():
    levels = np.arange(256)
    assert np.array_equal(to_uint8(levels / 255), levels)
    assert np.array_equal(to_uint8(torch.arange(256) / 255), levels)
    x = np.random.default_rng(0).normal(0.5, 0.6, 1000).astype(np.float32)
    torch_rule = torch.from_numpy(x).mul(255).add(0.5).clamp(0, 255).to(torch.uint8).numpy()  # torchvision's save_image
    assert np.array_equal(to_uint8(x), torch_rule)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: psnr(np.zeros((1, 4, 4)), np.zeros((1, 4, 5))), r"denoised is \(1, 4, 4\), clean is \(1, 4, 5\)"),
        (lambda: psnr(np.zeros((4, 4)), np.zeros((4, 4))), r"\(B, C, H, W\) or \(B, H, W\), got \(4, 4\)"),
        (lambda: psnr(np.full((1, 4, 4), np.nan), np.zeros((1, 4, 4))), "not defined"),
        (lambda: ssim(np.zeros((1, 9, 9)), np.zeros((1, 9, 9)), window="box"), "window is 'box'"),
        (lambda: to_uint8(np.array([np.nan])), "no 8-bit form"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
