"""Real images and volumes that lie inside installed packages: nothing is downloaded, no account is needed.

What each picture shows, and under which terms, is as its package's own documentation says.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SKIMAGE_SOURCE = "scikit-image's sample data (skimage.data)"
PYDICOM_TERMS = "pydicom is MIT; its README believes that there is no restriction on using the test files"
ICBM = "V. Fonov et al., Unbiased nonlinear average age-appropriate brain templates, NeuroImage 47 (S1), 2009, S102"
ICBM_TERMS = "nilearn is BSD-3; the ICBM 152 template may be used freely with its copyright notice"
NIBABEL_TERMS = "nibabel is MIT (test data of the package)"
SOFT_TISSUE = (-160.0, 240.0)  # window in HU: level 40, width 400
WHOLE = (0.5, 99.5)  # percentiles that become 0 and 1 where a scan has no unit


@dataclass(frozen=True)
class Packaged:
    """One image or volume inside a package."""

    name: str
    modality: str
    package: str  # import name
    file: str  # path inside the package
    shape: tuple[int, ...]  # of the array that is returned at native size
    terms: str
    what: str
    volume: bool = False
    window: tuple[float, float] | None = None  # HU that become 0 and 1 (CT)
    frame: int | None = None  # of a cine


_TABLE = (
    Packaged(
        "retina",
        "fundus",
        "skimage",
        "data/retina.jpg",
        (1411, 1411, 3),
        "CC0 1.0",
        f"fundus photograph of a normal left eye, M. Haggstrom 2014, doi:10.15347/wjm/2014.008; {SKIMAGE_SOURCE}",
    ),
    Packaged(
        "microaneurysms",
        "fundus",
        "skimage",
        "data/microaneurysms.png",
        (102, 102),
        "CC0, given by the owner",
        "green channel of a diabetic retina, detail of 07_dr of the High-Resolution Fundus database, A. Budai et al. "
        f"2013, doi:10.1155/2013/154860; {SKIMAGE_SOURCE}",
    ),
    Packaged(
        "ihc",
        "histology",
        "skimage",
        "data/ihc.png",
        (512, 512, 3),
        "no known copyright restrictions",
        f"colonic glands, FHL2 by DAB with haematoxylin, Center for Microscopy and Molecular Imaging; {SKIMAGE_SOURCE}",
    ),
    Packaged(
        "cell",
        "microscopy",
        "skimage",
        "data/cell.png",
        (660, 550),
        "CC0",
        f"quantitative phase image of a cell, P. Mueller et al. 2018, doi:10.1364/OE.26.010729; {SKIMAGE_SOURCE}",
    ),
    Packaged(
        "shepp-logan",
        "digital phantom",
        "skimage",
        "data/phantom.png",
        (400, 400),
        "BSD-3 (scikit-image)",
        f"the head phantom of Shepp and Logan 1974, drawn, not measured, doi:10.1109/TNS.1974.6499235; {SKIMAGE_SOURCE}",
    ),
    *(
        Packaged(
            name,
            "photograph",
            "skimage",
            f"data/{name}.png",
            (512, 512),
            "CC0",
            f"{what}, a texture; {SKIMAGE_SOURCE}",
        )
        for name, what in (("brick", "brick wall"), ("grass", "grass"), ("gravel", "gravel"))
    ),
    Packaged(
        "ct-spine",
        "CT",
        "pydicom",
        "data/test_files/CT_small.dcm",
        (128, 128),
        PYDICOM_TERMS,
        "CT slice through a vertebra with noise, streaks and the table, downsized from CT1_UNC of the NEMA WG04 set",
        window=SOFT_TISSUE,
    ),
    Packaged(
        "ct-head",
        "CT",
        "pydicom",
        "data/test_files/J2K_pixelrep_mismatch.dcm",
        (512, 512),
        PYDICOM_TERMS,
        "CT slice through the base of the skull, from pydicom's issue 1149 (origin unsure)",
        window=SOFT_TISSUE,
    ),
    Packaged(
        "mr-abdomen",
        "MR",
        "pydicom",
        "data/test_files/examples_overlay.dcm",
        (300, 484),
        PYDICOM_TERMS,
        "contrast-enhanced MR slice through liver and kidneys (origin unsure)",
    ),
    Packaged(
        "mr-small",
        "MR",
        "pydicom",
        "data/test_files/MR_small.dcm",
        (64, 64),
        PYDICOM_TERMS,
        "detail of an MR slice, downsized from MR1_UNC of the NEMA WG04 set",
    ),
    Packaged(
        "us-heart",
        "ultrasound",
        "pydicom",
        "data/test_files/examples_ybr_color.dcm",
        (240, 320, 3),
        PYDICOM_TERMS,
        "first frame of an echocardiography cine, sector and marks of the scanner included (origin unsure)",
        frame=0,
    ),
    *(
        Packaged(
            f"mni-{short}",
            "MR",
            "nilearn",
            f"datasets/data/mni_icbm152_{short}_tal_nlin_sym_09a_converted.nii.gz",
            (197, 233, 189),
            ICBM_TERMS,
            f"{what} of the ICBM 152 template 2009a, the mean of 152 heads, 1 mm; {ICBM}",
            volume=True,
        )
        for short, what in (("t1", "T1 image"), ("gm", "grey-matter map"), ("wm", "white-matter map"))
    ),
    Packaged(
        "epi",
        "MR",
        "nibabel",
        "tests/data/example4d.nii.gz",
        (128, 96, 24, 2),
        NIBABEL_TERMS,
        "two time points of an echo-planar head scan (origin unsure)",
        volume=True,
    ),
    Packaged(
        "mr-anatomical",
        "MR",
        "nibabel",
        "tests/data/anatomical.nii",
        (33, 41, 25),
        NIBABEL_TERMS,
        "very small head volume, 2 mm (origin unsure)",
        volume=True,
    ),
)

ENTRIES = {entry.name: entry for entry in _TABLE}


def packaged_names(modality: str | None = None, *, volumes: bool | None = None) -> list[str]:
    """Names of packaged images and volumes.

    Parameters
    ----------
    modality
        Keep one modality, e.g. ``CT``, ``MR``, ``fundus``; default all.
    volumes
        True: volumes alone; False: images alone; default both.
    """
    return [
        entry.name
        for entry in ENTRIES.values()
        if modality in (None, entry.modality) and volumes in (None, entry.volume)
    ]


def packaged_entry(name: str) -> Packaged:
    """Entry of the table by name; a ValueError lists the known ones."""
    if name not in ENTRIES:
        raise ValueError(f"no packaged image or volume {name!r}; known: {', '.join(ENTRIES)}")
    return ENTRIES[name]


def packaged_file(name: str) -> Path:
    """Path of the file inside its installed package, which is not imported.

    Raises
    ------
    ValueError
        An unknown name.
    FileNotFoundError
        The package is missing or comes without this file.
    """
    entry = packaged_entry(name)
    spec = importlib.util.find_spec(entry.package)
    path = Path(spec.origin).parent / entry.file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"{entry.name} lies in the package {entry.package} as {entry.file}, which is not installed here: "
            "install the versions that the project pins"
        )
    return path


def _by_percentiles(array: np.ndarray) -> np.ndarray:
    low, high = np.percentile(array, WHOLE)
    return np.clip((array - low) / max(high - low, 1e-12), 0, 1)


def _dicom(entry: Packaged, path: Path) -> np.ndarray:
    import pydicom

    header = pydicom.dcmread(path)
    pixels = header.pixel_array
    if entry.frame is not None:
        pixels = pixels[entry.frame]
    if pixels.dtype == np.uint8:
        return pixels / 255
    values = pixels * float(header.get("RescaleSlope") or 1) + float(header.get("RescaleIntercept") or 0)
    if entry.window is None:
        return _by_percentiles(values)
    low, high = entry.window
    return np.clip((values - low) / (high - low), 0, 1)


def _photograph(entry: Packaged, path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as opened:
        return np.asarray(opened.convert("L" if len(entry.shape) == 2 else "RGB")) / 255


def _fitted(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Central part with the wanted aspect, then bilinear with antialiasing."""
    from PIL import Image

    height, width = image.shape[:2]
    scale = min(height / shape[0], width / shape[1])
    keep = [max(1, round(side * scale)) for side in shape]
    top, left = (height - keep[0]) // 2, (width - keep[1]) // 2
    part = image[top : top + keep[0], left : left + keep[1]]
    channels = part[..., None] if part.ndim == 2 else part
    resized = [
        np.asarray(Image.fromarray(np.ascontiguousarray(channel)).resize(shape[::-1], Image.Resampling.BILINEAR))
        for channel in np.moveaxis(channels, -1, 0)
    ]
    return resized[0] if part.ndim == 2 else np.stack(resized, axis=-1)


def packaged_image(name: str, *, size: int | tuple[int, int] | None = None) -> np.ndarray:
    """Real image from an installed package, as intensities in [0, 1].

    Parameters
    ----------
    name
        One of ``packaged_names(volumes=False)``.
    size
        Side, or (height, width), in pixels: the central part of that aspect is cut out and resized (bilinear,
        antialiased). Default: the native size.

    Returns
    -------
    ndarray
        Shape (H, W), or (H, W, 3) for colour, float32. CT: -160 to 240 HU become 0 to 1. MR: the percentiles 0.5 and
        99.5 become 0 and 1. Photographs, micrographs, ultrasound: 0 to 255 become 0 to 1.

    Raises
    ------
    ValueError
        An unknown name, a volume, or a size below 1.
    FileNotFoundError
        The package or its file is not installed.
    """
    entry = packaged_entry(name)
    if entry.volume:
        raise ValueError(f"{name} is a volume: use packaged_volume")
    shape = (size, size) if isinstance(size, int) else size
    if shape is not None and (len(shape) != 2 or min(shape) < 1):
        raise ValueError(f"size is {size}: expected a side, or (height, width), in pixels")
    path = packaged_file(name)
    image = (_dicom(entry, path) if path.suffix == ".dcm" else _photograph(entry, path)).astype(np.float32)
    return image if shape is None else np.clip(_fitted(image, shape), 0, 1)


def packaged_volume(name: str) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """Real volume from an installed package, as intensities in [0, 1].

    Parameters
    ----------
    name
        One of ``packaged_names(volumes=True)``.

    Returns
    -------
    array : ndarray
        Shape as in the table, axes as in the file, float32; a fourth axis is time. 8-bit files over 255, others with
        the percentiles 0.5 and 99.5 as 0 and 1.
    spacing : tuple of float
        Voxel size along the three axes, in mm.
    affine : ndarray
        Voxel index to millimetres, shape (4, 4), float64.

    Raises
    ------
    ValueError
        An unknown name, or an image.
    FileNotFoundError
        The package or its file is not installed.
    """
    entry = packaged_entry(name)
    if not entry.volume:
        raise ValueError(f"{name} is an image: use packaged_image")
    import nibabel

    image = nibabel.load(packaged_file(name))
    whole = image.get_data_dtype() == np.uint8
    array = np.asarray(image.dataobj, np.float32)
    array = array / np.float32(255) if whole else _by_percentiles(array).astype(np.float32)
    return array, tuple(float(side) for side in image.header.get_zooms()[:3]), np.array(image.affine, float)
