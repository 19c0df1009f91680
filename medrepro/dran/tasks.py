"""Real noise and what comes after denoising: tables and figures."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

from medrepro import plotting
from medrepro.data.packaged import packaged_entry, packaged_image, packaged_volume
from medrepro.dran.denoising_data import LOOKS, clean_test, with_noise
from medrepro.dran.inference import denoise_batch
from medrepro.dran.noise import at_level
from medrepro.dran.quality import psnr
from medrepro.dran.rivals import CLASSICAL
from medrepro.dran.task_runs import SHOWN, TASKS, TRAINED_ON
from medrepro.metrics import interval

NAMES = {"dice": "Dice", "detected": "detection rate", "area": "ROC area"}
REAL = {
    "ct-head": "CT", "mr-abdomen": "MR", "us-heart": "ultrasound", "ihc": "histology", "retina": "fundus", "cell": "phase contrast",
}  # fmt: skip

Denoiser = Callable[[np.ndarray, float], np.ndarray]  # grey image (H, W), deviation of its noise


def blind_network(net: nn.Module) -> Denoiser:
    """A network of three channels for grey images: the image thrice, the mean of the three results, nothing told."""

    def denoiser(image: np.ndarray, sd: float) -> np.ndarray:
        stacked = torch.from_numpy(np.ascontiguousarray(image, np.float32)).expand(1, 3, *image.shape)
        return denoise_batch(net, stacked)[0].mean(0).numpy()

    return denoiser


def denoisers(net: nn.Module) -> dict[str, Denoiser]:
    """Methods for grey images; the classical ones are told the deviation."""
    told = {
        name: (lambda image, sd, rival=CLASSICAL[name]: rival(image, sd=sd))
        for name in ("total variation", "non-local means")
    }
    return {"left as it is": lambda image, sd: image, **told, "DRAN": blind_network(net)}


def repeats_table(net: nn.Module, *, volume: str = "epi", every: int = 4) -> pd.DataFrame:
    r"""Denoising of one real acquisition, judged by a second one of the same slice.

    Both repeats are :math:`c + n_i` with independent noise, so that :math:`\overline{(v_1 - v_2)^2} = 2 \sigma^2` and
    :math:`\overline{(\hat c(v_1) - v_2)^2} = \overline{(\hat c - c)^2} + \sigma^2`: the error of the denoised image is
    known without a clean one.

    Parameters
    ----------
    net
        Noise predictor of three channels.
    volume
        Packaged volume whose fourth axis holds two repeats.
    every
        Take every so manieth slice; neighbours are too alike to count twice.

    Returns
    -------
    DataFrame
        Columns ``method``, ``slice``, ``sd`` (of the noise, share of the range), ``gain`` (dB, error of the acquisition
        over error of the result; NaN where the estimated error is not positive).
    """
    array = packaged_volume(volume)[0]
    inside = array[..., 0] > 0.1  # the head: air holds next to no noise
    sd = float(np.sqrt(((array[..., 0] - array[..., 1])[inside] ** 2).mean() / 2))
    rows = []
    for plane in range(every // 2, array.shape[2], every):
        first, second, head = array[:, :, plane, 0], array[:, :, plane, 1], inside[:, :, plane]
        if head.sum() < 500:
            continue
        noise = float(((first - second)[head] ** 2).mean() / 2)
        for name, denoiser in denoisers(net).items():
            error = float(((denoiser(first, sd) - second)[head] ** 2).mean()) - noise
            gain = 10 * np.log10(noise / error) if error > 0 else np.nan
            rows.append({"method": name, "slice": plane, "sd": np.sqrt(noise), "gain": gain})
    return pd.DataFrame(rows)


def repeats_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean gain of each method over slices with a 95 % interval."""
    rows = []
    for name, part in table.groupby("method", sort=False):
        known = part["gain"].dropna()
        rows.append(
            {"method": name, "slices": len(known), "gain (dB)": f"{interval(known):+.2f}" if len(known) else "–"}
        )
    return pd.DataFrame(rows)


def no_reference_table(net: nn.Module, *, size: int = 128) -> pd.DataFrame:
    """Real images without a reference: estimated noise before and after, and whether what was taken off is white.

    Returns
    -------
    DataFrame
        Columns ``image``, ``noise before`` (wavelet estimate of the deviation, grey levels of 255), and for each method
        ``noise after`` and ``neighbours``, the correlation of what was taken off with its right neighbour (white: 0).
    """
    from skimage.restoration import estimate_sigma

    rows = []
    for name, kind in REAL.items():
        image = packaged_image(name, size=size)
        image = image if image.ndim == 2 else image.mean(-1)
        before = float(estimate_sigma(image))
        row = {"image": f"{kind} ({packaged_entry(name).package})", "noise before": 255 * before}
        for method, denoiser in denoisers(net).items():
            if method in ("non-local means", "DRAN"):
                result = denoiser(image, before)
                row[f"{method}: noise after"] = 255 * float(estimate_sigma(result))
                row[f"{method}: neighbours"] = _neighbours(image - result)
        rows.append(row)
    return pd.DataFrame(rows)


def _neighbours(taken: np.ndarray) -> float:
    centred = taken - taken.mean()
    return float((centred[:, 1:] * centred[:, :-1]).mean() / max(float((centred**2).mean()), 1e-20))


def equal_channels_table(net: nn.Module, *, size: int, count: int = 2, level: float = 25) -> pd.DataFrame:
    """PSNR gain on grey phantoms whose three channels hold independent noise, as in training, or one and the same."""
    rows = []
    law = at_level(level, "paper")
    for look in [look for look in LOOKS if look != "dermoscopy"]:
        clean = clean_test(look, count, size=size)
        independent = with_noise(clean, law, seed=7)
        row = {"look": look}
        for name, noisy in (
            ("independent", independent),
            ("the same", independent[:, :1].expand_as(clean).contiguous()),
        ):
            row[name] = float((psnr(denoise_batch(net, noisy), clean) - psnr(noisy, clean)).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def tasks_table(results: Sequence[Any]) -> pd.DataFrame:
    """Every task at every level: finders trained on clean or noisy images, given clean, noisy or denoised ones.

    Returns
    -------
    DataFrame
        Columns ``level``, ``trained on``, ``given``, ``n`` seeds, and for each task its mean with a 95 % interval; the
        means alone in ``dice``, ``detected`` and ``area``.
    """
    rows = []
    for level in dict.fromkeys(one.settings["level"] for one in results):
        own = [one for one in results if one.settings["level"] == level]
        for row, trained in enumerate(TRAINED_ON):
            for column, given in enumerate(SHOWN):
                values = {task: [float(one.arrays[task][row, column]) for one in own] for task in TASKS}
                rows.append(
                    {"level": level, "trained on": trained, "given": given, "n": len(own)}
                    | {NAMES[task]: f"{interval(found):.2f}" for task, found in values.items()}
                    | {task: float(np.mean(found)) for task, found in values.items()}
                )
    return pd.DataFrame(rows)


def differences(results: Sequence[Any], level: float, task: str) -> dict[str, str]:
    """What denoising with DRAN brings a finder trained on clean images, and a finder trained on noisy ones instead.

    Both against the finder that was trained on clean images and is given noisy ones; paired by seed, 95 % intervals.
    """
    own = [one.arrays[task] for one in results if one.settings["level"] == level]
    cell = lambda trained, given: np.array([a[TRAINED_ON.index(trained), SHOWN.index(given)] for a in own])
    plain = cell("clean", "noisy")
    return {
        "denoised": f"{interval(cell('clean', 'DRAN') - plain):+.2f}",
        "trained on noisy": f"{interval(cell('noisy', 'noisy') - plain):+.2f}",
    }


def tasks_figure(table: pd.DataFrame) -> plt.Figure:
    """A panel a task: mean score by what the finder is given, a line for each level and kind of training."""
    figure, axes = plt.subplots(1, len(TASKS), figsize=(plotting.WIDTH, 3.4))
    for axis, task in zip(axes, TASKS, strict=True):
        for n, ((level, trained), part) in enumerate(table.groupby(["level", "trained on"], sort=False)):
            axis.plot(part["given"], part[task], label=f"level {level}, trained on {trained}", **plotting.look(n))
        axis.set_title(NAMES[task])
        axis.set_ylim(0, 1.03)
        axis.tick_params(axis="x", rotation=60)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
