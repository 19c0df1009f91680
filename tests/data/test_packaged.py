"""Every packaged image and volume is really there, is what the table says, and is found without any download."""

import socket

import numpy as np
import pytest

from medrepro.data import packaged
from medrepro.data.packaged import ENTRIES, packaged_file, packaged_image, packaged_names, packaged_volume

IMAGES = packaged_names(volumes=False)
VOLUMES = packaged_names(volumes=True)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a packaged image was looked for on the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", list(ENTRIES))
def test_the_file_lies_in_the_installed_package(name):
    path = packaged_file(name)
    assert path.stat().st_size > 1000  # not a pointer to a download
    assert ENTRIES[name].terms
    assert ENTRIES[name].what


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_the_shape_of_the_table_and_lies_in_the_unit_range(name):
    image = packaged_image(name)
    assert image.shape == ENTRIES[name].shape
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.std() > 0.02


@pytest.mark.parametrize("name", ["retina", "ct-head", "microaneurysms"])
@pytest.mark.parametrize("size", [64, (48, 80)])
def test_an_image_is_resized_on_request(name, size):
    image = packaged_image(name, size=size)
    assert image.shape[:2] == ((64, 64) if size == 64 else size)
    assert image.ndim == len(ENTRIES[name].shape)
    assert image.min() >= 0
    assert image.max() <= 1


def test_resizing_keeps_the_mean_of_the_central_part():
    whole = packaged_image("mr-abdomen")  # 300 x 484: the central 300 columns remain
    assert packaged_image("mr-abdomen", size=75).mean() == pytest.approx(whole[:, 92:392].mean(), abs=0.005)


@pytest.mark.parametrize("name", VOLUMES)
def test_a_volume_has_the_shape_of_the_table_and_a_size_in_millimetres(name):
    array, spacing, affine = packaged_volume(name)
    assert array.shape == ENTRIES[name].shape
    assert array.dtype == np.float32
    assert array.min() >= 0
    assert array.max() <= 1
    assert affine.shape == (4, 4)
    assert np.allclose(np.linalg.norm(affine[:3, :3], axis=0), spacing, rtol=1e-3)


def test_the_ct_window_is_in_hounsfield_units():
    import pydicom

    header = pydicom.dcmread(packaged_file("ct-spine"))
    hounsfield = header.pixel_array.astype(float) - 1024  # slope 1, intercept -1024 in its header
    image = packaged_image("ct-spine")
    assert np.all(image[hounsfield <= -160] == 0)
    assert np.all(image[hounsfield >= 240] == 1)
    at = np.argwhere(hounsfield == 40)[0]
    assert image[tuple(at)] == pytest.approx(0.5)


def test_the_table_covers_the_modalities_and_can_be_filtered():
    assert packaged_names("CT") == ["ct-spine", "ct-head"]
    assert {"CT", "MR", "ultrasound", "histology", "fundus", "microscopy"} <= {
        entry.modality for entry in ENTRIES.values()
    }
    assert sorted(IMAGES + VOLUMES) == sorted(packaged_names())


def test_wrong_names_and_kinds_say_what_to_use():
    with pytest.raises(ValueError, match=r"no packaged image or volume 'xray'; known: retina"):
        packaged_image("xray")
    with pytest.raises(ValueError, match="use packaged_volume"):
        packaged_image("mni-t1")
    with pytest.raises(ValueError, match="use packaged_image"):
        packaged_volume("retina")
    with pytest.raises(ValueError, match="size is 0"):
        packaged_image("cell", size=0)


def test_a_package_without_the_file_is_named(monkeypatch):
    entry = packaged.Packaged("ghost", "CT", "no_such_package", "a.png", (1, 1), "none", "nothing")
    monkeypatch.setitem(packaged.ENTRIES, "ghost", entry)
    with pytest.raises(FileNotFoundError, match=r"package no_such_package as a\.png"):
        packaged_image("ghost")
