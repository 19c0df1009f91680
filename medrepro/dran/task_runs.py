"""Does denoising help afterwards? Lesion finders trained on clean or noisy images, tested on both and on denoised ones."""

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from medrepro.data.phantoms import lesion_phantoms
from medrepro.dran.denoising_data import with_noise
from medrepro.dran.denoising_runs import classical
from medrepro.dran.inference import denoise_batch
from medrepro.dran.noise import at_level
from medrepro.dran.rivals import CLASSICAL
from medrepro.dran.trained import trained_network
from medrepro.imports import without_address_grammar
from medrepro.training import TensorBatches, fit

TRAINED_ON = ("clean", "noisy")
SHOWN = ("clean", "noisy", "non-local means", "DRAN")  # what the fixed finders are given
TASKS = ("dice", "detected", "area")
HEAT = 2.0  # pixels: Gaussian that smooths a probability map into a heat map
TEST_SEED = 20_000


def lesions(count: int, seed: int, *, size: int) -> tuple[Tensor, Tensor]:
    """Phantoms (count, 3, size, size) with masks (count, 1, size, size); every other one has no lesion, and no mask.

    The look is ``ultrasound`` with a darker lesion, and with little speckle of its own, since noise is added later.
    """
    options = {"size": size, "look": "ultrasound", "cue": "mean", "speckle": 0.05}
    half = -(-count // 2)
    with_lesion = lesion_phantoms(half, seed, strength=1.5, **options)
    without = lesion_phantoms(half, seed, strength=0.0, first=half, **options)
    images = np.stack([with_lesion[0], without[0]], 1).reshape(-1, 3, size, size)[:count]
    masks = np.stack([with_lesion[1], np.zeros_like(without[1])], 1).reshape(-1, 1, size, size)[:count]
    return torch.from_numpy(images), torch.from_numpy(masks)


def finder(features: int, seed: int) -> nn.Module:
    """A small U-Net of MONAI that gives a logit of "lesion" for every pixel."""
    with without_address_grammar():
        from monai.networks.nets import BasicUNet

    widths = [features, features, 2 * features, 2 * features, 4 * features, features]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BasicUNet(spatial_dims=2, in_channels=3, out_channels=1, features=widths)


def measured(net: nn.Module, images: Tensor, masks: Tensor) -> dict[str, float]:
    """Dice, detection rate and ROC area of a finder.

    ``dice``: mean over images with a lesion, map cut at 1/2. ``detected``: share of them whose heat map is highest
    inside the lesion. ``area``: area under the ROC curve of that highest value, images with against without.
    """
    from sklearn.metrics import roc_auc_score

    with torch.no_grad():
        prob = torch.sigmoid(net.eval()(images))[:, 0].numpy()
    truth = masks[:, 0].numpy() > 0.5
    heat = np.stack([ndimage.gaussian_filter(one, HEAT) for one in prob])
    peaks = heat.reshape(len(heat), -1).argmax(1)
    has = truth.any((1, 2))
    hard = prob >= 0.5
    dice = 2 * (hard & truth).sum((1, 2)) / np.maximum(hard.sum((1, 2)) + truth.sum((1, 2)), 1)
    inside = truth.reshape(len(truth), -1)[np.arange(len(truth)), peaks]
    area = roc_auc_score(has, heat.reshape(len(heat), -1).max(1))
    return {"dice": float(dice[has].mean()), "detected": float(inside[has].mean()), "area": float(area)}


def finders_on_denoised(
    *, denoiser: Any, level: float, seed: int, num_train: int, num_test: int, size: int, features: int, num_epochs: int,
) -> dict[str, Any]:  # fmt: skip
    """Train two finders, on clean and on noisy images, and test both on clean, noisy and denoised ones.

    Parameters
    ----------
    denoiser
        A stored training of `train_denoiser` that kept its weights; its law is that of the noise here. It has never
        seen these phantoms.
    level
        Noise level.
    seed
        Of weights, phantoms and noise of the training.
    num_train, num_test, size
        Phantoms, half of them with a lesion, and their side in pixels.
    features, num_epochs
        Width of the finders; epochs of batches of 8.

    Returns
    -------
    dict
        ``arrays``: ``dice``, ``detected``, ``area``, each (finders, images shown) as in `TRAINED_ON` and `SHOWN`.
    """
    law = at_level(level, denoiser.settings["noise"])
    clean, masks = lesions(num_train, seed, size=size)
    noisy = with_noise(clean, law, seed=seed + 1)
    test, truth = lesions(num_test, TEST_SEED, size=size)
    spoilt = with_noise(test, law, seed=99)
    told = torch.from_numpy(classical(CLASSICAL["non-local means"], spoilt - law.mean(spoilt), law)).float()
    shown = dict(zip(SHOWN, (test, spoilt, told, denoise_batch(trained_network(denoiser), spoilt)), strict=True))
    arrays = {task: np.empty((len(TRAINED_ON), len(SHOWN))) for task in TASKS}
    for row, given in enumerate((clean, noisy)):
        net = finder(features, seed)
        generator = torch.Generator().manual_seed(seed)
        fit(
            net,
            TensorBatches(given, masks, batch_size=8, shuffle=True, generator=generator),
            loss=lambda logits, mask: F.binary_cross_entropy_with_logits(logits, mask),
            optimiser=partial(torch.optim.Adam, lr=3e-3, fused=True),
            num_epochs=num_epochs,
            seed=seed,
        )
        for column, images in enumerate(shown.values()):
            for task, value in measured(net, images, truth).items():
                arrays[task][row, column] = value
    return {"metrics": {"num_train": num_train, "num_test": num_test}, "arrays": arrays}
