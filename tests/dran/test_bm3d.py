"""Block matching and 3-D filtering: its parts against brute force, its result against other denoisers and pictures."""

import os
from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
from skimage.restoration import denoise_nl_means

from medrepro.data.packaged import packaged_image
from medrepro.dran.bm3d import BLOCK, OPPONENT, Stage, bm3d, haar, match_blocks
from medrepro.dran.noise import at_level
from medrepro.dran.quality import psnr, ssim


def test_blocks_are_those_of_a_search_one_by_one():
    plane = np.random.default_rng(0).random((17, 19)).astype(np.float32)
    stage = Stage(most=4, distance=0.13, radius=5, step=3)
    rows, columns, counts = match_blocks(plane, stage)
    corners = [(r, c) for r in (0, 3, 6, 9) for c in (0, 3, 6, 9, 11)]
    assert len(rows) == len(corners)
    block = lambda r, c: plane[r : r + BLOCK, c : c + BLOCK].astype(float)
    for n, (r, c) in enumerate(corners):
        candidates = [
            (((block(r, c) - block(y, x)) ** 2).mean(), y, x)
            for y in range(max(0, r - 5), min(17 - BLOCK, r + 5) + 1)
            for x in range(max(0, c - 5), min(19 - BLOCK, c + 5) + 1)
        ]
        near = [one for one in sorted(candidates)[:4] if one[0] <= 0.13]
        expected = near[: 2 ** int(np.log2(len(near)))]
        assert counts[n] == len(expected)
        assert (rows[n, 0], columns[n, 0]) == (r, c)
        found = set(zip(rows[n, : counts[n]], columns[n, : counts[n]]))
        assert found == {(y, x) for _, y, x in expected}
    assert len(set(counts)) > 1


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32])
def test_haar_is_orthonormal_and_that_of_pywavelets(size):
    matrix = haar(size)
    assert matrix @ matrix.T == pytest.approx(np.eye(size), abs=1e-6)
    x = np.random.default_rng(0).random(size)
    expected = np.concatenate(pywt.wavedec(x, "haar")) if size > 1 else x
    assert matrix @ x == pytest.approx(expected, abs=1e-6)


def test_opponent_colours_are_orthonormal_with_luminance_first():
    assert OPPONENT @ OPPONENT.T == pytest.approx(np.eye(3), abs=1e-12)
    assert OPPONENT[0] == pytest.approx(np.full(3, 3**-0.5))


@pytest.mark.parametrize("shape", [(24, 24), (21, 30), (20, 19, 3)])
def test_constant_and_almost_clean_images_pass(shape):
    flat = np.full(shape, 0.3, np.float32)
    assert bm3d(flat, sigma=0.1, radius=4) == pytest.approx(flat, abs=1e-4)  # the Wiener gain of a mean is just below 1
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    assert bm3d(image, sigma=1e-5, radius=4) == pytest.approx(image, abs=1e-3)


def test_noise_of_a_flat_image_almost_vanishes():
    noise = 0.1 * np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    denoised = bm3d(0.5 + noise, sigma=0.1, radius=12)
    assert (denoised - 0.5).std() < 0.025
    assert denoised.mean() == pytest.approx(0.5 + noise.mean(), abs=1e-3)


@pytest.mark.parametrize("sigma", [15 / 255, 25 / 255])
def test_bm3d_beats_non_local_means_on_a_real_slice(sigma):
    clean = packaged_image("ct-head", size=96).astype(np.float32)
    noisy = clean + sigma * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    nlm = denoise_nl_means(noisy, h=0.8 * sigma, sigma=sigma, patch_size=5, patch_distance=6)
    ours = bm3d(noisy, sigma=sigma)
    assert psnr(ours[None], clean[None])[0] > psnr(nlm[None], clean[None])[0] + 0.3


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((7, 9)), {}, "sides of at least 8, got \\(7, 9\\)"),
        (np.zeros((9, 9, 2)), {}, r"\(H, W\) or \(H, W, 3\)"),
        (np.full((9, 9), np.nan), {}, "NaN or infinite"),
        (np.zeros((9, 9)), {"sigma": 0}, "sigma must be above 0"),
        (np.zeros((9, 9)), {"step": 9}, "step from 1 to 8"),
        (np.zeros((9, 9, 3)), {"colour": "rgb"}, "colour is 'rgb'"),
    ],
)
def test_wrong_arguments_are_named(image, options, message):
    with pytest.raises(ValueError, match=message):
        bm3d(image, **{"sigma": 0.1, **options})


# PSNR and SSIM of bm3d 4.0.3 (non-commercial licence) on centre crops of the authors' sample images, minus mean
PACKAGE = {
    ("1.png", 25): (36.60, 0.966),
    ("1.png", 50): (32.81, 0.926),
    ("3.png", 25): (30.39, 0.930),
    ("3.png", 50): (25.61, 0.868),
    ("4.png", 25): (39.57, 0.940),
    ("4.png", 50): (36.96, 0.915),
}


def sample(name: str) -> np.ndarray:
    from PIL import Image

    folders = [Path(part) for part in os.environ.get("MEDREPRO_DATA", "").split(os.pathsep) if part]
    found = [folder / "mid_dran_samples" / "sampleImages" / name for folder in folders]
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        pytest.skip(f"mid_dran_samples/sampleImages/{name} is in no folder of MEDREPRO_DATA")
    with Image.open(path) as opened:
        image = np.asarray(opened.convert("RGB"), dtype=np.float32) / 255
    top, left = ((side - 256) // 2 for side in image.shape[:2])
    return image[top : top + 256, left : left + 256]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "level"), PACKAGE)
def test_bm3d_is_within_half_a_decibel_of_the_package(name, level):
    clean, law = sample(name), at_level(level, "authors_code")
    noisy = law.add(torch.from_numpy(clean), torch.Generator().manual_seed(0)).numpy()
    denoised = bm3d(noisy - level / 400, sigma=level / 200 / 12**0.5, colour="shared")
    first_channels = lambda image: np.moveaxis(image, 2, 0)[None]
    found = psnr(denoised[None], clean[None])[0], ssim(first_channels(denoised), first_channels(clean))[0]
    assert found[0] == pytest.approx(PACKAGE[name, level][0], abs=0.5)
    assert found[1] == pytest.approx(PACKAGE[name, level][1], abs=0.015)
