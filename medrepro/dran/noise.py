"""Noise laws with exact moments (Sharif, Naqvi, Biswas 2020; authors' code sharif-apu/MID-DRAN, commit 0ace2d3).

Intensities are in [0, 1] here; the network's unit is [-1, 1], where every width and standard deviation is twice as
large. Preset ``authors_code`` is the uniform, positive law of the public code, ``paper`` the Gaussian one of the text.
Nothing is clipped. Parameters are numbers, or tensors that broadcast against the images, e.g. (B, 1, 1, 1).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

MAX_WIDTH = 0.1**0.3  # largest width of the authors' training draw, in [-1, 1] units: level 50.1
LEVELS = (15, 25, 50)  # levels that the authors name

Parameter = float | Tensor


@dataclass(frozen=True)
class Uniform:
    """``clean + n``, n uniform on (0, width): mean width / 2, standard deviation width / sqrt(12)."""

    width: Parameter

    def add(self, clean: Tensor, generator: Generator) -> Tensor:
        """Noisy images, same shape."""
        return clean + torch.rand(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype) * self.width

    def mean(self, clean: Tensor) -> Tensor:
        """Mean of ``noisy - clean`` at every pixel."""
        return torch.zeros_like(clean) + self.width / 2

    def sd(self, clean: Tensor) -> Tensor:
        """Standard deviation of ``noisy - clean`` at every pixel."""
        return torch.zeros_like(clean) + self.width / 12**0.5


@dataclass(frozen=True)
class Gaussian:
    """``clean + n``, n normal with mean 0 and standard deviation sigma."""

    sigma: Parameter

    def add(self, clean: Tensor, generator: Generator) -> Tensor:
        """Noisy images, same shape."""
        return clean + self.sigma * _normal(clean, generator)

    def mean(self, clean: Tensor) -> Tensor:
        """Mean of ``noisy - clean``: 0."""
        return torch.zeros_like(clean)

    def sd(self, clean: Tensor) -> Tensor:
        """Standard deviation of ``noisy - clean``: sigma."""
        return torch.zeros_like(clean) + self.sigma


@dataclass(frozen=True)
class Rician:
    r"""Magnitude of a complex image with Gaussian noise of standard deviation sigma in both parts, as in MR.

    With :math:`q = c^2 / 2\sigma^2` the mean of the noisy image is
    :math:`\sigma \sqrt{\pi/2}\, e^{-q/2} [(1 + q) I_0(q/2) + q I_1(q/2)]` and its second moment
    :math:`c^2 + 2 \sigma^2`; both follow from the Rice distribution.
    """

    sigma: Parameter

    def add(self, clean: Tensor, generator: Generator) -> Tensor:
        """Noisy magnitudes, same shape, non-negative."""
        real = clean + self.sigma * _normal(clean, generator)
        return torch.hypot(real, self.sigma * _normal(clean, generator))

    def mean(self, clean: Tensor) -> Tensor:
        """Mean of ``noisy - clean`` at every pixel: the bias, largest in the dark."""
        return (self._magnitude(clean) - clean.double()).to(clean.dtype)

    def sd(self, clean: Tensor) -> Tensor:
        """Standard deviation of ``noisy - clean`` at every pixel."""
        second = clean.double() ** 2 + 2 * torch.as_tensor(self.sigma, dtype=torch.float64) ** 2
        return (second - self._magnitude(clean) ** 2).clamp_min(0).sqrt().to(clean.dtype)

    def _magnitude(self, clean: Tensor) -> Tensor:
        sigma = torch.as_tensor(self.sigma, dtype=torch.float64)
        half = (clean.double() / sigma) ** 2 / 4
        bessel = (1 + 2 * half) * torch.special.i0e(half) + 2 * half * torch.special.i1e(half)
        return sigma * (torch.pi / 2) ** 0.5 * bessel


@dataclass(frozen=True)
class PoissonGaussian:
    """Counting noise of `photons` at intensity 1, plus Gaussian noise: mean 0, variance c / photons + sigma^2."""

    photons: Parameter
    sigma: Parameter = 0.0

    def add(self, clean: Tensor, generator: Generator) -> Tensor:
        """Noisy images, same shape; `clean` must not be negative."""
        _non_negative(clean, "a Poisson law")
        counts = torch.poisson(clean * self.photons, generator=generator)
        return counts / self.photons + self.sigma * _normal(clean, generator)

    def mean(self, clean: Tensor) -> Tensor:
        """Mean of ``noisy - clean``: 0."""
        return torch.zeros_like(clean)

    def sd(self, clean: Tensor) -> Tensor:
        """Standard deviation of ``noisy - clean`` at every pixel."""
        return (clean / self.photons + self.sigma**2) ** 0.5


@dataclass(frozen=True)
class Speckle:
    """``clean * g``, g the mean of `looks` unit exponentials, as in ultrasound: mean 0, deviation c / sqrt(looks)."""

    looks: int = 1

    def add(self, clean: Tensor, generator: Generator) -> Tensor:
        """Noisy images, same shape."""
        if self.looks < 1:
            raise ValueError(f"looks is {self.looks}: speckle averages at least one")
        gain = sum(torch.empty_like(clean).exponential_(generator=generator) for _ in range(self.looks)) / self.looks
        return clean * gain

    def mean(self, clean: Tensor) -> Tensor:
        """Mean of ``noisy - clean``: 0."""
        return torch.zeros_like(clean)

    def sd(self, clean: Tensor) -> Tensor:
        """Standard deviation of ``noisy - clean`` at every pixel."""
        return clean.abs() / self.looks**0.5


Law = Uniform | Gaussian | Rician | PoissonGaussian | Speckle


def at_level(level: float, preset: str) -> Law:
    """Noise of a level as named in tables: ``authors_code`` uniform of width level / 200, ``paper`` sigma level / 255.

    Parameters
    ----------
    level
        15, 25, 50 in the paper; 0 is no noise.
    preset
        What the level means: a hundredth of the half range in the authors' code, a grey level of 255 in the text.

    Raises
    ------
    ValueError
        `level` is negative; the preset is unknown.

    Examples
    --------
    >>> at_level(50, "authors_code").width
    0.25
    """
    if level < 0:
        raise ValueError(f"level is {level}: a noise level is not negative")
    return _of_preset(preset, lambda: Uniform(level / 200), lambda: Gaussian(level / 255))


def blind(count: int, preset: str, generator: Generator, *, max_level: float = 50.0) -> Law:
    """Noise with a level of its own for each image of a batch, as for blind training.

    Parameters
    ----------
    count
        Images in the batch.
    preset
        ``authors_code``: width s ~ U(0, 0.1^0.3) in [-1, 1] units, half of that here. ``paper``: sigma ~ U(0,
        `max_level`) / 255, our choice, since the text as far as it could be recovered names levels only.
    generator
        Source of the draw, on the device of the images.
    max_level
        Upper end for ``paper``.
    """
    draw = torch.rand(count, 1, 1, 1, generator=generator, device=generator.device)
    return _of_preset(preset, lambda: Uniform(draw * (MAX_WIDTH / 2)), lambda: Gaussian(draw * (max_level / 255)))


def expected_psnr(law: Uniform | Gaussian) -> float:
    """PSNR in dB, peak 1, of an image under a law that is the same at every pixel: ``-10 log10(mean^2 + sd^2)``.

    Examples
    --------
    >>> round(expected_psnr(at_level(50, "authors_code")), 2), round(expected_psnr(at_level(50, "paper")), 2)
    (16.81, 14.15)
    """
    zero = torch.zeros((), dtype=torch.float64)
    return float(-10 * torch.log10(law.mean(zero) ** 2 + law.sd(zero) ** 2))


def bias_bound(law: Uniform) -> float:
    """Highest PSNR in dB, peak 1, of any method that keeps the mean of the noisy image.

    Examples
    --------
    >>> round(bias_bound(at_level(50, "authors_code")), 2)
    18.06
    """
    return float(-20 * torch.log10(law.mean(torch.zeros((), dtype=torch.float64))))


def _of_preset(preset: str, authors: Callable[[], Law], paper: Callable[[], Law]) -> Law:
    if preset not in ("authors_code", "paper"):
        raise ValueError(f"preset is {preset!r}: choose authors_code (uniform noise) or paper (Gaussian noise)")
    return authors() if preset == "authors_code" else paper()


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _non_negative(clean: Tensor, law: str) -> None:
    if bool((clean < 0).any()):
        raise ValueError(f"{law} needs intensities of at least 0, got {float(clean.min()):.4g}: use the range [0, 1]")
