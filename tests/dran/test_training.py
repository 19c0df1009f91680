"""Short trainings: the network learns, from what it is given, at the margins that were measured (slow)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medrepro.dran.inference import denoise_batch
from medrepro.dran.network import DRAN
from medrepro.dran.noise import Gaussian, Uniform, at_level, blind
from medrepro.dran.quality import psnr

pytestmark = pytest.mark.slow


def ellipses(count: int, size: int, seed: int) -> Tensor:
    """Colour images of overlapping ellipses on a dark ground, (count, 3, size, size) in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    images = np.zeros((count, 3, size, size), np.float32)
    for image in images:
        image += rng.uniform(0.05, 0.2)
        for _ in range(8):
            (r, c), (a, b), turn = rng.uniform(0.1, 0.9, 2), rng.uniform(0.05, 0.35, 2), rng.uniform(0, np.pi)
            u = (rows - r) * np.cos(turn) + (columns - c) * np.sin(turn)
            v = (columns - c) * np.cos(turn) - (rows - r) * np.sin(turn)
            image[:, (u / a) ** 2 + (v / b) ** 2 < 1] = rng.uniform(0.1, 0.9, (3, 1))
    return torch.from_numpy(images)


def train(net: DRAN, draw, steps: int, seed: int = 0) -> list[float]:
    """Adam, one cycle of the rate, L1 of the noise in [-1, 1] units, crops of 32, batches of 8; every step's loss."""
    generator = torch.Generator().manual_seed(seed)
    images = ellipses(200, 64, seed)
    optimiser = torch.optim.Adam(net.train().parameters(), 1e-3, betas=(0.5, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, cycle_momentum=False)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(200, (8,), generator=generator)
        row, column = torch.randint(33, (2,), generator=generator)
        clean = images[chosen, :, row : row + 32, column : column + 32]
        noisy = draw(generator).add(clean, generator)
        loss = F.l1_loss(net(2 * noisy - 1), 2 * (noisy - clean))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    net.eval()
    return losses


def gain(net: DRAN, law: Uniform | Gaussian) -> float:
    """PSNR of denoised over noisy images in dB, mean over unseen ones."""
    clean = ellipses(6, 96, 1000)
    noisy = law.add(clean, torch.Generator().manual_seed(5))
    return float((psnr(denoise_batch(net, noisy), clean) - psnr(noisy, clean)).mean())


@pytest.fixture(scope="module")
def gaussian_net() -> DRAN:
    torch.manual_seed(0)
    net = DRAN("paper", features=16, layers=2)
    train(net, lambda generator: at_level(25, "paper"), 200)
    return net


@pytest.fixture(scope="module")
def uniform_net() -> tuple[DRAN, list[float]]:
    torch.manual_seed(0)
    net = DRAN("paper", features=16)
    return net, train(net, lambda generator: blind(8, "authors_code", generator), 100)


def test_d22_200_steps_gain_three_decibels_on_gaussian_noise(gaussian_net):
    assert gain(gaussian_net, at_level(25, "paper")) > 3


def test_d22_100_steps_gain_four_decibels_on_the_authors_noise(uniform_net):
    net, losses = uniform_net
    assert gain(net, at_level(25, "authors_code")) > 4
    assert np.mean(losses[-20:]) < 0.8 * 0.1253  # the loss of predicting no noise


@pytest.mark.parametrize(("preset", "factor"), [("authors_code", 2.5), ("paper", 4.0)])
def test_d23_one_batch_is_overfitted(preset, factor):
    torch.manual_seed(0)
    net = DRAN(preset, features=16).train()
    clean = ellipses(4, 32, 3)
    noisy = at_level(25, "paper").add(clean, torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam(net.parameters(), 1e-3, betas=(0.5, 0.99))
    losses = []
    for _ in range(150):
        loss = F.l1_loss(net(2 * noisy - 1), 2 * (noisy - clean))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > factor * losses[-1]


def test_d27_clean_images_get_less_noise_predicted_than_noisy_ones(uniform_net):
    net, clean = uniform_net[0], ellipses(6, 96, 1000)
    noisy = at_level(15, "authors_code").add(clean, torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert net(2 * clean - 1).abs().mean() < net(2 * noisy - 1).abs().mean()
