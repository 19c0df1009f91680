"""Runs of the chapter: one training of a denoiser with its test, and the classical methods on the same noisy images."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrepro.dran.cnn_rivals import DnCNN, dynamic_dncnn, residual_mid_like
from medrepro.dran.denoising_data import LOOKS, NoisyCrops, clean_test, pair, training_images, with_noise
from medrepro.dran.inference import STATISTICS, denoise_batch, recalibrate
from medrepro.dran.network import DRAN
from medrepro.dran.noise import LEVELS, Gaussian, Uniform, at_level, blind
from medrepro.dran.quality import offset, psnr, ssim
from medrepro.dran.rivals import CLASSICAL, Rival, channel_average
from medrepro.dran.skip import with_skip
from medrepro.training import check_device, fit

NOISES = ("authors_code", "paper")
WAYS = (*STATISTICS, "recalibrated")  # batch norm at test time
RATES = ("one_cycle", "constant")
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss}
MODELS: dict[str, Callable[..., nn.Module]] = {
    "dran": partial(DRAN, "paper"),
    "dran_shared": partial(DRAN, "authors_code"),
    "dncnn": DnCNN,
    "dynamic_dncnn": dynamic_dncnn,
    "residual_mid_like": residual_mid_like,
}
QUALITIES = ("psnr", "ssim", "offset")
NUM_EPOCHS = 20  # parts that a training is told in: history, rate and temperature change from part to part
RISE = 0.3  # share of a training over which the one-cycle rate rises
START = 25.0  # the one-cycle rate begins at its peak over this number


def one_cycle(epoch: int, num_epochs: int = NUM_EPOCHS) -> float:
    """Factor on the peak rate: a cosine up over 30 % of the epochs, and a cosine down to almost 0.

    Examples
    --------
    >>> [round(one_cycle(epoch), 2) for epoch in (0, 6, 13, 19)]
    [0.06, 1.0, 0.44, 0.0]
    """
    place = (epoch + 0.5) / num_epochs  # the middle of the epoch
    if place < RISE:
        return 1 / START + (1 - 1 / START) * (1 - math.cos(math.pi * place / RISE)) / 2
    return (1 + math.cos(math.pi * (place - RISE) / (1 - RISE))) / 2


def build(model: str, *, seed: int, network: Mapping[str, Any] | None = None, skip: str = "gate") -> nn.Module:
    """A fresh network under a seed.

    Parameters
    ----------
    model
        One of `MODELS`.
    network
        Keywords of the network.
    skip
        Skip path of a DRAN, see `with_skip`.

    Raises
    ------
    ValueError
        Unknown model; another skip path for a network without one.
    """
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MODELS[model](**(network or {}))
        if skip != "gate" and not isinstance(net, DRAN):
            raise ValueError(f"{model} has no skip path: skip={skip!r} is for DRAN")
        return with_skip(net, skip) if isinstance(net, DRAN) else net


def train_denoiser(
    *,
    model: str,
    noise: str,
    seed: int,
    steps: int,
    looks: Sequence[str] = LOOKS,
    level: float | None = None,
    num_images: int,
    size: int,
    crop: int,
    batch_size: int,
    lr: float,
    rate: str = "one_cycle",
    betas: Sequence[float] = (0.5, 0.99),
    loss: str = "l1",
    annealed: bool = False,
    network: Mapping[str, Any] | None = None,
    skip: str = "gate",
    test_images: int,
    test_size: int,
    levels: Sequence[float] = LEVELS,
    test_looks: Sequence[str] = LOOKS,
    recalibration: int = 50,
    keep_weights: bool = False,
    device: str = "cpu",
    scratch: Path | None = None,
) -> dict[str, Any]:
    """Train a noise predictor on phantoms, and test it under both laws of noise.

    Parameters
    ----------
    model, network, skip
        As in `build`.
    noise, level
        Law in training, and its level; None is blind: every image has a level of its own.
    seed
        Of weights, phantoms, crops and noise.
    steps
        Optimiser steps, a multiple of 20.
    looks, num_images, size, crop, batch_size
        Training phantoms: looks in turn, how many, side in pixels; side of a crop, crops a step.
    lr, rate, betas, loss
        Adam's rate (the peak of ``one_cycle``), its course, its betas; ``l1`` or ``l2`` of the noise in [-1, 1] units.
    annealed
        Lower the temperature of the attention by 3 at every twentieth of the training, down to 1.
    test_looks, test_images, test_size, levels
        Test phantoms of each look, which no training sees; noise levels of the test.
    recalibration
        Batches over which the statistics of the way ``recalibrated`` are averaged.
    keep_weights
        Bring the weights along.

    Returns
    -------
    dict
        ``metrics``; ``history``, a row a twentieth of the training; ``arrays``: ``psnr``, ``ssim`` (7 x 7), ``offset``,
        each (laws, batch-norm ways, looks, levels, images), laws as in `NOISES`, ways as in `WAYS`.

    Raises
    ------
    ValueError
        An unknown name; steps that 20 does not divide; annealing of a network without attention.
    """
    check_device(device)
    for name, value, known in (("rate", rate, RATES), ("loss", loss, LOSSES), ("noise", noise, NOISES)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}: choose one of {', '.join(known)}")
    if steps < NUM_EPOCHS or steps % NUM_EPOCHS:
        raise ValueError(f"steps is {steps}: give a multiple of {NUM_EPOCHS}")
    net = build(model, seed=seed, network=network, skip=skip)
    if annealed and not isinstance(net, DRAN):
        raise ValueError(f"annealed is for DRAN, {model} keeps its temperature")
    generator = torch.Generator().manual_seed(seed)
    clean = training_images(looks, num_images, seed, size=size)
    crops = partial(NoisyCrops, clean, noise, level, crop, batch_size, generator=generator)
    validation = [_validation_batch(looks, noise, level, seed, size)]

    def schedule(epoch: int) -> float:
        if annealed and epoch:
            net.cool()
        return one_cycle(epoch) if rate == "one_cycle" else 1.0

    trained = fit(
        net,
        crops(steps // NUM_EPOCHS),
        validation,
        loss=LOSSES[loss],
        optimiser=partial(torch.optim.Adam, lr=lr, betas=tuple(betas), fused=True),
        num_epochs=NUM_EPOCHS,
        scores={"l1": _l1_per_image},
        seed=seed,
        device=device,
        schedule=schedule,
        scratch=None if annealed else scratch,  # a temperature lies in no checkpoint of the loop
    )
    metrics = {
        "best_epoch": trained.best_epoch,
        "best_val_loss": trained.best,
        "diverged": trained.diverged,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "predicted_on_clean": _mean_output(net, test_looks, test_size),
    }
    kept = {name: tensor.clone() for name, tensor in net.state_dict().items()}  # the test recalibrates its statistics
    weights = {"weights": kept} if keep_weights else {}
    arrays = _tested(net, crops(recalibration), test_looks, test_images, test_size, levels)
    return {"metrics": metrics, "history": trained.history, "arrays": arrays, **weights}


def classical_scores(
    *,
    noise: str,
    methods: Sequence[str] = tuple(CLASSICAL),
    levels: Sequence[float] = LEVELS,
    test_looks: Sequence[str] = LOOKS,
    test_images: int,
    test_size: int,
) -> dict[str, Any]:
    """Quality of the classical methods on the test images of `train_denoiser`, under one law of noise.

    Parameters
    ----------
    noise
        ``authors_code`` or ``paper``.
    methods
        Names of `CLASSICAL`; those that are told the standard deviation are told the true one.
    levels, test_looks, test_images, test_size
        As in `train_denoiser`.

    Returns
    -------
    dict
        ``arrays``: ``psnr``, ``ssim``, ``offset``, each (starts, methods, looks, levels, images). The starts: the image
        as it is, minus the noise's mean, and minus it with channels averaged (NaN on coloured looks).
    """
    shape = (3, len(methods), len(test_looks), len(levels), test_images)
    arrays = {name: np.full(shape, np.nan, np.float32) for name in QUALITIES}
    for (r, look), (v, level) in itertools.product(enumerate(test_looks), enumerate(levels)):
        clean = clean_test(look, test_images, size=test_size)
        law = at_level(level, noise)
        noisy = with_noise(clean, law, seed=v)
        begun = dict(enumerate(starts(noisy, clean, law)))
        if torch.equal(begun[0], begun[1]):
            del begun[1]  # noise without a mean: twice the same
        for (start, images), (m, name) in itertools.product(begun.items(), enumerate(methods)):
            if images is None:
                continue
            denoised = classical(CLASSICAL[name], images, law, averaged=start == 2)
            for quality, values in qualities(denoised, clean).items():
                arrays[quality][start, m, r, v] = values
        if 1 not in begun:
            for values in arrays.values():
                values[1, :, r, v] = values[0, :, r, v]
    return {"metrics": {"images": len(test_looks) * test_images}, "arrays": arrays}


def qualities(denoised: Tensor | np.ndarray, clean: Tensor) -> dict[str, np.ndarray]:
    """PSNR in dB, SSIM and offset in grey levels of each image."""
    return {"psnr": psnr(denoised, clean), "ssim": ssim(denoised, clean), "offset": offset(denoised, clean)}


def starts(noisy: Tensor, clean: Tensor, law: Uniform | Gaussian) -> list[Tensor | None]:
    """What a classical method is given: noisy images, minus the mean, minus it and averaged (None where coloured)."""
    centred = noisy - law.mean(clean)
    grey = bool((clean == clean[:, :1]).all())
    averaged = [torch.from_numpy(channel_average(image.permute(1, 2, 0).numpy())).permute(2, 0, 1) for image in centred]
    return [noisy, centred, torch.stack(averaged) if grey else None]


def classical(rival: Rival, images: Tensor, law: Uniform | Gaussian, *, averaged: bool = False) -> np.ndarray:
    """Denoised images (B, 3, H, W) of a classical method that is told the true deviation; averaging divides it by sqrt 3.

    Averaged images are denoised as the grey images that they are.
    """
    sd = float(law.sd(torch.zeros(()))) / (3**0.5 if averaged else 1)
    told = {"sd": sd} | ({"mean": 0.0} if "mean" in rival.told else {})  # the mean is off already
    results = []
    for image in images:
        given = image[0].numpy() if averaged else image.permute(1, 2, 0).numpy()
        result = rival(given, **told)
        results.append(np.repeat(result[None], 3, 0) if averaged else result.transpose(2, 0, 1))
    return np.stack(results)


def _validation_batch(looks: Sequence[str], noise: str, level: float | None, seed: int, size: int) -> tuple:
    """Images under seeds of their own, with levels spread over the range of training."""
    generator = torch.Generator().manual_seed(seed + 1)
    clean = training_images(looks, 2 * len(looks), seed + 5_000, size=size)
    law = blind(len(clean), noise, generator) if level is None else at_level(level, noise)
    return pair(clean, law, generator)


def _l1_per_image(predicted: Tensor, noise: Tensor) -> Tensor:
    return (predicted - noise).abs().flatten(1).mean(1)


def _mean_output(net: nn.Module, looks: Sequence[str], size: int) -> float:
    """Mean |F| on clean images: what the network takes for noise where there is none."""
    clean = torch.cat([clean_test(look, 1, size=size) for look in looks]).to(_device(net))
    with torch.no_grad():
        return float(net(2 * clean - 1).abs().mean())


def _device(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def _tested(
    net: nn.Module, crops: NoisyCrops, looks: Sequence[str], count: int, size: int, levels: Sequence[float],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Arrays of `train_denoiser`; afterwards the network holds recalibrated statistics."""
    shape = (len(NOISES), len(WAYS), len(looks), len(levels), count)
    arrays = {name: np.empty(shape, np.float32) for name in QUALITIES}
    for w, way in enumerate(WAYS):
        if way == "recalibrated":
            recalibrate(net, (noisy.to(_device(net)) for noisy, _ in crops))
        for (n, preset), (r, look) in itertools.product(enumerate(NOISES), enumerate(looks)):
            clean = clean_test(look, count, size=size)
            noisy = [with_noise(clean, at_level(tested, preset), seed=v) for v, tested in enumerate(levels)]
            given = torch.cat(noisy).to(_device(net))
            denoised = denoise_batch(net, given, statistics="image" if way == "image" else "running")
            for name, values in qualities(denoised, clean.repeat(len(levels), 1, 1, 1)).items():
                arrays[name][n, w, r] = values.reshape(len(levels), count)
    return arrays
