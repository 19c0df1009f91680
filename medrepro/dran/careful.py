"""What to know before the network is used: recovered numbers, free decibels, and the habits of the public code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from medrepro import plotting, published
from medrepro.data.catalogue import data_folders
from medrepro.dran.comparison import LAWS, STARTS, scores
from medrepro.dran.denoising_data import LOOKS, clean_test, with_noise
from medrepro.dran.denoising_runs import NOISES, WAYS
from medrepro.dran.network import DRAN
from medrepro.dran.noise import LEVELS, Uniform, at_level, bias_bound, expected_psnr
from medrepro.dran.quality import psnr, ssim
from medrepro.dran.rivals import CLASSICAL, channel_average
from medrepro.dran.trained import trained_network

PAPER = "dran"
#: Tables of single numbers, in reading order; the others are long and have figures of their own.
SINGLE = ("largest_gains", "collection", "noise_levels", "configuration", "training_steps")
GREY = "mr"  # a look whose three channels are equal
#: Where sample images of the authors' repository may lie below a folder of `MEDREPRO_DATA`.
PLACES = ("mid_dran_samples/sampleImages", "MID-DRAN/testingImages/sampleImages")
SAMPLES = {"MRI": "1.png", "microscopy": "3.png", "dermoscopy": "4.png"}
CROP = 256  # pixels
WAY_NAMES = {"running": "running", "image": "this image's", "recalibrated": "recalibrated"}


def recovered() -> pd.DataFrame:
    """Every single number that was recovered: what it is of, value, certainty, source and note."""
    rows = []
    for name in SINGLE:
        table = published.table(PAPER, name)
        for one in table.values:
            of = ", ".join(str(part) for part in one.of.values())
            rows.append({
                "what": f"{table.metric}, {of}", "value": _told(one.value), "certainty": table.certainty,
                "source": table.source, "note": one.note or "–",
            })  # fmt: skip
    return pd.DataFrame(rows)


def _told(value: float | str) -> str:
    """A published number as text, thousands apart.

    Examples
    --------
    >>> _told(711223.0), _told(0.001), _told("L1")
    ('711,223', '0.001', 'L1')
    """
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def not_recovered() -> pd.DataFrame:
    """What is missing: tables of the published file whose numbers were not recovered."""
    tables = published.published(PAPER).tables.values()
    rows = [
        {"place": one.place, "of": one.metric, "what is missing": one.note, "why": one.source}
        for one in tables
        if one.certainty == "not recovered"
    ]
    return pd.DataFrame(rows)


def free_steps(*, size: int = 96, count: int = 4) -> pd.DataFrame:
    """PSNR in dB of steps that look at no structure, on grey phantoms under the uniform law, beside the exact values.

    Returns
    -------
    DataFrame
        One row a level: mean and deviation of the noise in grey levels of 255; ``noisy``, ``minus mean``, ``and channels
        averaged``; non-local means left alone; the bound of what keeps the mean; each step's gain, measured and exact.
    """
    clean = clean_test(GREY, count, size=size)
    rows = []
    for place, level in enumerate(LEVELS):
        law = at_level(level, "authors_code")
        noisy = with_noise(clean, law, seed=place)
        centred = noisy - law.width / 2
        averaged = centred.mean(1, keepdim=True).expand_as(clean)
        smooth = np.stack(
            [CLASSICAL["non-local means"](image.permute(1, 2, 0).numpy(), sd=law.width / 12**0.5) for image in noisy]
        )
        steps = {"noisy": noisy, "minus mean": centred, "and channels averaged": averaged}
        found = {name: float(psnr(images, clean, clip=False).mean()) for name, images in steps.items()}
        rows.append({
            "level": level, "mean": 255 * law.width / 2, "deviation": 255 * law.width / 12**0.5, **found,
            "non-local means, as it is": float(psnr(smooth.transpose(0, 3, 1, 2), clean, clip=False).mean()),
            "bound of what keeps the mean": bias_bound(law),
            "gain of the mean": found["minus mean"] - found["noisy"],
            "exact gain of the mean": -10 * np.log10(law.width**2 / 12) - expected_psnr(law),
            "gain of the average": found["and channels averaged"] - found["minus mean"],
            "exact gain of the average": 10 * np.log10(3),
        })  # fmt: skip
    return pd.DataFrame(rows)


def blocks_in_use() -> pd.DataFrame:
    """Parameters and batch-norm updates of the network as the authors' code stores it, as it acts there, and of the text."""
    measured = {one.of["quantity"]: one.value for one in published.table(PAPER, "authors_code_measured").values}
    stored = measured["parameters stored"]
    rows = [
        {
            "network": "as the authors' code stores it",
            "parameters": _told(stored),
            "share that acts": measured["parameters that act"] / stored,
            "distinct blocks": "3, of which 1 acts",
            "updates of one batch norm a step": "3",
        }
    ]
    for name, preset in (("what acts of it", "authors_code"), ("three distinct blocks, as in the text", "paper")):
        net = DRAN(preset)
        with torch.no_grad():
            net.train()(torch.zeros(2, 3, 4, 4))
        rows.append({
            "network": name, "parameters": _told(sum(parameter.numel() for parameter in net.parameters())),
            "share that acts": 1.0, "distinct blocks": str(len(net.blocks)),
            "updates of one batch norm a step": str(int(net.blocks[0][0].norms[0].num_batches_tracked)),
        })  # fmt: skip
    return pd.DataFrame(rows)


def unset_biases(
    sizes: Sequence[float] = (0.0, 1e-2, 1.0, 1e2, 1e10, 1e38), *, count: int = 4, features: int = 16, seed: int = 0
) -> pd.DataFrame:
    """Output of fresh networks whose dynamic biases hold arbitrary numbers up to a size, as unset memory may.

    Returns
    -------
    DataFrame
        One row a size: networks whose outputs are all finite, mean |F| of those, and share of their outputs at the end
        of the range (0.99 or more).
    """
    image = 2 * clean_test(GREY, 1, size=32) - 1
    rows = []
    for size in sizes:
        outputs = []
        for number in range(count):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(seed + number)
                net = DRAN("authors_code", features=features).eval()
                for layer in net.blocks[0]:
                    layer.conv.bias.copy_((2 * torch.rand(layer.conv.bias.shape) - 1) * size)
                outputs.append(net(image))
        finite = [output.abs() for output in outputs if torch.isfinite(output).all()]
        rows.append({
            "largest bias": f"{size:g}", "finite networks": f"{len(finite)} of {count}",
            "mean |F|": float(torch.cat(finite).mean()) if finite else np.nan,
            "outputs at the end": float((torch.cat(finite) >= 0.99).float().mean()) if finite else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows)


def departures(
    results: Sequence[Any], *, level: float = 25, count: int = 1, size: int = 64, seed: int = 0
) -> pd.DataFrame:
    """How far attentions depart from 1/K, layer by layer: fresh networks at three temperatures, and trained ones.

    Parameters
    ----------
    results
        Trainings of DRAN that kept their weights.
    level, count, size
        Noise of their own law on so many test images of every look, of this side.
    seed
        Of the fresh networks, which have the settings of the first training.

    Returns
    -------
    DataFrame
        Columns ``network``, ``layer`` (from 1), ``departure`` (largest |a - 1/K| over images and kernels) and
        ``between images`` (largest range of one weight over images).
    """
    settings = results[0].settings.get("network") or {}
    nets = {}
    for temperature in (34.0, 10.0, 1.0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nets[f"fresh, T = {temperature:g}"] = DRAN(**{**settings, "temperature": temperature}).eval(), "paper"
    for one in results:
        net = trained_network(one)
        nets[f"trained, T = {net.temperature:g}, {LAWS[one.settings['noise']]} noise"] = net, one.settings["noise"]
    clean = torch.cat([clean_test(look, count, size=size) for look in LOOKS])
    rows = []
    for name, (net, preset) in nets.items():
        noisy = with_noise(clean, at_level(level, preset), seed=0)
        with torch.no_grad():
            attention = net.attention(2 * noisy - 1)  # (layers, images, K)
        apart = (attention - 1 / net.kernels).abs().amax((1, 2))
        between = (attention.amax(1) - attention.amin(1)).amax(1)
        rows += [
            {"network": name, "layer": layer, "departure": float(far), "between images": float(ranged)}
            for layer, (far, ranged) in enumerate(zip(apart, between, strict=True), 1)
        ]
    return pd.DataFrame(rows)


def departures_figure(table: pd.DataFrame) -> plt.Figure:
    """Largest departure of attentions from 1/K by layer, a line a network, logarithmic."""
    figure, axis = plt.subplots(figsize=(plotting.WIDTH, 3.4))
    for place, (name, part) in enumerate(table.groupby("network", sort=False)):
        axis.semilogy(part["layer"], part["departure"], label=name, **plotting.look(place))
    axis.axhline(0.75, color="0.5", linewidth=1)
    axis.annotate("one kernel takes all", (1, 0.75), (0, 3), textcoords="offset points", fontsize=9, color="0.3")
    axis.set(xlabel="dynamic convolution, in the order of use", ylabel="largest |a - 1/4|", ylim=(None, 1.4))
    axis.set_xticks(sorted(table["layer"].unique()))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def batch_norm_ways(results: Sequence[Any]) -> pd.DataFrame:
    """PSNR in dB of trained networks on their own law, by level and by where batch norm takes its statistics from.

    Columns ``law``, ``level``, one for each way of `WAYS` with its mean over looks and images, and the differences of
    the other ways to running statistics.
    """
    frames = [scores(results, way=way).assign(way=WAY_NAMES[way]) for way in WAYS]
    frame = pd.concat(frames)
    frame = frame[frame["law"] == frame["trained"]]
    wide = frame.pivot_table(index=["law", "level"], columns="way", values="psnr", sort=False)[list(WAY_NAMES.values())]
    for name in list(WAY_NAMES.values())[1:]:
        wide[f"{name} - running"] = wide[name] - wide[WAY_NAMES["running"]]
    wide = wide.reset_index()
    return wide.assign(law=wide["law"].map(LAWS)).rename_axis(columns=None)


def batch_norm_figure(table: pd.DataFrame) -> plt.Figure:
    """PSNR against the level for each way of batch norm, a panel a law."""
    laws = [LAWS[law] for law in NOISES if LAWS[law] in set(table["law"])]
    figure, axes = plt.subplots(1, len(laws), figsize=(plotting.WIDTH, 3.1), sharey=True, squeeze=False)
    for axis, law in zip(axes.flat, laws, strict=True):
        own = table[table["law"] == law]
        for place, name in enumerate(WAY_NAMES.values()):
            axis.plot(own["level"], own[name], label=f"{name} statistics", **plotting.look(place))
        axis.set_title(f"trained and tested on {law} noise")
        axis.set(xlabel="level", xticks=own["level"])
    axes[0, 0].set_ylabel("PSNR (dB), mean over looks")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def sample_outputs() -> pd.DataFrame:
    """Quality of the authors' sample outputs beside the noisy images and those minus the mean, as PSNR / SSIM."""
    frame = published.frame(PAPER, "sample_outputs").pivot(
        index=["image", "level"], columns=["method", "quality"], values="value"
    )
    rows = []
    for (image, level), own in frame.iterrows():
        both = {name: f"{own[name, 'psnr']:.2f} / {own[name, 'ssim']:.3f}" for name in ("noisy", "minus mean", "DRAN")}
        rows.append({
            "image": image, "level": level, **both, "gain over noisy": own["DRAN", "psnr"] - own["noisy", "psnr"],
            "gain over minus mean": own["DRAN", "psnr"] - own["minus mean", "psnr"],
            "mean error (grey levels)": own["DRAN", "offset"],
        })  # fmt: skip
    return pd.DataFrame(rows)


def sample_rivals() -> pd.DataFrame:
    """PSNR of the authors' outputs and of classical methods on crops of the sample images, one row a method and start."""
    frame = published.frame(PAPER, "sample_rivals")
    frame = frame[frame["quality"] == "psnr"].rename(columns={"value": "PSNR (dB)"})
    return frame[["image", "level", "method", "start", "PSNR (dB)"]].reset_index(drop=True)


def sample_figure(table: pd.DataFrame) -> plt.Figure:
    """Dots of PSNR on the sample images: open as it is, filled minus the mean, and the bound of what keeps the mean.

    Large open marks are of averaged channels.
    """
    cases = list(dict.fromkeys(zip(table["image"], table["level"], strict=True)))
    figure, axis = plt.subplots(figsize=(plotting.WIDTH, 0.56 * len(cases) + 1.6))
    short = {STARTS[2]: "minus mean, averaged"}
    for place, method in enumerate(("DRAN", "non-local means", "BM3D")):
        for start, part in table[table["method"] == method].groupby("start", sort=False):
            look = plotting.look(place) | {"linestyle": "none", "markersize": 7, "zorder": 3}
            if method != "DRAN" and start != STARTS[1]:
                look |= {"markerfacecolor": "none", "markeredgewidth": 1.6}
            if start == STARTS[2]:
                look["markersize"] = 10
            label = "DRAN, told nothing" if method == "DRAN" else f"{method}, {short.get(start, start)}"
            rows = [cases.index(case) + 0.25 * (place - 1) for case in zip(part["image"], part["level"], strict=True)]
            axis.plot(part["PSNR (dB)"], rows, label=label, **look)
    for place, (_, level) in enumerate(cases):
        bound = bias_bound(at_level(level, "authors_code"))
        label = None if place else "bound of what keeps the mean"
        axis.plot([bound, bound], [place - 0.4, place + 0.4], color="black", linewidth=1.5, label=label, zorder=2)
        axis.axhline(place + 0.5, color="0.9", linewidth=1, zorder=0)
    axis.set_yticks(range(len(cases)), [f"{image}, level {level}" for image, level in cases])
    axis.set(ylim=(len(cases) - 0.5, -0.5), xlabel="PSNR (dB)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def told_wins(table: pd.DataFrame) -> dict[str, int]:
    """In how many cases the authors' outputs lie above BM3D: left alone, told the mean, and told all that is known."""
    wide = table.pivot(index=["image", "level"], columns=["method", "start"], values="PSNR (dB)")
    dran, averaged = wide["DRAN", STARTS[0]], wide["BM3D", STARTS[2]]
    told_all = averaged.fillna(wide["BM3D", STARTS[1]])
    return {
        "cases": len(wide), "alone": int((dran > wide["BM3D", STARTS[0]]).sum()),
        "minus mean": int((dran > wide["BM3D", STARTS[1]]).sum()), "all": int((dran > told_all).sum()),
    }  # fmt: skip


def sample_folder() -> Path | None:
    """Folder with the sample images of the authors' repository below one of `MEDREPRO_DATA`, or None."""
    candidates = [folder / place for folder in data_folders() for place in PLACES]
    return next((path for path in candidates if all((path / name).is_file() for name in SAMPLES.values())), None)


def sample_rivals_again(
    folder: Path, *, methods: Sequence[str] = ("non-local means",), levels: Sequence[float] = (25, 50)
) -> pd.DataFrame:
    """Classical methods on centre crops of the authors' sample images, computed again with our draw of the noise.

    Parameters
    ----------
    folder
        As `sample_folder` gives it.
    methods
        Names of `CLASSICAL`; they are told the standard deviation.
    levels
        Levels of the uniform law.

    Returns
    -------
    DataFrame
        Columns ``image``, ``level``, ``method``, ``start``, ``PSNR (dB)``, ``SSIM``, and ``kept`` with the PSNR that the
        book keeps for it (another draw), where it has one.
    """
    kept = sample_rivals().set_index(["image", "level", "method", "start"])["PSNR (dB)"]
    rows = []
    for image, name in SAMPLES.items():
        clean = _centre(folder / name)
        for level in levels:
            law = at_level(level, "authors_code")
            noisy = (
                with_noise(torch.from_numpy(clean.transpose(2, 0, 1))[None], law, seed=level)[0]
                .permute(1, 2, 0)
                .numpy()
            )
            for method in methods:
                for start, given in zip(STARTS, _starts(noisy, clean, law), strict=True):
                    if given is None:
                        continue
                    sd = law.width / 12**0.5 / (3**0.5 if start == STARTS[2] else 1)
                    denoised = CLASSICAL[method](given, sd=sd)
                    pair = [
                        array.reshape(*clean.shape[:2], -1).transpose(2, 0, 1)[None]
                        for array in (denoised, clean[..., : given.shape[2]] if given.ndim == 3 else clean[..., 0])
                    ]
                    rows.append({
                        "image": image, "level": level, "method": method, "start": start,
                        "PSNR (dB)": float(psnr(*pair)[0]), "SSIM": float(ssim(*pair)[0]),
                        "kept": kept.get((image, level, method, start), np.nan),
                    })  # fmt: skip
    return pd.DataFrame(rows)


def _centre(path: Path) -> np.ndarray:
    """Centre crop (CROP, CROP, 3) of an image file, in [0, 1]."""
    from PIL import Image

    with Image.open(path) as opened:
        image = np.asarray(opened.convert("RGB"), dtype=np.float32) / 255
    top, left = ((side - CROP) // 2 for side in image.shape[:2])
    return image[top : top + CROP, left : left + CROP]


def _starts(noisy: np.ndarray, clean: np.ndarray, law: Uniform) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The noisy image as it is, minus the mean, and with averaged channels (H, W) where they are equal in the clean one."""
    centred = noisy - np.float32(law.width / 2)
    grey = bool((clean == clean[..., :1]).all())
    return noisy, centred, channel_average(centred)[..., 0] if grey else None
