"""Noise laws: exact moments against draws, SciPy and the table of levels."""

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from skimage.restoration import denoise_nl_means

from medrepro.dran.noise import (
    LEVELS,
    MAX_WIDTH,
    Gaussian,
    PoissonGaussian,
    Rician,
    Speckle,
    Uniform,
    at_level,
    bias_bound,
    blind,
    expected_psnr,
)
from medrepro.dran.quality import offset, psnr

TABLE = {  # level: PSNR noisy, bound if the mean is kept, minus mean, Gaussian
    15: (27.27, 28.52, 33.29, 24.61),
    25: (22.83, 24.08, 28.85, 20.17),
    50: (16.81, 18.06, 22.83, 14.15),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LAWS = [
    Uniform(0.25),
    Gaussian(0.1),
    Rician(0.1),
    PoissonGaussian(40.0),
    PoissonGaussian(40.0, 0.1),
    Speckle(),
    Speckle(4),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("intensity", [0.02, 0.3, 0.9])
def test_d20_moments_of_a_million_draws(law, intensity):
    clean = torch.full((1000, 1000), intensity, dtype=torch.float64)
    noise = law.add(clean, seeded()) - clean
    sd = law.sd(clean)[0, 0].item()
    assert noise.mean().item() == pytest.approx(law.mean(clean)[0, 0].item(), abs=5e-3 * sd)
    assert noise.std().item() == pytest.approx(sd, rel=0.01)


@pytest.mark.parametrize("intensity", [0.0, 0.05, 0.4, 1.0])
def test_rician_moments_are_those_of_scipy(intensity):
    law, clean = Rician(0.1), torch.tensor([intensity], dtype=torch.float64)
    mean, variance = scipy.stats.rice.stats(intensity / 0.1, scale=0.1)
    assert law.mean(clean).item() == pytest.approx(mean - intensity, abs=1e-10)
    assert law.sd(clean).item() == pytest.approx(math.sqrt(variance), rel=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_d20_authors_levels_in_network_units(level):
    """Uniform on (0, level / 100) in [-1, 1] units: mean level / 200, deviation level / (100 sqrt 12)."""
    clean = torch.full((1000, 1000), 0.3)
    noise = 2 * (at_level(level, "authors_code").add(clean, seeded()) - clean)
    assert noise.min() > -1e-6
    assert noise.max() < level / 100 + 1e-6
    assert noise.mean().item() == pytest.approx(level / 200, rel=0.01)
    assert noise.std().item() == pytest.approx(level / 100 / math.sqrt(12), rel=0.01)


@pytest.mark.parametrize("level", LEVELS)
def test_d20_psnr_of_noisy_images_by_draw_and_by_formula(level):
    clean = torch.full((1, 1000, 1000), 0.5)
    noisy, bound, without_mean, gaussian = TABLE[level]
    law = at_level(level, "authors_code")
    drawn = law.add(clean, seeded())
    assert psnr(drawn, clean, clip=False)[0] == pytest.approx(noisy, abs=0.03)
    assert psnr(drawn - law.mean(clean), clean, clip=False)[0] == pytest.approx(without_mean, abs=0.03)
    assert without_mean - noisy == pytest.approx(10 * math.log10(4), abs=0.011)
    assert bound - noisy == pytest.approx(10 * math.log10(4 / 3), abs=0.011)
    assert expected_psnr(law) == pytest.approx(noisy, abs=0.006)
    assert bias_bound(law) == pytest.approx(bound, abs=0.006)
    law = at_level(level, "paper")
    assert psnr(law.add(clean, seeded()), clean, clip=False)[0] == pytest.approx(gaussian, abs=0.03)
    assert expected_psnr(law) == pytest.approx(gaussian, abs=0.006)


@pytest.mark.parametrize("preset", ["authors_code", "paper"])
def test_d20_level_zero_changes_nothing(preset):
    clean = torch.rand(2, 3, 8, 8, generator=seeded(1))
    assert torch.equal(at_level(0, preset).add(clean, seeded()), clean)


def test_d20_blind_widths_are_uniform_up_to_the_maximum():
    widths = 2 * blind(20_000, "authors_code", seeded()).width.flatten().numpy()
    assert MAX_WIDTH == pytest.approx(0.5012, abs=5e-5)
    assert widths.max() <= MAX_WIDTH
    assert scipy.stats.kstest(widths, "uniform", args=(0, MAX_WIDTH)).pvalue > 1e-3
    sigmas = 255 * blind(20_000, "paper", seeded(), max_level=50).sigma.flatten().numpy()
    assert scipy.stats.kstest(sigmas, "uniform", args=(0, 50)).pvalue > 1e-3


def test_blind_noise_has_one_level_an_image():
    law = blind(4, "authors_code", seeded())
    clean = torch.zeros(4, 3, 64, 64)
    assert law.width.shape == (4, 1, 1, 1)
    assert law.add(clean, seeded(1)).amax((1, 2, 3)).numpy() == pytest.approx(law.width.flatten().numpy(), rel=0.01)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_draws_follow_the_generator(law):
    clean = torch.rand(2, 1, 8, 8, generator=seeded(1))
    assert torch.equal(law.add(clean, seeded(5)), law.add(clean, seeded(5)))
    assert not torch.equal(law.add(clean, seeded(5)), law.add(clean, seeded(6)))


def test_loss_milestones_of_blind_noise():
    """Mean |n - m| in [-1, 1] units: .1253 for m = 0, .0872 for the best constant .0935, .0626 for m = s / 2."""
    widths = 2 * blind(2000, "authors_code", seeded()).width
    noise = 2 * Uniform(widths / 2).add(torch.zeros(2000, 1, 20, 20), seeded(1))
    assert noise.abs().mean().item() == pytest.approx(0.1253, rel=0.02)
    assert (noise - 0.0935).abs().mean().item() == pytest.approx(0.0872, rel=0.02)
    assert (noise - widths / 2).abs().mean().item() == pytest.approx(0.0626, rel=0.02)
    gaussian = blind(2000, "paper", seeded())
    assert (2 * gaussian.add(torch.zeros(2000, 1, 20, 20), seeded(1))).abs().mean().item() == pytest.approx(
        0.1564, rel=0.02
    )


@pytest.mark.parametrize("method", ["blur", "nlm"])
def test_d21_methods_that_keep_the_mean_stay_under_the_bound(method):
    rows, columns = np.mgrid[:64, :64] / 64
    clean = 0.4 + 0.2 * np.sin(2 * np.pi * rows) * np.cos(2 * np.pi * columns)
    law = at_level(50, "authors_code")
    noisy = law.add(torch.from_numpy(clean), seeded()).numpy()
    if method == "blur":
        denoised = scipy.ndimage.gaussian_filter(noisy, 2, mode="wrap")
    else:
        denoised = denoise_nl_means(noisy, patch_size=5, patch_distance=6, h=0.8 * 0.0722, sigma=0.0722)
        denoised += noisy.mean() - denoised.mean()
    assert denoised.mean() == pytest.approx(noisy.mean(), abs=1e-9)
    found = psnr(denoised[None], clean[None], clip=False)[0]
    own_bound = -20 * math.log10((noisy - clean).mean())
    assert found <= own_bound
    assert own_bound == pytest.approx(bias_bound(law), abs=0.15)
    assert found > expected_psnr(law) + 0.5
    without = denoised - float(law.mean(torch.zeros(())))
    assert psnr(without[None], clean[None], clip=False)[0] > found + 6
    assert offset(denoised[None], clean[None])[0] == pytest.approx(31.9, abs=0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: at_level(-1, "paper"), "level is -1: a noise level is not negative"),
        (lambda: at_level(5, "theirs"), "preset is 'theirs'"),
        (lambda: PoissonGaussian(10.0).add(-torch.ones(2), seeded()), "at least 0, got -1"),
        (lambda: Speckle(0).add(torch.ones(2), seeded()), "looks is 0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
