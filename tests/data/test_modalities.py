"""Phantoms of six modalities: deterministic, unclipped, with structure at several scales."""

import numpy as np
import pytest
from scipy import ndimage

from medrepro.data.modalities import MODALITIES, SMALLEST, Canvas, modality_phantom, modality_phantoms


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_seed_gives_one_image_and_another_seed_another(modality):
    first, again, other = (modality_phantom(modality, seed, size=64) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 0.005
    assert first.dtype == np.float32
    assert first.shape == ((64, 64, 3) if modality == "dermoscopy" else (64, 64))


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("size", [SMALLEST, 128])
def test_values_stay_off_the_ends_of_the_range(modality, size):
    images = modality_phantoms(modality, 4, 0, size=size)
    assert images.min() > 0
    assert images.max() < 1
    assert images.max() - images.min() > 0.4


@pytest.mark.parametrize("modality", MODALITIES)
def test_structure_lies_at_several_scales(modality):
    images = modality_phantoms(modality, 3, 1, size=128)[:, 0].astype(float)
    previous, shares = images, []
    for sigma in (1, 2, 4, 8):
        blurred = ndimage.gaussian_filter(images, (0, sigma, sigma))
        shares.append(np.square(previous - blurred).mean())
        previous = blurred
    shares = np.array(shares) / images.var()
    assert (shares > 0.002).all(), shares  # a radiograph is mostly smooth thickness


def test_a_smaller_set_is_the_beginning_of_a_larger_one():
    many = modality_phantoms("ct", 4, 7, size=32)
    assert np.array_equal(modality_phantoms("ct", 2, 7, size=32), many[:2])
    assert np.array_equal(modality_phantoms("ct", 2, 7, size=32, first=2), many[2:])


def test_grey_modalities_have_three_equal_channels_and_dermoscopy_has_not():
    grey, colour = modality_phantoms("mr", 1, 0, size=48)[0], modality_phantoms("dermoscopy", 1, 0, size=48)[0]
    assert np.array_equal(grey[0], grey[1])
    assert np.array_equal(grey[0], grey[2])
    assert np.abs(colour[0] - colour[2]).mean() > 0.1


def test_an_ellipse_covers_its_area_with_soft_edges():
    canvas = Canvas(200, np.random.default_rng(0))
    disc = canvas.ellipse((0.1, -0.2), (0.5, 0.3), 0.4)
    assert disc.mean() * 4 == pytest.approx(np.pi * 0.5 * 0.3, rel=0.01)
    assert 0 < ((disc > 0) & (disc < 1)).mean() < 0.03
    centre = ndimage.center_of_mass(disc)
    assert np.array(centre) == pytest.approx([109.5, 79.5], abs=0.2)  # (0.1, -0.2) in pixels


def test_a_line_is_one_on_its_axis_and_falls_as_a_gaussian():
    canvas = Canvas(101, np.random.default_rng(0))
    profile = canvas.line(np.array([[-2.0, 0.0], [2.0, 0.0]]), 0.1)[50]
    columns = canvas.columns[0]
    np.testing.assert_allclose(profile, np.exp(-((columns / 0.1) ** 2) / 2), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: modality_phantom("pet", 0), "known: ct, mr"),
        (lambda: modality_phantom("ct", 0, size=16), "at least 32"),
        (lambda: modality_phantoms("ct", -1, 0), "count is -1"),
    ],
)
def test_faults_say_what_was_expected(call, told):
    with pytest.raises(ValueError, match=told):
        call()
