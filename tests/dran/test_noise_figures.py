"""Tables and figures on noise, against formulas and draws, and the checks of their exercises."""

import numpy as np
import pytest
import torch

from medrepro.dran import noise_exercises, noise_figures
from medrepro.dran.noise import Rician, at_level, bias_bound

CLEAN = noise_figures.phantoms(count=1, size=48)


def test_decibels_of_the_uniform_law_are_those_of_the_formulas():
    table = noise_figures.free_decibels(CLEAN).set_index("level")
    assert table["noisy, theory"].round(2).tolist() == [27.27, 22.83, 16.81]
    assert table["minus mean, theory"].round(2).tolist() == [33.29, 28.85, 22.83]
    assert table["mean kept, theory"].round(2).tolist() == [28.52, 24.08, 18.06]
    for name in ("noisy", "mean kept", "minus mean"):
        np.testing.assert_allclose(table[f"{name}, measured"], table[f"{name}, theory"], atol=0.1)


def test_no_blur_that_keeps_the_mean_passes_the_bound():
    _, table = noise_figures.smoothing(CLEAN)
    assert table["as it is"].max() < bias_bound(at_level(50, "authors_code"))
    assert table["minus mean"].max() > 23


def test_averaging_gains_three_fold_for_independent_noise_alone():
    gains = noise_figures.averaging(CLEAN)
    assert gains["independent"] == pytest.approx(10 * np.log10(3), abs=0.1)
    assert gains["the same"] == pytest.approx(0, abs=1e-4)


def test_clipping_never_lowers_the_psnr():
    assert (noise_figures.clipping(CLEAN)["gain"] >= 0).all()


def test_histogram_tells_moments_of_both_laws():
    _, table = noise_figures.histogram(50)
    np.testing.assert_allclose(table["mean"], [31.875, 0], atol=1e-4)
    np.testing.assert_allclose(table["deviation"], [63.75 / 12**0.5, 50], atol=1e-4)
    np.testing.assert_allclose(table["mean drawn"], table["mean"], atol=0.4)
    np.testing.assert_allclose(table["deviation drawn"], table["deviation"], rtol=0.01)


def test_other_laws_have_the_moments_that_are_drawn():
    _, table = noise_figures.other_laws()
    np.testing.assert_allclose(table["mean drawn"], table["mean"], atol=0.8)
    np.testing.assert_allclose(table["deviation drawn"], table["deviation"], rtol=0.03, atol=0.05)
    assert len(table) == 3 * 11


def test_rician_floor_is_that_of_the_rayleigh_law():
    table = noise_figures.moments(Rician(0.1), intensities=np.array([0.0]))
    assert table.loc[0, "mean"] == pytest.approx(25.5 * np.sqrt(np.pi / 2), rel=1e-4)


def test_pictures_are_one_phantom_under_every_law():
    shown = noise_figures.pictures("ct", size=32)
    assert list(shown)[:3] == ["clean", "uniform, positive", "Gaussian"]
    assert all(picture.shape == (32, 32) for picture in shown.values())
    assert (shown["uniform, positive"] >= shown["clean"]).all()


RIGHT = {
    "uniform_psnr": lambda w: (-20 * np.log10(w) + 10 * np.log10(3), -20 * np.log10(w) + 10 * np.log10(12)),
    "authors_noise": lambda clean, level, rng: clean + rng.uniform(0, level / 200, clean.shape),
    "rician_floor": lambda sigma: float(Rician(sigma).mean(torch.zeros(()))),
}
WRONG = {
    "uniform_psnr": lambda w: (-20 * np.log10(w) + 10 * np.log10(12), -20 * np.log10(w) + 10 * np.log10(3)),
    "authors_noise": lambda clean, level, rng: np.clip(clean + rng.uniform(0, level / 200, clean.shape), 0, 1),
    "rician_floor": lambda sigma: sigma,
}


@pytest.mark.parametrize("name", RIGHT)
def test_checks_pass_right_answers_and_no_others(name, capsys):
    check = getattr(noise_exercises, f"check_{name}")
    assert check(RIGHT[name])
    assert not check(WRONG[name])
    assert not check(lambda *args: None)
    assert "Right" in capsys.readouterr().out
