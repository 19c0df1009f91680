"""Run functions behind the notebook on spectra: surfaces by box counting, real textures beside their shuffled pixels."""

from collections.abc import Sequence

import numpy as np
import torch

from medrepro.data import packaged, phantoms
from medrepro.multifractal.box_counting import box_dimension
from medrepro.multifractal.exponent import rescale
from medrepro.multifractal.exponent_statistics import structure_exponent
from medrepro.multifractal.spectrum import Q, partition_function, spectrum

#: Grey levels that a surface is stretched over before its boxes are counted; the cube keeps 256.
SPANS = (256, 64, 16)


def box_counting_of_surface(hurst: float, seed: int, size: int, torus: int) -> dict:
    """Dimension of one fractional Brownian surface by differential box counting, at several contrasts.

    Parameters
    ----------
    hurst
        Hurst exponent H of the synthesis, in (0, 1); the surface's dimension is 3 - H.
    seed
        Seed of the surface.
    size, torus
        Side of the surface, a power of two, cut from a periodic one of side `torus`, in pixels.
    """
    surface = phantoms.fractional_brownian_surface(size, hurst, seed, torus=torus)
    unit = (surface - surface.min()) / np.ptp(surface)
    metrics = {f"boxes_{span}": box_dimension(unit * (span - 1)) for span in SPANS}
    large = 2 ** np.arange(3, size.bit_length() - 1)  # side 8 to half of the surface
    metrics |= {"large_boxes": box_dimension(unit * 255, sides=large), "structure": 3 - structure_exponent(surface)}
    return {"metrics": metrics}


def texture(name: str, size: int) -> np.ndarray:
    """Central crop of a packaged image, native pixels, as the measure that the network sees: float64, from 1 to 256.

    Parameters
    ----------
    name
        Image of `medrepro.data.packaged`; colours are averaged.
    size
        Largest side in pixels; the crop is the largest power of two that fits the image and this.
    """
    image = packaged.packaged_image(name)
    grey = image.mean(axis=2) if image.ndim == 3 else image
    side = 2 ** (min(size, *grey.shape).bit_length() - 1)
    top, left = ((length - side) // 2 for length in grey.shape)
    crop = torch.as_tensor(grey[top : top + side, left : left + side], dtype=torch.float64)
    return rescale(crop[None, None])[0, 0].numpy()


def fitted_sides(size: int) -> tuple[int, int]:
    """Smallest and largest box side that enter the fits of real images of `size` pixels a side."""
    # choice: below 4 pixels optics and compression smooth the image; above an eighth fewer than 64 boxes remain
    return 4, max(8, size // 8)


def texture_spectrum(image: str, seed: int, size: int, surrogates: int, q: Sequence[float] = Q) -> dict:
    """Moments and spectrum of one packaged image, and of copies whose pixels were shuffled.

    Parameters
    ----------
    image
        Name of the packaged image.
    seed
        Of the first shuffle; the next ones count up.
    size
        Largest side of the central crop, in pixels.
    surrogates
        Number of shuffled copies.
    q
        Moments.

    Returns
    -------
    dict
        ``metrics``: side of the crop, ends of the fit. ``arrays``: q (Q,), sides (S,); with the image first and its
        shuffled copies after it: log_z (1 + surrogates, Q, S), and alpha, f, r2, departure_r2 (1 + surrogates, Q);
        picture (side, side), uint8, the measure rounded, minus 1.
    """
    measure = texture(image, size)
    smallest, largest = fitted_sides(len(measure))
    shuffled = (
        np.random.default_rng(seed + n).permutation(measure.ravel()).reshape(measure.shape) for n in range(surrogates)
    )
    partitions = [partition_function(one, q) for one in (measure, *shuffled)]
    spectra = [spectrum(partition, smallest=smallest, largest=largest) for partition in partitions]
    arrays = {name: np.stack([getattr(s, name) for s in spectra]) for name in ("alpha", "f", "r2", "departure_r2")}
    arrays |= {"log_z": np.stack([partition.log_z for partition in partitions])}
    arrays |= {"q": partitions[0].q, "sides": partitions[0].sides, "picture": (measure - 1).round().astype(np.uint8)}
    return {"metrics": {"side": len(measure), "smallest": smallest, "largest": largest}, "arrays": arrays}
