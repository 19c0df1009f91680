"""Clean and noisy pairs of phantoms: crops for training, and test images whose noise every method shares."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from medrepro.data.modalities import MODALITIES, modality_phantoms
from medrepro.dran.noise import Law, at_level, blind

LOOKS = tuple(MODALITIES)
TEST_SEED = 10_000  # phantoms of training depend on the seed of the run, those of the test do not


@dataclass
class NoisyCrops:
    """Batches of random crops with fresh noise, as pairs (noisy, noise) in [-1, 1] units.

    Parameters
    ----------
    clean
        Images (n, 3, H, W) in [0, 1].
    preset
        Law of the noise: ``paper`` or ``authors_code``.
    level
        Noise level, or None for a level of its own for each image (blind training).
    crop, batch_size, num_batches
        Side of a crop in pixels; crops a batch; batches an epoch.
    generator
        Source of crops and noise.
    """

    clean: Tensor
    preset: str
    level: float | None
    crop: int
    batch_size: int
    num_batches: int
    generator: torch.Generator

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count, _, height, width = self.clean.shape
        draw = lambda high, number: torch.randint(high, (number,), generator=self.generator).tolist()
        for _ in range(self.num_batches):
            places = zip(
                draw(count, self.batch_size),
                draw(height - self.crop + 1, self.batch_size),
                draw(width - self.crop + 1, self.batch_size),
                strict=True,
            )
            crops = [self.clean[n, :, r : r + self.crop, c : c + self.crop] for n, r, c in places]
            yield pair(
                torch.stack(crops), law_of(self.preset, self.level, self.batch_size, self.generator), self.generator
            )


def law_of(preset: str, level: float | None, count: int, generator: torch.Generator) -> Law:
    """Law of one level, or of a random level for each of `count` images where the level is None."""
    return blind(count, preset, generator) if level is None else at_level(level, preset)


def pair(clean: Tensor, law: Law, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy images and their noise in the network's unit, [-1, 1], of clean ones in [0, 1]."""
    noisy = law.add(clean, generator)
    return 2 * noisy - 1, 2 * (noisy - clean)


def training_images(looks: Sequence[str], count: int, seed: int, *, size: int) -> Tensor:
    """Clean phantoms (count, 3, size, size) in [0, 1], the looks in turn; not to be written to: they are kept."""
    return _training_images(tuple(looks), count, seed, size)


@lru_cache(maxsize=2)  # of one seed, for training and validation: networks of a seed are trained one after the other
def _training_images(looks: tuple[str, ...], count: int, seed: int, size: int) -> Tensor:
    parts = [modality_phantoms(look, -(-count // len(looks)), seed, size=size) for look in looks]
    mixed = np.stack(parts, 1).reshape(-1, 3, size, size)
    return torch.from_numpy(mixed[:count])


@lru_cache(maxsize=len(LOOKS))
def clean_test(look: str, count: int, *, size: int) -> Tensor:
    """Clean test phantoms (count, 3, size, size): the same for every run, kept, and not to be written to."""
    return torch.from_numpy(modality_phantoms(look, count, TEST_SEED, size=size))


def with_noise(clean: Tensor, law: Law, *, seed: int) -> Tensor:
    """Noisy images whose noise depends on the seed and the place of an image alone, so that all methods share it."""
    draws = [law.add(image[None], torch.Generator().manual_seed(1000 * seed + n)) for n, image in enumerate(clean)]
    return torch.cat(draws)
