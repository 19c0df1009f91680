"""What the notebook on spectra stands on: its runs, its tables, its exercise checks, and its marks for slides."""

import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from medrepro import paths, plotting, runs, staging
from medrepro.data import packaged
from medrepro.data.phantoms import binomial_cascade
from medrepro.multifractal import spectrum_exercises as exercises
from medrepro.multifractal import spectrum_figures as figures
from medrepro.multifractal.spectrum import aligned_exponents, binomial_spectrum, partition_function, spectrum
from medrepro.multifractal.spectrum_runs import box_counting_of_surface, fitted_sides, texture, texture_spectrum
from medrepro.multifractal.spectrum_settings import SETTINGS, TEXTURES

NOTEBOOK = "multifractal/07-multifractal-spectrum"


@pytest.fixture(scope="module")
def grass():
    """A run's result on a small crop, as the store hands it over."""
    return stored("grass", 64)


def stored(image, size, surrogates=2):
    settings = {"image": image, "seed": 0, "size": size, "surrogates": surrogates}
    result = texture_spectrum(**settings)
    return type("Result", (), {"settings": settings, **result})


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize("profile", SETTINGS)
def test_plan_has_every_surface_and_every_texture_once(profile):
    planned = runs.plan(NOTEBOOK, profile, seed=3, p=0.4)
    surfaces = {(run.settings["hurst"], run.settings["seed"]) for run in planned if "hurst" in run.settings}
    expected = {(h, 3 + n) for h in SETTINGS[profile]["hurst"] for n in range(SETTINGS[profile]["surface_seeds"])}
    assert surfaces == expected
    assert [run.settings["image"] for run in planned if "image" in run.settings] == list(TEXTURES)
    assert len(planned) == len(expected) + len(TEXTURES)
    assert planned == runs.plan(NOTEBOOK, profile, seed=3, p=0.2)  # the share belongs to the page alone


@pytest.mark.parametrize("name", TEXTURES)
def test_texture_is_a_central_crop_of_native_pixels_from_1_to_256(name):
    crop = texture(name, 200)
    assert crop.shape == (128, 128)
    assert (crop.min(), crop.max()) == pytest.approx((1, 256), abs=1e-9)
    grey = packaged.packaged_image(name)
    grey = grey.mean(axis=2) if grey.ndim == 3 else grey
    middle = [slice((length - 128) // 2, (length - 128) // 2 + 128) for length in grey.shape]
    assert stats.pearsonr(crop.ravel(), grey[tuple(middle)].ravel()).statistic == pytest.approx(1, abs=1e-6)


def test_texture_run_has_the_image_first_and_copies_of_its_histogram(grass):
    arrays, measure = grass.arrays, texture("grass", 64)
    partition = partition_function(measure)
    assert np.allclose(arrays["log_z"][0], partition.log_z, atol=1e-12)
    smallest, largest = fitted_sides(64)
    assert np.allclose(arrays["f"][0], spectrum(partition, smallest=smallest, largest=largest).f, atol=1e-12)
    assert np.allclose(arrays["log_z"][1:, :, 0], arrays["log_z"][0, :, 0], atol=1e-9)  # side 1: order cannot count
    assert np.ptp(arrays["log_z"][:, 0, 2]) > 0.01
    assert np.array_equal(arrays["picture"], np.rint(measure - 1))


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_fitted_sides_leave_64_boxes(size):
    smallest, largest = fitted_sides(size)
    assert smallest == 4
    assert (size // largest) ** 2 >= 64
    assert largest >= 2 * smallest


def test_surface_run_orders_contrast_and_roughness():
    rough, smooth = (box_counting_of_surface(h, 0, 128, 256)["metrics"] for h in (0.2, 0.8))
    for metrics in (rough, smooth):
        assert metrics["boxes_16"] < metrics["boxes_256"] < metrics["large_boxes"]
    assert all(rough[name] > smooth[name] for name in rough)


# -- tables behind the figures ---------------------------------------------------------------------------------------


def test_tables_of_the_cascade_say_what_the_closed_form_says():
    plotting.use_style()
    measure = binomial_cascade(6, 0.3)
    figure, table = figures.cascade_steps(0.3, (1, 6))
    plotting.png(figure)
    assert table["largest mass"].tolist() == pytest.approx([0.49, 0.49**6])
    found = spectrum(partition_function(measure))
    figure, table = figures.legendre(found, binomial_spectrum(0.3, found.q), at=2)
    plotting.png(figure)
    assert table["f"].to_numpy() == pytest.approx(table["f, closed form"].to_numpy(), abs=1e-9)
    flat = figures.stretched(measure)
    versions = {"cascade": measure, "flat": flat}
    partitions = {name: partition_function(array) for name, array in versions.items()}
    figure, table = figures.flattened(partitions, {n: spectrum(one) for n, one in partitions.items()}, 2)
    plotting.png(figure)
    assert table["width"].iloc[1] < 0.7 * table["width"].iloc[0]
    exponents = aligned_exponents(measure)
    figure, table = figures.sliding_and_aligned(exponents, exponents + 1, exponents - 1)
    plotting.png(figure)
    assert (table["mean"] - exponents.mean()).tolist() == pytest.approx([0, 1, -1])


def test_stretch_takes_more_of_the_width_from_deeper_cascades():
    table = figures.widths_by_depth(0.3, (3, 5, 7), moments=(-2, 0, 2))
    assert np.ptp(table["width"]) < 1e-9
    assert table["width, stretched"].is_monotonic_decreasing
    assert table["largest / smallest density"].tolist() == pytest.approx([(7 / 3) ** (2 * n) for n in (3, 5, 7)])


def test_bias_of_box_counting_is_mean_minus_truth():
    names = ("structure", "large_boxes", "boxes_256", "boxes_64", "boxes_16")
    rows = [{"hurst": h, "seed": n, **{name: 3 - h + 0.1 * n for name in names}} for h in (0.2, 0.6) for n in (0, 2)]
    figure, table = figures.box_dimensions(pd.DataFrame(rows))
    plotting.png(figure)
    assert len(table) == 10
    assert table["bias"].to_numpy() == pytest.approx(np.full(10, 0.1))
    assert table["estimate by"].nunique() == 5


def test_tables_of_textures_name_widths_and_slopes_of_image_and_copies(grass):
    plotting.use_style()
    figure, table = figures.texture_spectra([grass], limit=3)
    plotting.png(figure)
    kept = (grass.arrays["q"] >= 0) & (grass.arrays["q"] <= 3)
    assert table["width, q >= 0"][0] == pytest.approx(np.ptp(grass.arrays["alpha"][0, kept]))
    slopes = figures.slopes_by_range([grass], moment=2)
    at = grass.arrays["q"].tolist().index(2)
    for n, name in ((0, "image"), (1, "shuffled")):
        expected = [np.polyfit(np.log2([2, 4, 8]), log_z[at, 1:4], 1)[0] - 2 for log_z in grass.arrays["log_z"]]
        expected = expected[0] if n == 0 else np.mean(expected[1:])
        assert slopes[f"{name}, 2 to 8"][0] == pytest.approx(expected, abs=1e-9)
    figure, rows = figures.scaling_lines(grass, moment=2)
    plotting.png(figure)
    uniform = 2 * np.log2(rows["box side"] / 64)
    assert (rows["log2 Z"] - rows["beyond uniform"]).to_numpy() == pytest.approx(uniform.to_numpy(), abs=1e-9)


# -- exercises -------------------------------------------------------------------------------------------------------


def mass_exponent(measure, q, *, drop=0):
    sides, log_z = 2 ** np.arange(drop, len(measure).bit_length()), []
    for side in sides:
        boxes = np.add.reduceat(
            np.add.reduceat(measure, range(0, len(measure), side), 0), range(0, len(measure), side), 1
        )
        log_z.append(np.log2(((boxes / measure.sum()) ** q).sum()))
    return stats.linregress(np.log2(sides), log_z).slope


def share(measure):
    """From the largest pixel: (1 - p)^(2 n) whatever the places."""
    return 1 - measure.max() ** (1 / (2 * np.log2(len(measure))))


def excess(measure, seed, *, smallest=4):
    shuffled = np.random.default_rng(seed).permuted(measure.ravel()).reshape(measure.shape)
    widths = [
        spectrum(partition_function(one, (-1, 2)), smallest=smallest, largest=32).width for one in (measure, shuffled)
    ]
    return widths[0] - widths[1]


RIGHT = {"mass_exponent": mass_exponent, "share": share, "beyond_histogram": excess}
WRONG = {
    "mass_exponent": lambda measure, q: mass_exponent(measure, q, drop=1),
    "share": lambda measure: measure[0, 0] ** (1 / (2 * np.log2(len(measure)))),  # the corner of a plain cascade
    "beyond_histogram": lambda measure, seed: spectrum(partition_function(measure, (-1, 2))).width,
}
STUB = {"mass_exponent": lambda measure, q: None, "share": lambda m: None, "beyond_histogram": lambda m, seed: None}


@pytest.mark.parametrize("name", RIGHT)
def test_checks_tell_right_answers_from_plausible_wrong_ones_and_stubs(name, capsys):
    check = getattr(exercises, f"check_{name}")
    assert check(RIGHT[name])
    assert capsys.readouterr().out.startswith("Right")
    assert not check(WRONG[name])
    assert len(capsys.readouterr().out) > 30
    assert not check(STUB[name])
    assert "None" in capsys.readouterr().out


@pytest.mark.parametrize("p", [0.2, 0.45])
def test_tossed_cascade_has_the_spectrum_of_the_plain_one(p):
    measure = exercises.tossed_cascade(5, p, 1)
    assert measure.sum() == pytest.approx(1)
    assert not np.allclose(measure, binomial_cascade(5, p))
    found = spectrum(partition_function(measure))
    assert found.f == pytest.approx(binomial_spectrum(p, found.q).f, abs=1e-9)


# -- slides ----------------------------------------------------------------------------------------------------------


def test_every_cell_is_marked_for_slides_and_nbconvert_makes_them():
    from nbconvert import SlidesExporter

    content = nbformat.read(paths.notebook_file(NOTEBOOK), as_version=4)
    types = [cell.metadata["slideshow"]["slide_type"] for cell in content.cells]
    assert set(types) == {"slide", "subslide", "fragment", "skip"}
    assert types[0] == "slide"
    for cell, kind in zip(content.cells, types):
        if {"parameters", "solution"} & set(staging.tags(cell)):
            assert kind == "skip", cell.id
        if cell.source.startswith("## "):
            assert kind == "slide", cell.id
    html, _ = SlidesExporter().from_notebook_node(content)
    shown = sum(kind in ("slide", "subslide") for kind in types)
    assert html.count("<section") == shown + types.count(
        "slide"
    )  # a slide with what lies below it has a section around
    assert ">mass_exponent<" in html
    assert ">check_mass_exponent<" not in html
