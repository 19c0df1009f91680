"""What the laws of noise add: tables and figures of moments, of free decibels, and of laws that other scanners follow."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import Tensor

from medrepro import plotting
from medrepro.dran.denoising_data import LOOKS, clean_test, with_noise
from medrepro.dran.noise import LEVELS, Law, PoissonGaussian, Rician, Speckle, at_level, bias_bound, expected_psnr
from medrepro.dran.quality import psnr

LAWS = {"authors_code": "uniform, positive", "paper": "Gaussian"}
#: Laws of other scanners, at strengths that look alike on the page.
OTHERS: dict[str, Law] = {
    "Rician (MR magnitude)": Rician(0.1),
    "Poisson-Gaussian (counting)": PoissonGaussian(60.0, 0.02),
    "speckle (ultrasound)": Speckle(20),
}
SIZE = 64  # pixels of the phantoms


def phantoms(*, count: int = 2, size: int = SIZE) -> Tensor:
    """Clean test phantoms of all looks, shape (6 count, 3, size, size)."""
    return torch.cat([clean_test(look, count, size=size) for look in LOOKS])


def histogram(level: float, *, draws: int = 200_000, seed: int = 0) -> tuple[plt.Figure, pd.DataFrame]:
    """Histogram of the noise of one level under both laws, in grey levels of 255, with mean and standard deviation.

    Parameters
    ----------
    level
        As in `at_level`.
    draws, seed
        Pixels drawn, and the seed of the draw.
    """
    figure, axes = plt.subplots(1, 2, figsize=(plotting.WIDTH, 2.9), sharey=True)
    rows = []
    for axis, (preset, name) in zip(axes, LAWS.items(), strict=True):
        law = at_level(level, preset)
        noise = 255 * law.add(torch.zeros(1, 1, 1, draws), torch.Generator().manual_seed(seed)).flatten().numpy()
        zero = torch.zeros(())
        mean, sd = 255 * float(law.mean(zero)), 255 * float(law.sd(zero))
        axis.hist(noise, bins=60, range=(-150, 150), density=True, color=plotting.COLOURS[list(LAWS).index(preset)])
        axis.axvline(mean, color="black")
        for side in (-sd, sd):
            axis.axvline(mean + side, color="black", linestyle=":")
        axis.set_title(f"{name}, level {level:g}\nmean {mean:.1f}, deviation {sd:.1f} (dotted)")
        axis.set_xlabel("grey levels of 255")
        rows.append({
            "law": name, "level": level, "mean": mean, "mean drawn": noise.mean(), "deviation": sd, "deviation drawn": noise.std(),
        })  # fmt: skip
    axes[0].set_ylabel("density")
    return figure, pd.DataFrame(rows)


def free_decibels(clean: Tensor, *, levels: tuple[float, ...] = LEVELS) -> pd.DataFrame:
    """PSNR in dB under the authors' law, theory beside measurement, before clipping.

    Parameters
    ----------
    clean
        Images (B, 3, H, W) in [0, 1].

    Returns
    -------
    DataFrame
        One row a level: width of the noise in grey levels, PSNR of the noisy image, of the best result that keeps the
        mean, and of the noisy image minus the mean; each by formula and measured over the images. What keeps the mean is
        measured on the clean image plus the mean of the drawn noise.
    """
    rows = []
    for place, level in enumerate(levels):
        law = at_level(level, "authors_code")
        noisy = with_noise(clean, law, seed=place)
        drawn = (noisy - clean).mean((1, 2, 3), keepdim=True)
        measured = {"noisy": noisy, "mean kept": clean + drawn, "minus mean": noisy - law.mean(clean)}
        theory = {
            "noisy": expected_psnr(law),
            "mean kept": bias_bound(law),
            "minus mean": -10 * np.log10(law.width**2 / 12),
        }
        row = {"level": level, "width": 255 * law.width}
        for name, images in measured.items():
            row[f"{name}, theory"] = theory[name]
            row[f"{name}, measured"] = float(psnr(images, clean, clip=False).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def clipping(clean: Tensor, *, levels: tuple[float, ...] = LEVELS) -> pd.DataFrame:
    """PSNR in dB of noisy images before and after clipping to [0, 1], under both laws, mean over images."""
    rows = []
    for preset, name in LAWS.items():
        for place, level in enumerate(levels):
            noisy = with_noise(clean, at_level(level, preset), seed=place)
            kept, clipped = (float(psnr(noisy, clean, clip=clip).mean()) for clip in (False, True))
            rows.append({"law": name, "level": level, "as drawn": kept, "clipped": clipped, "gain": clipped - kept})
    return pd.DataFrame(rows)


def averaging(clean: Tensor, *, level: float = 50) -> dict[str, float]:
    """What averaging the three channels of grey images gains in dB, with independent noise and with one noise thrice."""
    grey = clean[:, :1].expand_as(clean)
    law = at_level(level, "paper")
    independent = with_noise(grey, law, seed=0)
    found = {}
    for name, noisy in (("independent", independent), ("the same", independent[:, :1].expand_as(grey))):
        averaged = noisy.mean(1, keepdim=True).expand_as(grey)
        found[name] = float((psnr(averaged, grey, clip=False) - psnr(noisy, grey, clip=False)).mean())
    return found


def smoothing(
    clean: Tensor, *, level: float = 50, widths: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)
) -> tuple[plt.Figure, pd.DataFrame]:
    """PSNR of Gaussian blurs of growing width under the authors' noise: as they are, under the bound; minus mean, not.

    The blurs are periodic, so that they keep the mean exactly.
    """
    law = at_level(level, "authors_code")
    noisy = with_noise(clean, law, seed=1).numpy()
    rows = []
    for width in widths:
        blurred = ndimage.gaussian_filter(noisy, (0, 0, width, width), mode="wrap") if width else noisy
        centred = blurred - law.width / 2
        kept, taken = (float(psnr(images, clean.numpy(), clip=False).mean()) for images in (blurred, centred))
        rows.append({"blur": width, "as it is": kept, "minus mean": taken})
    table = pd.DataFrame(rows)
    figure, axis = plt.subplots(figsize=(plotting.WIDTH, 3.0))
    for n, name in enumerate(("as it is", "minus mean")):
        axis.plot(table["blur"], table[name], label=name, **plotting.look(n))
    axis.axhline(bias_bound(law), color="black", linestyle="--", label=f"bound {bias_bound(law):.2f} dB")
    axis.set_xlabel("width of the blur in pixels")
    axis.set_ylabel("PSNR (dB)")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure, table


def moments(law: Law, *, intensities: np.ndarray, draws: int = 40_000, seed: int = 0) -> pd.DataFrame:
    """Mean and standard deviation of a law by intensity, by formula and drawn, in grey levels of 255."""
    clean = torch.as_tensor(np.repeat(intensities[:, None], draws, 1), dtype=torch.float32)
    noise = 255 * (law.add(clean, torch.Generator().manual_seed(seed)) - clean).double()
    exact = torch.as_tensor(intensities, dtype=torch.float32)
    return pd.DataFrame({
        "intensity": intensities, "mean": 255 * law.mean(exact).numpy(), "mean drawn": noise.mean(1).numpy(),
        "deviation": 255 * law.sd(exact).numpy(), "deviation drawn": noise.std(1).numpy(),
    })  # fmt: skip


def other_laws() -> tuple[plt.Figure, pd.DataFrame]:
    """Mean and standard deviation of the other laws against the intensity: lines by formula, points drawn."""
    intensities = np.linspace(0, 1, 11)
    figure, axes = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.2))
    parts = []
    for n, (name, law) in enumerate(OTHERS.items()):
        table = moments(law, intensities=intensities)
        style = plotting.look(n)
        for axis, what in zip(axes, ("mean", "deviation"), strict=True):
            axis.plot(intensities, table[what], label=name, **(style | {"marker": None}))
            axis.plot(intensities, table[f"{what} drawn"], style["marker"], color=style["color"])
        parts.append(table.assign(law=name))
    for axis, what in zip(axes, ("mean of the noise", "standard deviation"), strict=True):
        axis.set_xlabel("clean intensity")
        axis.set_title(f"{what}, grey levels of 255")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    table = pd.concat(parts, ignore_index=True)
    return figure, table[["law", *[name for name in table if name != "law"]]]


def pictures(look: str, *, level: float = 50, size: int = 96) -> dict[str, np.ndarray]:
    """One phantom, grey, clean and under every law, with no clipping but that of the display."""
    clean = clean_test(look, 1, size=size)[:, :1]
    laws: dict[str, Law] = {
        "uniform, positive": at_level(level, "authors_code"),
        "Gaussian": at_level(level, "paper"),
        **OTHERS,
    }
    shown = {"clean": clean[0, 0].numpy()}
    for n, (name, law) in enumerate(laws.items()):
        shown[name.split(" (")[0]] = with_noise(clean, law, seed=n)[0, 0].numpy()
    return shown
