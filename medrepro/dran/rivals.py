"""Denoisers to compare with, under one call; each says whether it is blind or what it is told about the noise.

All take an image (H, W) or (H, W, C) of floats in [0, 1] plus noise, nothing clipped, and return its like. A mean that
is given is subtracted before anything else, by every method: the "minus mean" columns of a table.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet
from torch import nn

from medrepro.dran.bm3d import bm3d

Method = Callable[[np.ndarray, float], np.ndarray]  # image, standard deviation


@dataclass(frozen=True)
class Rival:
    """A denoiser by name, with what it must be told of the noise."""

    name: str
    told: tuple[str, ...]
    method: Method

    @property
    def blind(self) -> bool:
        """Whether it is told nothing."""
        return not self.told

    def __call__(self, noisy: np.ndarray, *, mean: float | None = None, sd: float | None = None) -> np.ndarray:
        """Denoised image, same shape, float32, not clipped.

        Parameters
        ----------
        noisy
            Shape (H, W) or (H, W, C), floats in [0, 1] plus noise.
        mean
            Mean of the noise, subtracted first; nothing is if not given.
        sd
            Standard deviation of the noise, for methods that are told.

        Raises
        ------
        ValueError
            What the method must be told is missing; the image has another shape or entries that are not finite.
        """
        noisy = np.asarray(noisy, dtype=np.float32)
        if noisy.ndim not in (2, 3) or not np.isfinite(noisy).all():
            raise ValueError(f"{self.name} takes finite images (H, W) or (H, W, C), got shape {noisy.shape}")
        known = {"mean": mean, "sd": sd}
        missing = [what for what in self.told if known[what] is None]
        if missing:
            raise ValueError(f"{self.name} is not blind: tell it the noise's {' and '.join(missing)}")
        start = noisy if mean is None else noisy - np.float32(mean)
        denoised = np.asarray(self.method(start, 0.0 if sd is None else sd), dtype=np.float32)
        return denoised.reshape(noisy.shape)  # some functions drop an axis of one channel


def _channel_axis(image: np.ndarray) -> int | None:
    return -1 if image.ndim == 3 else None


def _median(image: np.ndarray, sd: float) -> np.ndarray:
    return ndimage.median_filter(image, size=(3, 3) if image.ndim == 2 else (3, 3, 1), mode="reflect")


def _tv(image: np.ndarray, sd: float) -> np.ndarray:
    return denoise_tv_chambolle(image, weight=1.2 * sd, channel_axis=_channel_axis(image))


def _wavelet(image: np.ndarray, sd: float) -> np.ndarray:
    options = {"method": "BayesShrink", "mode": "soft", "rescale_sigma": True}
    return denoise_wavelet(image, sigma=sd, channel_axis=_channel_axis(image), **options)


def _nlm(image: np.ndarray, sd: float) -> np.ndarray:
    options = {"h": 0.8 * sd, "sigma": sd, "patch_size": 5, "patch_distance": 6, "fast_mode": True}
    return denoise_nl_means(image, channel_axis=_channel_axis(image), **options)


def _bm3d(image: np.ndarray, sd: float) -> np.ndarray:
    if image.ndim == 3 and image.shape[2] != 3:
        return np.stack([bm3d(image[..., c], sigma=sd) for c in range(image.shape[2])], -1)
    return bm3d(image, sigma=sd)


CLASSICAL = {
    rival.name: rival
    for rival in (
        Rival("noisy", (), lambda image, sd: image),
        Rival("minus mean", ("mean",), lambda image, sd: image),
        Rival("median", (), _median),
        Rival("total variation", ("sd",), _tv),
        Rival("wavelet", ("sd",), _wavelet),
        Rival("non-local means", ("sd",), _nlm),
        Rival("BM3D", ("sd",), _bm3d),
    )
}


def network_rival(name: str, model: nn.Module, **options) -> Rival:
    """A trained noise predictor as a rival; blind, since nothing but the image enters.

    Parameters
    ----------
    name
        Name in tables.
    model
        Predicts the noise of images in [-1, 1], e.g. a `DRAN` or a `DnCNN`.
    options
        Keywords of `medrepro.dran.inference.denoise_batch`.
    """
    import torch

    from medrepro.dran.inference import denoise_batch

    def method(image: np.ndarray, sd: float) -> np.ndarray:
        batch = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(image))).permute(2, 0, 1)[None]
        return denoise_batch(model, batch, **options)[0].permute(1, 2, 0).numpy().reshape(image.shape)

    return Rival(name, (), method)


def channel_average(image: np.ndarray) -> np.ndarray:
    """An image whose channels all hold their mean: right for grey images stored thrice, and worth 4.77 dB there."""
    if image.ndim != 3:
        raise ValueError(f"the channel average is of images (H, W, C), got shape {image.shape}")
    return np.repeat(image.mean(2, keepdims=True), image.shape[2], 2)
