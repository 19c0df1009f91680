"""Procedural phantoms with known truth: lesion images, fractional Brownian surfaces, binomial cascades.

A lesion phantom is tissue of one texture with a star-shaped lesion of another. What tells them apart is chosen by the
cue: the mean, the contrast, or the Hurst exponent alone. Nothing is downloaded or stored; a seed gives the same images
on every call. Surfaces follow the spectral synthesis of Peitgen and Saupe, The Science of Fractal Images, 1988.
"""

from functools import lru_cache

import numpy as np
from scipy import fft, ndimage

LOOKS = ("dermoscopy", "endoscopy", "ultrasound")
CUES = ("mean", "contrast", "hurst")

NUM_MODES = 32  # highest Fourier mode of an outline: about two pixels of arc on a lesion of 20 pixels radius
NUM_ANGLES = 1024  # resolution of the outline's table
RADIUS = (0.14, 0.28)  # mean radius as a share of the image's side: lesions of 5 to 25 % of the area
CENTRE = (0.3, 0.7)  # range of the centre's row and column, as a share of the side
WOBBLE = 0.16  # standard deviation of the radius along the outline, as a share of the mean radius
AMPLITUDE = 0.1  # standard deviation of the texture, in units of the intensity range

# choice: colours picked by eye from published pictures of each modality; only the ultrasound look needs to be grey.
BASE_COLOUR = {"dermoscopy": (0.72, 0.55, 0.48), "endoscopy": (0.66, 0.40, 0.32), "ultrasound": (0.45, 0.45, 0.45)}
DIRECTION = {"dermoscopy": (0.90, 1.00, 0.95), "endoscopy": (1.00, 0.85, 0.70), "ultrasound": (1.00, 1.00, 1.00)}

DYNAMIC_RANGE = 60.0  # dB that the log-compressed grey scale spans
SPECKLE_SIZE = (0.7, 1.3)  # axial, lateral standard deviation of the point spread function in pixels
MEAN_LOG_RAYLEIGH = -0.5 * np.euler_gamma * 20 / np.log(10)  # mean of 20 log10 |a| in dB for E|a|^2 = 1


def _frequency(torus: int) -> np.ndarray:
    """Length of the frequency vector |k| on the half spectrum, shape (torus, torus // 2 + 1); 1 at the origin."""
    rows = fft.fftfreq(torus, 1 / torus)
    columns = fft.rfftfreq(torus, 1 / torus)
    length = np.hypot(rows[:, None], columns[None, :])
    length[0, 0] = 1
    return length


@lru_cache(maxsize=16)
def _spectrum(torus: int, hurst: float) -> np.ndarray:
    """Amplitudes |k|^-(H+1) in float32 for noise that is drawn directly on the half spectrum, mean removed."""
    amplitude = _frequency(torus) ** -(hurst + 1)
    amplitude[0, 0] = 0
    # the edge columns are their own mirror image: real parts of independent entries carry half the power there
    amplitude[:, [0, -1]] *= np.sqrt(2)
    amplitude.setflags(write=False)
    return (amplitude / np.sqrt(np.sum(amplitude**2)) * torus**2 / np.sqrt(2)).astype(np.float32)


def _check_hurst(hurst: float) -> None:
    if not 0 < hurst < 1:
        raise ValueError(f"hurst is {hurst}: a Hurst exponent lies strictly between 0 (rough) and 1 (smooth)")


def fractional_brownian_surface(size: int, hurst: float, seed: int, *, torus: int | None = None) -> np.ndarray:
    r"""Fractional Brownian surface by spectral synthesis: white noise filtered with :math:`|k|^{-(H+1)}`.

    Increments grow as :math:`E|B(x+r)-B(x)|^2 \sim r^{2H}` for lags r well inside the torus.

    Parameters
    ----------
    size
        Side of the result in pixels.
    hurst
        Hurst exponent H, strictly between 0 and 1; the surface's fractal dimension is 3 - H.
    seed
        Seed of the white noise. The same seed gives the same noise for every H.
    torus
        Side of the periodic domain that the surface is cut from; default ``2 * size``, so that opposite edges differ.

    Returns
    -------
    ndarray
        Surface, shape (size, size), float64; mean 0 and standard deviation 1 over the whole torus.

    Raises
    ------
    ValueError
        `hurst` outside (0, 1); `size` not positive; `torus` smaller than `size`.

    Notes
    -----
    The lattice cuts the spectrum off at both ends, so measured exponents are drawn towards 1/2 by up to 0.1.
    """
    _check_hurst(hurst)
    torus = 2 * size if torus is None else torus
    if size < 1 or torus < size:
        raise ValueError(f"size is {size}, torus is {torus}: size must be positive and torus at least size")
    noise = fft.rfft2(np.random.default_rng(seed).standard_normal((torus, torus)))
    noise *= _frequency(torus) ** -(hurst + 1)
    noise[0, 0] = 0
    surface = fft.irfft2(noise, s=(torus, torus))
    return surface[:size, :size] / max(surface.std(), np.finfo(float).tiny)


def binomial_cascade(levels: int, p: float) -> np.ndarray:
    """Two-dimensional binomial product measure: `levels` Kronecker products of [p, 1-p]^T [p, 1-p].

    Parameters
    ----------
    levels
        Number of subdivisions n; the side is 2^n pixels. 0 gives [[1]].
    p
        Share of the mass that goes to the first half along each axis, strictly between 0 and 1; 1/2 is uniform.

    Returns
    -------
    ndarray
        Measure, shape (2^n, 2^n), float64, sum 1.

    Raises
    ------
    ValueError
        `levels` negative or above 13 (a side over 8192); `p` outside (0, 1).

    Examples
    --------
    >>> binomial_cascade(1, 0.25)
    array([[0.0625, 0.1875],
           [0.1875, 0.5625]])
    """
    if not 0 <= levels <= 13:
        raise ValueError(f"levels is {levels}: expected 0 to 13 (a side of 1 to 8192 pixels)")
    if not 0 < p < 1:
        raise ValueError(f"p is {p}: a share of the mass lies strictly between 0 and 1")
    line = np.ones(1)
    for _ in range(levels):
        line = np.kron(line, [p, 1 - p])  # the product measure factorises: one axis is enough
    return np.outer(line, line)


def _lesion(rng: np.random.Generator, size: int, roughness: float) -> np.ndarray:
    """Star-shaped mask, bool (size, size): the radius is a periodic fractional Brownian loop, H = 1 - roughness."""
    row, column = rng.uniform(*CENTRE, 2) * size
    radius = rng.uniform(*RADIUS) * size
    modes = np.arange(2, NUM_MODES + 1)  # mode 0 is the radius, mode 1 only moves the centre
    amplitude = modes ** -(1.5 - roughness)
    loop = np.zeros(NUM_ANGLES // 2 + 1, np.complex128)
    loop[modes] = amplitude * (rng.standard_normal(modes.size) + 1j * rng.standard_normal(modes.size))
    wobble = fft.irfft(loop, NUM_ANGLES)
    wobble *= WOBBLE / wobble.std()
    outline = radius * np.clip(1 + wobble, 0.3, 1.7)
    rows = np.arange(size, dtype=np.float32)[:, None] - np.float32(row)
    columns = np.arange(size, dtype=np.float32)[None, :] - np.float32(column)
    angle = np.arctan2(rows, columns) * np.float32(NUM_ANGLES / (2 * np.pi))
    return rows**2 + columns**2 < (outline**2).astype(np.float32)[angle.astype(np.int32) % NUM_ANGLES]


def _standardised(field: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The field with mean 0 and standard deviation 1 over a region."""
    values = field[region]
    return (field - values.mean()) / max(values.std(), np.float32(1e-6))


def _texture(rng: np.random.Generator, mask: np.ndarray, cue: str, *, hurst: tuple, strength: float) -> np.ndarray:
    """Texture in units of its standard deviation; the lesion differs by the cue alone."""
    size = mask.shape[0]
    torus = 2 * size
    noise = rng.standard_normal((torus, torus // 2 + 1, 2), dtype=np.float32).view(np.complex64)[..., 0]
    # one noise filtered twice: both textures share their coarse structure, so the border is no artificial step
    outside = fft.irfft2(noise * _spectrum(torus, hurst[0]), s=(torus, torus))[:size, :size]
    if cue == "hurst":
        inside = fft.irfft2(noise * _spectrum(torus, hurst[1]), s=(torus, torus))[:size, :size]
        return np.where(mask, _standardised(inside, mask), _standardised(outside, ~mask))
    # one field, one scale: standardising each region would make the smaller one look rougher
    field = _standardised(outside, np.ones_like(mask))
    if cue == "mean":
        return field - np.float32(strength) * mask
    lesion, tissue = field[mask].mean(), field[~mask].mean()
    return np.where(mask, tissue + (field - lesion) * np.float32(1 + strength), field)


def _speckle(rng: np.random.Generator, size: int) -> np.ndarray:
    """Fully developed speckle in dB, mean 0, shape (size, size): the log magnitude of a blurred complex Gaussian."""
    parts = rng.standard_normal((2, size, size), dtype=np.float32)
    gain = 1.0
    for axis, sigma in enumerate(SPECKLE_SIZE, start=1):
        parts = ndimage.gaussian_filter1d(parts, sigma, axis=axis, mode="wrap", truncate=3)
        gain *= _blur_energy(sigma)
    power = (parts[0] ** 2 + parts[1] ** 2) / np.float32(2 * gain)
    return 10 * np.log10(np.maximum(power, np.float32(1e-12))) - np.float32(MEAN_LOG_RAYLEIGH)


@lru_cache(maxsize=8)
def _blur_energy(sigma: float) -> float:
    """Variance of blurred unit white noise along one axis."""
    impulse = np.zeros(65)
    impulse[32] = 1
    return float(np.sum(ndimage.gaussian_filter1d(impulse, sigma, mode="wrap", truncate=3) ** 2))


def _curve(rng: np.random.Generator, size: int) -> np.ndarray:
    """Profile of a thin, slightly bent hair across the image, 1 on its axis, 0 away from it, shape (size, size)."""
    direction = rng.uniform(0, np.pi)
    # offsets beyond the corners: every pixel is crossed equally often, inside the lesion or not
    offset, bend = rng.uniform(-1.8, 1.8), rng.uniform(-0.2, 0.2)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    along = axis[:, None] * np.float32(np.cos(direction)) + axis[None, :] * np.float32(np.sin(direction))
    across = axis[None, :] * np.float32(np.cos(direction)) - axis[:, None] * np.float32(np.sin(direction))
    distance = (across - np.float32(offset) - np.float32(bend) * along**2) * np.float32(size / 2)
    return np.exp(-(distance**2))


def _highlight(rng: np.random.Generator, size: int) -> np.ndarray:
    """Profile of a small specular reflection, 1 at its centre, shape (size, size)."""
    row, column = rng.uniform(0, size, 2)
    width = rng.uniform(0.008, 0.02) * size
    pixels = np.arange(size)
    # a product of two lines is enough: the reflection is a round Gaussian
    return np.outer(np.exp(-((pixels - row) ** 2) / (2 * width**2)), np.exp(-((pixels - column) ** 2) / (2 * width**2)))


def _rendered(rng: np.random.Generator, texture: np.ndarray, look: str, *, speckle: float) -> np.ndarray:
    """Colour image in [0, 1], shape (3, size, size), from a texture in units of its standard deviation."""
    size = texture.shape[0]
    grey = np.float32(AMPLITUDE) * texture
    colour = np.asarray(BASE_COLOUR[look], np.float32)[:, None, None]
    if look == "ultrasound":
        # log compression turns the multiplicative speckle into an additive one
        grey = grey + _speckle(rng, size) * np.float32(speckle / DYNAMIC_RANGE)
        return np.broadcast_to(np.clip(colour[0] + grey, 0, 1), (3, size, size))
    colour = colour * np.float32(rng.uniform(0.92, 1.08))  # skin tone, exposure
    image = colour + grey * np.asarray(DIRECTION[look], np.float32)[:, None, None]
    extras, make, height = {"dermoscopy": (6, _curve, -0.3), "endoscopy": (4, _highlight, 0.4)}[look]
    for _ in range(rng.integers(extras + 1)):  # placed without regard to the lesion
        image += np.float32(height) * make(rng, size).astype(np.float32)
    return np.clip(image, 0, 1)


def lesion_phantoms(
    count: int,
    seed: int,
    *,
    size: int = 128,
    look: str = "ultrasound",
    cue: str = "hurst",
    roughness: float = 0.3,
    hurst: tuple[float, float] = (0.3, 0.7),
    strength: float = 1.0,
    speckle: float = 0.5,
    first: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Images of a lesion in tissue with their true masks.

    Parameters
    ----------
    count
        Number of images.
    seed
        Image i depends on (seed, i) alone: a smaller set is the beginning of a larger one. Masks and the noise behind
        the texture are the same for every look and cue, so that these can be compared image by image.
    size
        Side in pixels, at least 16.
    look
        ``dermoscopy`` (skin colours, a few hairs), ``endoscopy`` (mucosa colours, a few specular reflections) or
        ``ultrasound`` (grey, fully developed multiplicative speckle, log-compressed to 60 dB).
    cue
        How the lesion differs. ``hurst``: only by its Hurst exponent; before hairs, reflections and speckle, which
        know nothing of the lesion, mean and variance are the same inside and outside in every image. ``mean``: it is
        darker, one texture running through both (the control without any scaling cue). ``contrast``: its deviations
        from the same mean are larger.
    roughness
        Roughness of the outline in [0, 1]: the radius along it is a fractional Brownian loop with Hurst exponent
        1 - roughness (Fourier mode m falls as m^-(1.5 - roughness)).
    hurst
        Hurst exponents of tissue and lesion. The second one is used by the cue ``hurst`` alone.
    strength
        For ``mean``: how much darker, in standard deviations of the texture. For ``contrast``: the relative increase
        of the standard deviation. Unused by ``hurst``.
    speckle
        For ``ultrasound``: the share that remains of a single look's speckle contrast of 5.6 dB, in [0, 1]; scanners
        average several looks.
    first
        Index of the first image, to continue a set or to keep training and test images apart.

    Returns
    -------
    images : ndarray
        Shape (count, 3, size, size), float32 in [0, 1]; the three channels are equal for ``ultrasound``.
    masks : ndarray
        Shape (count, 1, size, size), float32, 1 in the lesion and 0 elsewhere.

    Raises
    ------
    ValueError
        An unknown look or cue; a count, size, roughness, exponent, strength or speckle out of range.

    Notes
    -----
    Under ``hurst`` variance is that about the region's own mean. A rough small region needs more fine detail for the
    same variance than a large one, so two equal exponents are no exact null: take the cue ``mean`` as the control.
    Cost: 3 to 5 ms an image of 128 x 128 on one core.

    Examples
    --------
    >>> images, masks = lesion_phantoms(2, 0, size=32)
    >>> images.shape, masks.shape
    ((2, 3, 32, 32), (2, 1, 32, 32))
    """
    if look not in LOOKS:
        raise ValueError(f"look is {look!r}: expected one of {', '.join(LOOKS)}")
    if cue not in CUES:
        raise ValueError(f"cue is {cue!r}: expected one of {', '.join(CUES)}")
    if count < 0 or size < 16 or first < 0 or seed < 0:
        raise ValueError(
            f"count is {count}, size {size}, first {first}, seed {seed}: expected size >= 16, the others >= 0"
        )
    if not 0 <= roughness <= 1:
        raise ValueError(f"roughness is {roughness}: expected 0 (smooth outline) to 1 (ragged)")
    if strength < 0:
        raise ValueError(f"strength is {strength}: expected 0 (no difference) or more")
    if not 0 <= speckle <= 1:
        raise ValueError(f"speckle is {speckle}: expected 0 (none) to 1 (a single look, fully developed)")
    tissue, lesion = (float(value) for value in hurst)
    _check_hurst(tissue)
    _check_hurst(lesion)
    images = np.empty((count, 3, size, size), np.float32)
    masks = np.empty((count, 1, size, size), np.float32)
    for n in range(count):
        # one image after the other: batched transforms would round differently with the length of the batch
        rng = np.random.default_rng((seed, first + n))
        mask = _lesion(rng, size, roughness)
        texture = _texture(rng, mask, cue, hurst=(tissue, lesion), strength=strength)
        images[n] = _rendered(rng, texture, look, speckle=speckle)
        masks[n, 0] = mask
    return images, masks
