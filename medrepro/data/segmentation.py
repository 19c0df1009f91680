"""Images and lesion masks as arrays, for phantoms and real sets alike (Martins et al. 2025, section C.1 of its code).

Images are resized without keeping their aspect: bilinear, half-pixel centres, no antialiasing. Masks: nearest with the
floor rule for ISIC18, nearest with half-pixel centres for Kvasir-SEG and BUSI. Intensity: per image min-max for ISIC18,
divided by 255 elsewhere.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from medrepro.data.catalogue import resolve
from medrepro.data.fingerprints import cache_folder, fingerprint, write_atomically
from medrepro.data.layouts import Pair, check_classes, pairs
from medrepro.data.phantoms import lesion_phantoms
from medrepro.data.splits import near_duplicate_groups, thumbnails

CACHE_FORMAT = 1  # raise it when the same files would give other arrays


@dataclass(frozen=True, eq=False)
class SegmentationSet:
    """Images with masks, in a fixed order."""

    images: np.ndarray  # (n, 3, H, W) float32 in [0, 1]
    masks: np.ndarray  # (n, 1, H, W) float32: 0 or 1, or grey fractions where they were not binarised
    names: np.ndarray  # (n,) str
    labels: np.ndarray  # (n,) str
    groups: np.ndarray  # (n,) int: patients and near duplicates share a number

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int] | np.ndarray) -> "SegmentationSet":
        """The images at some indices, in that order."""
        return SegmentationSet(*(getattr(self, part.name)[np.asarray(indices, int)] for part in fields(self)))


def read_image(path: Path) -> np.ndarray:
    """Decoded image, three channels also where the file is grey, shape (H, W, 3), uint8.

    Raises
    ------
    ValueError
        The file is truncated or no image.
    """
    return _decoded(path, "RGB")


def read_mask(files: Sequence[Path], image: Path, size: tuple[int, int]) -> np.ndarray:
    """Union of the mask files of one image, shape `size` (height, width), uint8 from 0 to 255; grey values are kept.

    Parameters
    ----------
    files
        Mask files in any mode (1, L, P, RGB; PNG, GIF or JPEG); none gives an empty mask.
    image
        The image they belong to, for the message.
    size
        Height and width of that image.

    Raises
    ------
    ValueError
        A mask has another size than the image, or cannot be decoded.
    """
    union = np.zeros(size, np.uint8)
    for path in files:
        mask = _decoded(path, "L")
        if mask.shape != size:
            raise ValueError(
                f"mask {path} is {mask.shape[0]} x {mask.shape[1]}, its image {image} is {size[0]} x {size[1]}: "
                "get both from the same distribution, or resize one"
            )
        np.maximum(union, mask, out=union)
    return union


def _decoded(path: Path, mode: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert(mode))
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow raises all of these for damaged files
        raise ValueError(f"{path} is truncated or no image ({error}): copy it again from its source") from error


def _resized(array: np.ndarray, size: tuple[int, int], rule: str) -> np.ndarray:
    """Array (C, H, W) at another size, float32, by one of torch's rules without antialiasing."""
    import torch
    from torch.nn import functional

    tensor = torch.from_numpy(np.array(array, np.float32))[None]
    aligned = {"align_corners": False} if rule == "bilinear" else {}
    return functional.interpolate(tensor, size=size, mode=rule, **aligned)[0].numpy()


def _read_pair(pair: Pair, size: tuple[int, int], *, isic: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Resized image and mask on the scale 0 to 255, and the 32 x 32 thumbnail that finds near duplicates."""
    if pair.needs_mask and not pair.masks:
        raise FileNotFoundError(
            f"{pair.image} has no mask file: expected one with the stem {pair.name}, or {pair.name}_mask or "
            f"{pair.name}_segmentation; put it there, or remove the image"
        )
    image = read_image(pair.image)
    mask = read_mask(pair.masks, pair.image, image.shape[:2])
    small = _resized(image.transpose(2, 0, 1), size, "bilinear")
    if isic:
        # choice: rounded, since the paper's data file resizes uint8 tensors
        small = np.rint(small)
    return small, _resized(mask[None], size, "nearest" if isic else "nearest-exact"), _thumbnail(image)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    return thumbnails(image.transpose(2, 0, 1)[None].astype(np.float32))[0]


def _scaled(images: np.ndarray, *, isic: bool) -> np.ndarray:
    """Intensities in [0, 1], float32, from (n, 3, H, W) on the scale 0 to 255."""
    images = images.astype(np.float32, copy=False)
    if not isic:
        return images / np.float32(255)
    low, high = images.min(axis=(1, 2, 3), keepdims=True), images.max(axis=(1, 2, 3), keepdims=True)
    return (images - low) / np.maximum(high - low, np.float32(1e-6))  # a constant image becomes 0


def _cached(path: Path) -> dict[str, np.ndarray] | None:
    """Arrays of a cache file, or None where there is none or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _read_set(chosen: list[Pair], size: tuple[int, int], *, isic: bool) -> dict[str, np.ndarray]:
    images = np.empty((len(chosen), 3, *size), np.uint8 if isic else np.float32)
    masks = np.empty((len(chosen), 1, *size), np.uint8)
    small = np.empty((len(chosen), 32, 32), np.float32)
    for n, pair in enumerate(chosen):
        images[n], masks[n], small[n] = _read_pair(pair, size, isic=isic)
    groups = near_duplicate_groups(small, groups=[pair.group for pair in chosen])
    return {"images": images, "masks": masks, "groups": groups}


def _real(
    name: str,
    size: tuple[int, int],
    *,
    limit: int | None,
    seed: int,
    classes: tuple[str, ...] | None,
    binarise: bool,
    cache: bool,
) -> SegmentationSet:
    isic = name == "isic18"
    chosen = pairs(name, classes=classes)
    if limit is not None and limit < len(chosen):
        kept = np.random.default_rng(seed).choice(len(chosen), limit, replace=False)
        chosen = [chosen[n] for n in sorted(kept)]
    arrays = None
    if cache:
        key = json.dumps([CACHE_FORMAT, fingerprint(name), size, [pair.name for pair in chosen]])
        path = cache_folder() / "segmentation" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
        arrays = _cached(path)
    if arrays is None:
        arrays = _read_set(chosen, size, isic=isic)
        if cache:
            try:
                write_atomically(path, lambda stream: np.savez(stream, **arrays))
            except OSError:
                pass  # a full or read-only disk costs time at the next call, nothing else
    masks = arrays["masks"]
    return SegmentationSet(
        images=_scaled(arrays["images"], isic=isic),
        masks=(masks > 127).astype(np.float32) if binarise else masks.astype(np.float32) / np.float32(255),
        names=np.array([pair.name for pair in chosen]),
        labels=np.array([pair.label for pair in chosen]),
        groups=arrays["groups"],
    )


def load_segmentation(
    name: str,
    *,
    size: int | tuple[int, int] = 128,
    limit: int | None = None,
    seed: int = 0,
    count: int = 200,
    first: int = 0,
    classes: tuple[str, ...] | None = None,
    binarise: bool = True,
    cache: bool = True,
    phantom: Mapping[str, object] | None = None,
) -> SegmentationSet:
    """Images with lesion masks of a phantom or a real set, under one interface.

    Parameters
    ----------
    name
        ``phantom``, ``isic18``, ``kvasir``, ``busi``, another name of the catalogue, or an alias.
    size
        Side in pixels, or (height, width) for real sets. The paper uses 224.
    limit
        At most so many images: the first ones of a phantom; of a real set a draw by `seed`, kept in file order.
    seed
        Seed of the phantom, or of the draw.
    count
        Number of phantoms; a real set has the number it has.
    first
        Index of the first phantom.
    classes
        Labels to keep; default: those of the paper (BUSI: benign and malignant; ``normal`` has empty masks).
    binarise
        Masks are 1 where the file is above half its range (128 of 255), else 0. False keeps grey values over 255: the
        paper's code does so, which leaves JPEG fractions in the masks of Kvasir-SEG.
    cache
        Keep decoded and resized arrays in the cache folder (`MEDREPRO_CACHE`), under the fingerprint of the files.
    phantom
        Further arguments of `lesion_phantoms`: roughness, hurst, strength, speckle, or another look or cue.

    Returns
    -------
    SegmentationSet
        images (n, 3, H, W) float32 in [0, 1]; masks (n, 1, H, W) float32; names, labels, groups (n,).

    Raises
    ------
    ValueError
        An unknown name or class; a size below 1; a truncated file; a mask of another size than its image.
    FileNotFoundError
        The set or a mask file is missing.

    Notes
    -----
    Resizing and intensity follow the public code of [1]_; a mask file that cannot be had counts as empty for the class
    ``normal`` alone. Groups join the manifest's column ``group``, where there is one, with near duplicates.

    References
    ----------
    .. [1] Martins, Coimbra, Renna. Multifractal Recalibration of Neural Networks for Medical Imaging Segmentation.
       arXiv:2512.02198, 2025.

    Examples
    --------
    >>> load_segmentation("phantom", size=32, count=3).masks.shape
    (3, 1, 32, 32)
    """
    entry = resolve(name)
    shape = (size, size) if isinstance(size, int) else tuple(size)
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"size is {size}: expected a side, or (height, width), in pixels")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: expected at least 1 image, or None for all")
    check_classes(entry, classes)
    if not entry.is_phantom:
        if phantom:
            raise ValueError(f"phantom options {sorted(phantom)} were given for {entry.name}, which is a real set")
        return _real(entry.name, shape, limit=limit, seed=seed, classes=classes, binarise=binarise, cache=cache)
    if shape[0] != shape[1]:
        raise ValueError(f"size is {size}: phantoms are square, so give one side")
    number = count if limit is None else min(count, limit)
    images, masks = lesion_phantoms(number, seed, size=shape[0], first=first, **{**entry.phantom, **(phantom or {})})
    return SegmentationSet(
        images=images,
        masks=masks,
        names=np.array([f"{entry.name}-{seed}-{n}" for n in range(first, first + number)], dtype=str),
        labels=np.full(number, "lesion"),
        groups=np.arange(number),
    )
