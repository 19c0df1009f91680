"""Run functions behind the first notebook: what the exponent map says of surfaces and of lesions."""

import numpy as np
import torch

from medrepro.data import phantoms
from medrepro.data.segmentation import load_segmentation
from medrepro.multifractal.exponent import local_exponent, rescale

#: Distances in pixels at which the structure function is read.
LAGS = (2, 4, 8, 16, 32)


def structure_exponent(surface: np.ndarray, lags: tuple[int, ...] = LAGS) -> float:
    """Hurst exponent of a surface: half the slope of log mean squared difference against log distance.

    Parameters
    ----------
    surface
        Heights, shape (H, W).
    lags
        Distances in pixels along both axes.
    """
    means = [
        np.mean([np.mean((surface[lag:] - surface[:-lag]) ** 2), np.mean((surface[:, lag:] - surface[:, :-lag]) ** 2)])
        for lag in lags
    ]
    return float(np.polyfit(np.log(lags), np.log(means), 1)[0] / 2)


def exponent_map(image: np.ndarray) -> np.ndarray:
    """Exponent of one grey image (H, W), rescaled as the network does; float32, shape (H, W)."""
    x = torch.as_tensor(np.ascontiguousarray(image), dtype=torch.float32)[None, None]
    return local_exponent(rescale(x))[0, 0].numpy()


def surface_statistics(hurst: float, seed: int, size: int, torus: int) -> dict:
    """Statistics of the exponent map of one fractional Brownian surface.

    Parameters
    ----------
    hurst
        Hurst exponent of the synthesis, in (0, 1).
    seed
        Seed of the surface.
    size, torus
        Side of the surface, cut from a periodic one of side `torus`, in pixels.
    """
    surface = phantoms.fractional_brownian_surface(size, hurst, seed, torus=torus)
    alpha = exponent_map(surface)
    metrics = {"mean_alpha": alpha.mean(), "std_alpha": alpha.std(), "structure_exponent": structure_exponent(surface)}
    return {"metrics": {name: float(value) for name, value in metrics.items()}}


def lesion_statistics(data: str, seed: int, count: int, size: int) -> dict:
    """Exponent inside and outside the lesions of a set: mean and spread, image by image.

    Parameters
    ----------
    data
        Name of a segmentation set.
    seed
        Seed of the phantoms, or of the draw from a real set.
    count
        Number of images, at most.
    size
        Side in pixels.
    """
    images = load_segmentation(data, size=size, limit=count, count=count, seed=seed)
    rows = []
    for image, mask in zip(images.images, images.masks):
        alpha, inside = exponent_map(image.mean(axis=0)), mask[0] > 0.5
        if inside.sum() < 64 or (~inside).sum() < 64:
            continue  # too few pixels for a spread
        rows.append((alpha[inside].mean(), alpha[~inside].mean(), alpha[inside].std(), alpha[~inside].std()))
    table = np.asarray(rows, dtype=float).reshape(-1, 4)
    names = ("mean_inside", "mean_outside", "std_inside", "std_outside")
    metrics = {name: float(column.mean()) for name, column in zip(names, table.T)} if len(table) else {}
    return {
        "metrics": {"images": len(table), **metrics},
        "arrays": {name: column for name, column in zip(names, table.T)},
    }
