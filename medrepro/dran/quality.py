"""Image quality of denoised images: PSNR, SSIM with two windows, offset, the 8-bit rule.

The authors published no metric code. Ours takes intensities in [0, 1]; every number is that of one image, over all its
channels and pixels, and a table's number is the mean over images.
"""

import numpy as np
from skimage.metrics import structural_similarity
from torch import Tensor

Images = np.ndarray | Tensor

# choice: both windows in use; the paper's is not known
WINDOWS = {
    "uniform": {"win_size": 7},
    "gaussian": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
}


def psnr(denoised: Images, clean: Images, *, clip: bool = True) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, peak 1, of every image.

    Parameters
    ----------
    denoised, clean
        Batches (B, C, H, W) or (B, H, W) of one shape, intensities in [0, 1].
    clip
        Clip `denoised` to [0, 1] first, as an image file would.

    Returns
    -------
    ndarray
        One number an image, shape (B,), float64; infinite where the images are equal.

    Raises
    ------
    ValueError
        The shapes differ; an entry is not finite.
    """
    a, b = _pair(denoised, clean, clip)
    error = ((a - b) ** 2).reshape(len(a), -1).mean(1)
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)


def ssim(denoised: Images, clean: Images, *, window: str = "uniform", clip: bool = True) -> np.ndarray:
    """Structural similarity of every image, mean over channels, by scikit-image.

    Parameters
    ----------
    denoised, clean, clip
        As in `psnr`; sides of at least 7 (``uniform``) or 11 (``gaussian``).
    window
        ``uniform``: 7 x 7, sample covariance; ``gaussian``: standard deviation 1.5 on 11 x 11, no sample covariance.

    Raises
    ------
    ValueError
        As in `psnr`; unknown window.
    """
    if window not in WINDOWS:
        raise ValueError(f"window is {window!r}: choose one of {', '.join(WINDOWS)}")
    a, b = _pair(denoised, clean, clip)
    options = {"data_range": 1.0, "channel_axis": 0 if a.ndim == 4 else None, **WINDOWS[window]}
    return np.array([structural_similarity(one, other, **options) for one, other in zip(a, b, strict=True)])


def offset(denoised: Images, clean: Images) -> np.ndarray:
    """Mean of ``denoised - clean`` of every image in grey levels of 255, not clipped: the rest of the noise's mean."""
    a, b = _pair(denoised, clean, False)
    return 255 * (a - b).reshape(len(a), -1).mean(1)


def to_uint8(image: Images) -> np.ndarray:
    """Intensities in [0, 1] as 8-bit grey levels: ``floor(255 clip(x) + 0.5)``.

    Examples
    --------
    >>> to_uint8(np.array([-1.0, 0.0, 0.5, 1.0, 2.0])).tolist()
    [0, 0, 128, 255, 255]
    """
    array = _array(image)
    if not np.isfinite(array).all():
        raise ValueError("an image with NaN or infinite entries has no 8-bit form: mend it first")
    return np.floor(255 * np.clip(array, 0, 1) + 0.5).astype(np.uint8)


def _array(image: Images) -> np.ndarray:
    return np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image, dtype=np.float64)


def _pair(denoised: Images, clean: Images, clip: bool) -> tuple[np.ndarray, np.ndarray]:
    a, b = _array(denoised), _array(clean)
    if a.shape != b.shape:
        raise ValueError(f"denoised is {a.shape}, clean is {b.shape}: give images of one shape")
    if a.ndim not in (3, 4):
        raise ValueError(f"images come as (B, C, H, W) or (B, H, W), got {a.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("an image has NaN or infinite entries: its quality is not defined")
    return (np.clip(a, 0, 1) if clip else a), b
