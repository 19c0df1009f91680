"""Procedural clean images of six modalities, with structure at several scales and known truth from a seed.

They are made for denoising: edges are anti-aliased, values stay off 0 and 1 except in true background (saturated regions
would make PSNR depend on clipping), and fine, faint structures tell whether a method wipes out detail. They are
drawings of the look of a modality, not simulations of its physics.
"""

import itertools
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from medrepro.data.phantoms import fractional_brownian_surface

SMALLEST = 32  # pixels: below, the finest structures fall under one pixel


class Canvas:
    """Coordinates of a square image, from -1 to 1 along either axis, and the generator behind its random draws."""

    def __init__(self, size: int, rng: np.random.Generator):
        self.size, self.rng = size, rng
        centres = (np.arange(size) + 0.5) * 2 / size - 1
        self.rows, self.columns = centres[:, None], centres[None, :]

    def radius(self, centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> np.ndarray:
        """Elliptic radius, shape (size, size): below 1 inside the ellipse."""
        rows, columns = self.rows - centre[0], self.columns - centre[1]
        along = rows * np.cos(angle) + columns * np.sin(angle)
        across = columns * np.cos(angle) - rows * np.sin(angle)
        return np.sqrt((along / radii[0]) ** 2 + (across / radii[1]) ** 2)

    def soft(self, distance: np.ndarray) -> np.ndarray:
        """Coverage of pixels, from a signed distance to an outline in image units (negative inside): anti-aliased."""
        return np.clip(0.5 - distance * (self.size / 2), 0, 1)

    def ellipse(self, centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> np.ndarray:
        """Anti-aliased filled ellipse, shape (size, size), in [0, 1]."""
        return self.soft((self.radius(centre, radii, angle) - 1) * min(radii))

    def warped_disc(self, centre: tuple[float, float], radius: float, wobble: float) -> np.ndarray:
        """Anti-aliased disc whose radius wobbles by a smooth random share of it."""
        rows, columns = self.rows - centre[0], self.columns - centre[1]
        angle, outline = np.arctan2(rows, columns), np.ones((self.size, self.size))
        for mode in range(2, 9):
            height, phase = wobble * self.rng.standard_normal() / mode, self.rng.uniform(0, 2 * np.pi)
            outline += height * np.cos(mode * angle + phase)
        return self.soft(np.hypot(rows, columns) - radius * np.clip(outline, 0.4, 1.8))

    def line(self, points: np.ndarray, width: float) -> np.ndarray:
        """Profile of a polyline through points (n, 2) in image units: Gaussian across, at least 0.6 pixels wide."""
        nearest = np.full((self.size, self.size), np.inf)  # square of the distance
        for start, stop in itertools.pairwise(points):
            step = stop - start
            rows, columns = self.rows - start[0], self.columns - start[1]
            share = (rows * step[0] + columns * step[1]) / max(step @ step, 1e-12)
            share = np.minimum(np.maximum(share, 0), 1)
            np.minimum(nearest, (rows - share * step[0]) ** 2 + (columns - share * step[1]) ** 2, out=nearest)
        return np.exp(-nearest / (2 * max(width, 1.2 / self.size) ** 2))

    def path(self, start: np.ndarray, *, length: float, bend: float, steps: int = 8) -> np.ndarray:
        """Random bent path of `steps` pieces, shape (steps + 1, 2)."""
        direction = self.rng.uniform(0, 2 * np.pi) + np.cumsum(bend * self.rng.standard_normal(steps))
        pieces = np.stack([np.sin(direction), np.cos(direction)], 1) * length / steps
        return np.concatenate([start[None], start + np.cumsum(pieces, 0)])

    def texture(self, hurst: float) -> np.ndarray:
        """Fractional Brownian surface, mean 0 and standard deviation 1 over the image."""
        surface = fractional_brownian_surface(self.size, hurst, int(self.rng.integers(2**32)))
        return (surface - surface.mean()) / surface.std()

    def discs(self, count: int, radii: tuple[float, float], spread: float) -> list[np.ndarray]:
        """Small discs at random places within `spread` of the middle, radii drawn evenly on a logarithmic scale."""
        sizes = np.exp(self.rng.uniform(*np.log(radii), count))
        places = self.rng.uniform(-spread, spread, (count, 2))
        return [self.ellipse(tuple(place), (radius, radius)) for place, radius in zip(places, sizes, strict=True)]


def _ct(canvas: Canvas) -> np.ndarray:
    """Axial chest: body, lungs with vessels, spine, ribs, discs of falling contrast in the soft tissue."""
    rng = canvas.rng
    width, height = rng.uniform(0.82, 0.92), rng.uniform(0.6, 0.7)
    body = canvas.ellipse((0, 0), (height, width))
    image = 0.02 + body * (0.48 + 0.012 * canvas.texture(0.4))
    for disc in canvas.discs(10, (0.02, 0.09), 0.5):
        image += body * disc * rng.choice([-1, 1]) * np.exp(rng.uniform(*np.log((0.02, 0.1))))
    for side in (-1, 1):
        lung = canvas.ellipse((-0.05, side * 0.42), (0.42, rng.uniform(0.24, 0.3)), side * 0.15)
        vessels = sum(
            canvas.line(canvas.path(np.array([0.0, side * 0.2]), length=0.6, bend=0.4), width)
            for width in (0.02, 0.012, 0.006, 0.004)
        )
        air = 0.1 + 0.01 * canvas.texture(0.3) + 0.3 * np.clip(vessels, 0, 1)
        image = image * (1 - lung) + lung * air
    spine = canvas.ellipse((0.42, 0), (0.12, 0.14))
    image = image * (1 - spine) + spine * (0.8 + 0.05 * canvas.texture(0.2))
    for angle in np.linspace(0, 2 * np.pi, 14, endpoint=False) + rng.uniform(0, 0.4):
        place = (0.9 * height * np.sin(angle), 0.9 * width * np.cos(angle))
        rib = canvas.ellipse(place, (0.07, 0.02), -np.arctan2(width * np.sin(angle), height * np.cos(angle)))
        image = image * (1 - rib) + rib * 0.85
    return image


def _mr(canvas: Canvas) -> np.ndarray:
    """Axial head, T1-like: scalp, skull, cortex folded by a thresholded random field, ventricles, smooth bias field."""
    rng = canvas.rng
    radii = (rng.uniform(0.78, 0.86), rng.uniform(0.64, 0.72))
    head, skull, brain = (canvas.ellipse((0, 0), (radii[0] * s, radii[1] * s)) for s in (1, 0.93, 0.86))
    folds = ndimage.gaussian_filter(rng.standard_normal((canvas.size,) * 2), canvas.size / 60, mode="wrap")
    folds = np.clip(0.5 + folds / folds.std() * 1.5, 0, 1)
    depth = np.clip((0.86 - 0.86 * canvas.radius((0, 0), radii)) / 0.3, 0, 1)  # 0 at the surface, 1 from 0.3 inwards
    white = np.clip(depth + 0.8 * (folds - 0.5), 0, 1)
    tissue = 0.45 + 0.3 * white + 0.01 * canvas.texture(0.3)
    for disc in canvas.discs(6, (0.012, 0.05), 0.35):
        tissue += disc * rng.uniform(-0.12, 0.08)
    for side in (-1, 1):
        horn = canvas.ellipse((-0.05, side * 0.13), (0.26, 0.06), side * rng.uniform(0.15, 0.3))
        tissue = tissue * (1 - horn) + horn * 0.2
    image = 0.01 + head * 0.75
    image = image * (1 - skull) + skull * 0.12
    image = image * (1 - brain) + brain * tissue
    slope, lift = rng.uniform(-0.12, 0.12, 2), rng.uniform(-0.08, 0.08)
    bias = 1 + slope[0] * canvas.rows + slope[1] * canvas.columns + lift * (canvas.rows**2 + canvas.columns**2)
    return image * bias


def _ultrasound(canvas: Canvas) -> np.ndarray:
    """Sector scan: smoothed, log-compressed reflectivity with tissue layers, dark cysts and bright interfaces."""
    rng = canvas.rng
    depth, angle = np.hypot(canvas.rows + 1.1, canvas.columns), np.arctan2(canvas.columns, canvas.rows + 1.1)
    sector = canvas.soft((np.abs(angle) - 0.62) * depth) * canvas.soft(depth - 2.02) * canvas.soft(0.25 - depth)
    parts = ndimage.gaussian_filter(rng.standard_normal((2, canvas.size, canvas.size)), (0, 1.0, 1.6))
    envelope = np.hypot(*parts)
    reflect = np.exp(0.5 * canvas.texture(0.5)) * (0.3 + envelope / envelope.mean())
    for disc in canvas.discs(4, (0.06, 0.2), 0.5):
        reflect *= 1 - 0.93 * disc
    for _ in range(4):
        start = np.array([rng.uniform(-0.6, 0.8), rng.uniform(-0.7, 0.2)])
        reflect += 4 * canvas.line(canvas.path(start, length=0.8, bend=0.15), rng.uniform(0.006, 0.02))
    decibel = 20 * np.log10(ndimage.gaussian_filter(reflect, 0.7) + 1e-3)
    low, high = np.percentile(decibel, (1, 99.5))
    return 0.01 + 0.95 * sector * np.clip((decibel - low) / (high - low), 0.02, 1)


def _xray(canvas: Canvas) -> np.ndarray:
    """Chest radiograph: exponentials of summed thickness through ellipsoids, ribs, vessels; bone bright."""
    rng = canvas.rng

    def thickness(centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> np.ndarray:
        return np.sqrt(np.clip(1 - canvas.radius(centre, radii, angle) ** 2, 0, None))

    total = 1.5 * thickness((0.25, 0), (1.3, 0.95))
    for side in (-1, 1):
        lung = thickness((0, side * 0.42), (0.62, 0.32), side * 0.1)
        total -= 1.1 * lung
        for number in range(7):
            arc = np.linspace(0, 1, 9)
            rise = -0.65 + 0.19 * number + rng.uniform(-0.01, 0.01)
            rib = np.stack([rise + 0.22 * arc**2 + 0.05 * np.sin(3 * arc), side * (0.1 + 0.72 * arc)], 1)
            total += 0.4 * canvas.line(rib, 0.02)
        for width in (0.02, 0.014, 0.01, 0.007, 0.005):
            path = canvas.path(np.array([0.05, side * 0.15]), length=0.55, bend=0.35)
            total += 0.4 * lung * canvas.line(path, width)
    total += 0.9 * thickness((0.3, -0.12), (0.4, 0.3), 0.4) + 0.35 * np.exp(-((canvas.columns / 0.07) ** 2))
    for disc in canvas.discs(4, (0.015, 0.05), 0.5):
        total += disc * rng.uniform(0.05, 0.25)
    total += 0.04 * canvas.texture(0.3)
    film = 1 - np.exp(-np.clip(total, 0, None))
    return 0.03 + 0.92 * film**1.3


def _microscopy(canvas: Canvas) -> np.ndarray:
    """Fluorescence: nuclei at random places, filaments, a black background, blurred by a point spread function."""
    rng = canvas.rng
    image = np.full((canvas.size, canvas.size), 0.004)
    for _ in range(rng.poisson(10)):
        radius = rng.uniform(0.08, 0.16)
        place, shape = tuple(rng.uniform(-0.95, 0.95, 2)), (radius, radius * rng.uniform(0.6, 1))
        nucleus = canvas.ellipse(place, shape, rng.uniform(0, np.pi))
        image = np.maximum(image, nucleus * rng.uniform(0.35, 0.8) * np.clip(1 + 0.15 * canvas.texture(0.4), 0.5, 1.2))
    for _ in range(12):
        path = canvas.path(rng.uniform(-1, 1, 2), length=rng.uniform(0.5, 1.2), bend=0.3)
        image = np.maximum(image, rng.uniform(0.1, 0.6) * canvas.line(path, rng.uniform(0.004, 0.012)))
    for disc in canvas.discs(15, (0.01, 0.03), 0.95):
        image = np.maximum(image, disc * rng.uniform(0.05, 0.5))
    return ndimage.gaussian_filter(image, 0.8)


def _dermoscopy(canvas: Canvas) -> np.ndarray:
    """Skin with a pigmented lesion of warped outline and network, hairs, vignette; colour, shape (size, size, 3)."""
    rng = canvas.rng
    skin = np.array([0.80, 0.60, 0.53]) * (1 + 0.03 * canvas.texture(0.5)[..., None] * [1.0, 1.2, 1.2])
    lesion = canvas.warped_disc(tuple(rng.uniform(-0.2, 0.2, 2)), rng.uniform(0.35, 0.55), 0.35)
    lesion = ndimage.gaussian_filter(lesion, canvas.size / 80)
    warp = canvas.texture(0.7)
    waves = 2 * np.pi * rng.uniform(9, 14)
    network = np.sin(waves * canvas.rows + 1.5 * warp) * np.sin(waves * canvas.columns - 1.5 * warp)
    pigment = np.clip(0.6 + 0.14 * canvas.texture(0.4) + 0.12 * network, 0.2, 1)
    image = skin - (lesion * pigment)[..., None] * np.array([0.42, 0.40, 0.36])
    for _ in range(rng.integers(3, 8)):
        hair = canvas.line(canvas.path(rng.uniform(-1, 1, 2), length=2.2, bend=0.06), rng.uniform(0.005, 0.01))
        image = image * (1 - 0.7 * hair[..., None]) + 0.7 * hair[..., None] * np.array([0.12, 0.09, 0.08])
    return image * (1 - 0.22 * (canvas.rows**2 + canvas.columns**2) / 2)[..., None]


MODALITIES: dict[str, Callable[[Canvas], np.ndarray]] = {
    "ct": _ct, "mr": _mr, "ultrasound": _ultrasound, "xray": _xray, "microscopy": _microscopy, "dermoscopy": _dermoscopy,
}  # fmt: skip


def modality_phantom(modality: str, seed: int, *, size: int = 128) -> np.ndarray:
    """One clean image in the look of a modality.

    Parameters
    ----------
    modality
        ``ct``, ``mr``, ``ultrasound``, ``xray``, ``microscopy`` or ``dermoscopy``.
    seed
        The same seed gives the same image; at another size it gives another one of the same kind.
    size
        Side in pixels, at least 32.

    Returns
    -------
    ndarray
        Shape (size, size), or (size, size, 3) for dermoscopy, float32 in [0, 1].

    Raises
    ------
    ValueError
        An unknown modality; a size below 32.
    """
    if modality not in MODALITIES:
        raise ValueError(f"no phantom of modality {modality!r}; known: {', '.join(MODALITIES)}")
    if size < SMALLEST:
        raise ValueError(f"size is {size}: the finest structures need an image of at least {SMALLEST} pixels")
    rng = np.random.default_rng((seed, list(MODALITIES).index(modality), size))
    return np.clip(MODALITIES[modality](Canvas(size, rng)), 0, 1).astype(np.float32)


def modality_phantoms(modality: str, count: int, seed: int, *, size: int = 128, first: int = 0) -> np.ndarray:
    """Clean RGB images in the look of a modality; grey ones have three equal channels.

    Parameters
    ----------
    modality, size
        As in `modality_phantom`.
    count
        Number of images.
    seed
        Image i depends on (seed, i) alone: a smaller set is the beginning of a larger one.
    first
        Index of the first image.

    Returns
    -------
    ndarray
        Shape (count, 3, size, size), float32 in [0, 1].

    Raises
    ------
    ValueError
        As `modality_phantom`; `count` or `first` negative.
    """
    if count < 0 or first < 0:
        raise ValueError(f"count is {count}, first is {first}: neither can be negative")
    images = np.empty((count, 3, size, size), np.float32)
    for n in range(count):
        own = int(np.random.SeedSequence((seed, first + n)).generate_state(1)[0])
        image = modality_phantom(modality, own, size=size)
        images[n] = image if image.ndim == 2 else image.transpose(2, 0, 1)
    return images
