"""Properties of the phantoms: what they promise about truth, seeds and statistics, and P12, P14 of the paper's notes."""

import math
import time

import numpy as np
import pytest

from medrepro.data import catalogue, phantoms
from medrepro.data.phantoms import CUES, LOOKS, binomial_cascade, fractional_brownian_surface, lesion_phantoms

ALL = [(look, cue) for look in LOOKS for cue in CUES]


@pytest.mark.parametrize(("look", "cue"), ALL)
def test_images_and_masks_have_the_promised_shape_type_and_range(look, cue):
    images, masks = lesion_phantoms(3, 0, size=48, look=look, cue=cue)
    assert images.shape == (3, 3, 48, 48)
    assert masks.shape == (3, 1, 48, 48)
    assert images.dtype == masks.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert set(np.unique(masks)) == {0, 1}


@pytest.mark.parametrize("look", LOOKS)
def test_an_image_depends_on_seed_and_index_alone(look):
    many, many_masks = lesion_phantoms(7, 5, size=40, look=look)
    few, few_masks = lesion_phantoms(3, 5, size=40, look=look)
    later, _ = lesion_phantoms(2, 5, size=40, look=look, first=4)
    assert np.array_equal(many[:3], few)
    assert np.array_equal(many_masks[:3], few_masks)
    assert np.array_equal(many[4:6], later)


def test_seeds_and_indices_give_different_images():
    images = np.concatenate([lesion_phantoms(3, seed, size=32)[0] for seed in (0, 1)])
    assert len({image.tobytes() for image in images}) == 6


def test_masks_are_the_same_for_every_look_and_cue():
    masks = {lesion_phantoms(2, 1, size=32, look=look, cue=cue)[1].tobytes() for look, cue in ALL}
    assert len(masks) == 1


def test_ultrasound_is_grey():
    image = lesion_phantoms(1, 0, size=32, look="ultrasound")[0][0]
    assert np.array_equal(image[0], image[1])
    assert np.array_equal(image[0], image[2])


def differences(look, cue, statistic, count=80):
    """Statistic inside minus outside the lesion, one an image."""
    images, masks = lesion_phantoms(count, 11, size=96, look=look, cue=cue)
    grey = images.mean(axis=1)
    return np.array([statistic(image[mask]) - statistic(image[~mask]) for image, mask in zip(grey, masks[:, 0] > 0)])


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("statistic", [np.mean, np.std])
def test_the_cue_hurst_leaves_mean_and_spread_equal(look, statistic):
    difference = differences(look, "hurst", statistic)
    error = difference.std(ddof=1) / math.sqrt(len(difference))
    # four standard errors: a false alarm in 16,000; and small against the texture's spread of 0.1
    assert abs(difference.mean()) < 4 * error + 1e-4
    assert abs(difference.mean()) < 0.008


def roughness_ratio(look, cue, speckle=0.0):
    """Mean squared difference of horizontal neighbours inside over outside, over all images."""
    images, masks = lesion_phantoms(40, 3, size=96, look=look, cue=cue, speckle=speckle)
    steps = np.diff(images.mean(axis=1), axis=2) ** 2
    lesion = masks[:, 0] > 0
    inside, outside = lesion[:, :, 1:] & lesion[:, :, :-1], ~(lesion[:, :, 1:] | lesion[:, :, :-1])
    return steps[inside].mean() / steps[outside].mean()


def test_the_cue_hurst_changes_the_roughness_and_the_control_does_not():
    assert roughness_ratio("ultrasound", "hurst") < 0.5
    assert roughness_ratio("ultrasound", "hurst", speckle=0.5) < 0.9
    assert roughness_ratio("ultrasound", "mean") == pytest.approx(1, abs=0.05)  # one field in both


def test_the_cues_mean_and_contrast_change_what_their_name_says():
    assert differences("ultrasound", "mean", np.mean).mean() == pytest.approx(-0.1, abs=0.03)  # one std of the texture
    assert differences("ultrasound", "contrast", np.std).mean() > 0.05
    assert abs(differences("ultrasound", "contrast", np.mean).mean()) < 0.02


def test_speckle_is_log_compressed_rayleigh_and_correlated():
    speckle = phantoms._speckle(np.random.default_rng(0), 256)
    # 20 log10 of a Rayleigh variable: standard deviation 20 / ln 10 * pi / sqrt(24) = 5.57 dB
    assert speckle.std() == pytest.approx(20 / math.log(10) * math.pi / math.sqrt(24), rel=0.03)
    assert abs(speckle.mean()) < 0.15
    magnitude = 10 ** (speckle / 20)
    assert magnitude.mean() / magnitude.std() == pytest.approx(math.sqrt(math.pi / (4 - math.pi)), rel=0.03)  # 1.91
    axial = np.corrcoef(magnitude[1:].ravel(), magnitude[:-1].ravel())[0, 1]
    lateral = np.corrcoef(magnitude[:, 1:].ravel(), magnitude[:, :-1].ravel())[0, 1]
    assert 0.2 < axial < lateral < 0.95


def test_a_rougher_outline_is_longer_for_its_area():
    def perimeter(roughness):
        mask = lesion_phantoms(20, 0, size=96, roughness=roughness)[1][:, 0]
        edges = np.abs(np.diff(mask, axis=1)).sum((1, 2)) + np.abs(np.diff(mask, axis=2)).sum((1, 2))
        return np.mean(edges / np.sqrt(mask.sum((1, 2))))

    lengths = [perimeter(roughness) for roughness in (0.0, 0.3, 0.6, 1.0)]
    assert np.all(np.diff(lengths) > 0)


def test_lesions_are_star_shaped_and_fill_a_plausible_share():
    _, masks = lesion_phantoms(60, 2, size=64)
    share = masks.mean(axis=(1, 2, 3))
    assert share.min() > 0.02
    assert share.max() < 0.4
    assert share.std() > 0.02


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"look": "xray"}, "dermoscopy, endoscopy, ultrasound"),
        ({"cue": "colour"}, "mean, contrast, hurst"),
        ({"size": 8}, "size >= 16"),
        ({"first": -1}, "first -1"),
        ({"roughness": 2}, "roughness is 2"),
        ({"hurst": (0.3, 1.0)}, "hurst is 1.0"),
        ({"strength": -1}, "strength is -1"),
        ({"speckle": 2}, "speckle is 2"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        lesion_phantoms(1, 0, **arguments)


def test_the_catalogue_knows_every_look_and_cue():
    assert sorted(catalogue.PHANTOM_LOOKS) == sorted(LOOKS)
    assert sorted(catalogue.PHANTOM_CUES) == sorted(CUES)


def test_an_empty_set_is_possible():
    assert lesion_phantoms(0, 0, size=32)[0].shape == (0, 3, 32, 32)


def test_phantoms_are_fast_enough():
    lesion_phantoms(2, 0)
    start = time.process_time()
    lesion_phantoms(40, 0)
    seconds = time.process_time() - start
    # aim: 200 images a second on one core; 60 leaves room for a loaded machine
    assert 40 / seconds > 60, f"{40 / seconds:.0f} phantoms a second"


# P14


def structure_slope(surface, lags=(2, 4, 8, 16, 32)):
    """Half the slope of log E|B(x+r)-B(x)|^2 against log r, both axes: an estimate of H."""
    squares = [
        (np.mean((surface[r:] - surface[:-r]) ** 2) + np.mean((surface[:, r:] - surface[:, :-r]) ** 2)) / 2
        for r in lags
    ]
    return np.polyfit(np.log(lags), np.log(squares), 1)[0] / 2


def test_structure_function_of_a_surface_follows_its_exponent():
    exponents = (0.2, 0.35, 0.5, 0.65, 0.8)
    slopes = [
        np.mean([structure_slope(fractional_brownian_surface(512, hurst, seed, torus=1024)) for seed in range(5)])
        for hurst in exponents
    ]
    assert np.all(np.diff(slopes) > 0)
    assert np.allclose(slopes, exponents, atol=0.1)  # synthesis bias at both ends
    assert np.allclose(slopes, [0.283, 0.394, 0.515, 0.639, 0.753], atol=0.03)  # another implementation, other seeds


def test_a_surface_is_standardised_on_its_torus_and_cut_from_it():
    whole = fractional_brownian_surface(64, 0.4, 3, torus=64)
    assert whole.dtype == np.float64
    assert whole.mean() == pytest.approx(0, abs=1e-12)
    assert whole.std() == pytest.approx(1, abs=1e-12)
    assert np.array_equal(fractional_brownian_surface(20, 0.4, 3, torus=64), whole[:20, :20])
    assert fractional_brownian_surface(33, 0.4, 3).shape == (33, 33)


def test_a_surface_has_the_spectrum_of_its_exponent():
    ratios = []
    for seed in range(20):
        power = np.abs(np.fft.fft2(fractional_brownian_surface(64, 0.5, seed, torus=64))) ** 2
        ratios.append([power[0, 4], power[4, 0], power[0, 8], power[8, 0]])
    low_x, low_y, high_x, high_y = np.mean(ratios, axis=0)
    # |k|^-(2H+2) = |k|^-3: a factor of 8 between modes 4 and 8; 40 exponential variables each: 22 % error
    assert (low_x + low_y) / (high_x + high_y) == pytest.approx(8, rel=0.75)


@pytest.mark.parametrize(("size", "hurst", "torus"), [(0, 0.5, None), (16, 0.5, 8), (16, 0.0, None), (16, 1.2, None)])
def test_an_impossible_surface_is_refused(size, hurst, torus):
    with pytest.raises(ValueError, match=r"size is|hurst is"):
        fractional_brownian_surface(size, hurst, 0, torus=torus)


# P12


@pytest.mark.parametrize("p", [0.3, 0.5, 0.8])
def test_the_cascade_is_the_kronecker_power_of_its_generator(p):
    generator = np.outer([p, 1 - p], [p, 1 - p])
    brute = np.ones((1, 1))
    for _ in range(5):
        brute = np.kron(brute, generator)
    measure = binomial_cascade(5, p)
    assert np.allclose(measure, brute, rtol=1e-13, atol=0)
    assert measure.sum() == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize("q", [-2.0, 0.0, 1.0, 3.5])
def test_the_partition_function_of_the_cascade_has_its_exact_exponent(q):
    p, levels = 0.3, 6
    measure = binomial_cascade(levels, p)
    sides = [1, 2, 4, 8, 16]
    logs = []
    for k in sides:
        boxes = measure.reshape(64 // k, k, 64 // k, k).sum(axis=(1, 3))
        logs.append(math.log2((boxes**q).sum()))
    slope = np.polyfit(np.log2(np.array(sides) / 64), logs, 1)[0]
    assert slope == pytest.approx(-2 * math.log2(p**q + (1 - p) ** q), abs=1e-9)


def test_cascades_of_level_zero_and_impossible_ones():
    assert binomial_cascade(0, 0.3).tolist() == [[1.0]]
    with pytest.raises(ValueError, match="levels is 14"):
        binomial_cascade(14, 0.3)
    with pytest.raises(ValueError, match=r"p is 1\.0"):
        binomial_cascade(3, 1.0)
