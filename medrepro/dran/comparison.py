"""Tables and figures of the comparison: methods, laws of noise and looks side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from torch import Tensor

from medrepro import plotting
from medrepro.dran.denoising_data import LOOKS, clean_test, with_noise
from medrepro.dran.denoising_runs import CLASSICAL, NOISES, QUALITIES, WAYS, classical, starts
from medrepro.dran.inference import denoise_batch
from medrepro.dran.noise import LEVELS, at_level
from medrepro.dran.trained import trained_network
from medrepro.metrics import Interval, interval

NETWORKS = {
    "dran": "DRAN",
    "dran_shared": "DRAN, shared block",
    "dncnn": "DnCNN",
    "dynamic_dncnn": "dynamic DnCNN",
    "residual_mid_like": "Residual-MID-like",
}
LAWS = {"authors_code": "uniform, positive", "paper": "Gaussian"}
STARTS = ("as it is", "minus mean", "minus mean, channels averaged")
#: What a method is told, beyond the image.
TOLD = {"noisy": "nothing", "median": "nothing", "minus mean": "mean"} | {
    name: "deviation" for name in ("total variation", "wavelet", "non-local means", "BM3D")
}


def scores(results: Sequence[Any], *, way: str = "running") -> pd.DataFrame:
    """One row an image: every method of the given runs, under every law, look and level.

    Parameters
    ----------
    results
        Stored runs of `train_denoiser` and `classical_scores` on the same test images.
    way
        Batch norm of the networks at test time, one of `WAYS`.

    Returns
    -------
    DataFrame
        Columns ``method``, ``start`` (what a classical method is given, as in `STARTS`), ``told``, ``seed`` (-1 for
        classical methods), ``law``, ``trained`` (law in training), ``look``, ``unseen``, ``level``, ``image``, and
        ``psnr`` (dB), ``ssim``, ``offset`` (grey levels).
    """
    frames = []
    for one in results:
        settings, arrays = one.settings, one.arrays
        levels, looks = settings.get("levels", LEVELS), settings.get("test_looks", LOOKS)
        values = {name: arrays[name] for name in QUALITIES}
        if "model" in settings:
            values = {name: array[:, WAYS.index(way)] for name, array in values.items()}
            axes = {"law": NOISES, "look": looks, "level": levels}
            shared = {
                "method": NETWORKS[settings["model"]], "start": STARTS[0], "told": "nothing", "seed": settings["seed"],
                "trained": settings["noise"],
            }  # fmt: skip
            seen = settings.get("looks", LOOKS)
        else:
            axes = {"start": STARTS, "method": settings["methods"], "look": looks, "level": levels}
            shared, seen = {"law": settings["noise"], "seed": -1, "trained": settings["noise"]}, LOOKS
        shape = next(iter(values.values())).shape
        index = pd.MultiIndex.from_product([*axes.values(), range(shape[-1])], names=[*axes, "image"])
        frame = pd.DataFrame({name: array.ravel() for name, array in values.items()}, index=index).reset_index()
        frame = frame.dropna(subset="psnr").assign(**shared)
        if "model" not in settings:
            frame["told"] = [
                _told(method, start, law)
                for method, start, law in frame[["method", "start", "law"]].itertuples(index=False)
            ]
        frames.append(frame.assign(unseen=~frame["look"].isin(seen)))
    return pd.concat(frames, ignore_index=True)


def _told(method: str, start: str, law: str) -> str:
    parts = [] if TOLD[method] == "nothing" else [TOLD[method]]
    if start != STARTS[0] and law == "authors_code" and "mean" not in parts:
        parts.insert(0, "mean")
    if start == STARTS[2]:
        parts.append("channels equal")
    return ", ".join(parts) or "nothing"


def per_image(frame: pd.DataFrame, *, quality: str = "psnr") -> pd.Series:
    """Mean over seeds of every image, indexed by method, start, law, look, level, image; trained on the law of the test."""
    own = frame[frame["law"] == frame["trained"]]
    return own.groupby(["method", "start", "law", "look", "level", "image"], sort=False)[quality].mean()


def comparison_table(frame: pd.DataFrame, law: str, *, level: float) -> pd.DataFrame:
    """Quality of every method at one level under one law: mean PSNR with interval over images, offset, PSNR of each look."""
    own = frame[(frame["law"] == law) & (frame["trained"] == law) & (frame["level"] == level)]
    if law == "paper":  # a zero mean: nothing to take off
        own = own[own["start"] != STARTS[1]]
    rows = []
    for (method, start), part in own.groupby(["method", "start"], sort=False):
        if method == "minus mean":
            continue
        if law == "paper":
            start = start.removeprefix("minus mean, ")
        over = part.groupby(["look", "image"])[list(QUALITIES)].mean()
        looks = over["psnr"].groupby("look").mean()
        rows.append({
            "method": method, "start": start, "told": part["told"].iloc[0], "images": len(over),
            "PSNR (dB)": f"{interval(over['psnr']):.2f}", "SSIM": f"{over['ssim'].mean():.3f}",
            "offset": f"{over['offset'].mean():+.1f}", "mean": over["psnr"].mean(),
            **{look: f"{looks[look]:.1f}" if look in looks else "–" for look in LOOKS},
        })  # fmt: skip
    return pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable").drop(columns="mean")


def gaps(frame: pd.DataFrame, law: str, *, method: str = "DRAN", quality: str = "psnr") -> pd.DataFrame:
    """What `method` gains over every other one, paired by image (networks: mean over seeds), at each level.

    Returns
    -------
    DataFrame
        Columns ``over``, ``start``, ``level``, ``n`` images, ``gain``, ``gain low``, ``gain high`` (95 % interval).
    """
    means = per_image(frame, quality=quality)
    own = means.xs((method, STARTS[0], law), level=("method", "start", "law"))
    rows = []
    for (name, start), part in means.xs(law, level="law").groupby(["method", "start"], sort=False):
        if name in (method, "minus mean"):
            continue
        paired = (own - part.droplevel(["method", "start"])).dropna()
        for level, differences in paired.groupby("level"):
            found = interval(differences)
            rows.append({
                "over": name, "start": start, "level": level, "n": found.n, "gain": found.mean, "gain low": found.low,
                "gain high": found.high,
            })  # fmt: skip
    return pd.DataFrame(rows)


def seed_gain(frame: pd.DataFrame, law: str, rival: str, *, method: str = "DRAN") -> Interval:
    """PSNR gain of a network over another, mean over looks, levels and images, with an interval over shared seeds."""
    own = frame[(frame["law"] == law) & (frame["trained"] == law)]
    means = own.groupby(["method", "seed"])["psnr"].mean()
    paired = (means[method] - means[rival]).dropna()
    return interval(paired)


def not_begun(frame: pd.DataFrame, *, least: float = 0.5) -> list[str]:
    """Networks whose mean gain over the noisy image under their own law is below `least` dB: they have not begun to learn."""
    own = frame[frame["law"] == frame["trained"]]
    means = own[own["start"] == STARTS[0]].groupby(["law", "method"], sort=False)["psnr"].mean()
    names = [(law, name) for law, name in means.index if name in NETWORKS.values() and (law, "noisy") in means.index]
    return [f"{name} ({LAWS[law]})" for law, name in names if means[law, name] - means[law, "noisy"] < least]


def over_dncnn_line(frame: pd.DataFrame) -> str:
    """Gain of DRAN over DnCNN under each law for which both were trained, as text."""
    parts = []
    for law, name in LAWS.items():
        both = set(frame[(frame["law"] == law) & (frame["trained"] == law)]["method"])
        if {"DRAN", "DnCNN"} <= both:
            parts.append(f"{name}: {seed_gain(frame, law, 'DnCNN'):.2f} dB")
    return "; ".join(parts) or "not trained"


def said(frame: pd.DataFrame, over: str, start: str, level: float, *, sign: int = 1) -> str:
    """A row of `gaps` as text: gain with its interval, times `sign`."""
    row = frame[(frame["over"] == over) & (frame["start"] == start) & (frame["level"] == level)].iloc[0]
    low, high = sorted((sign * row["gain low"], sign * row["gain high"]))
    return f"{sign * row['gain']:.1f} [{low:.1f}, {high:.1f}]"


def free_decibels(frame: pd.DataFrame, level: float) -> tuple[plt.Figure, pd.DataFrame]:
    """Bars of PSNR under the authors' law at one level, as it is and minus mean, with the bound of what keeps the mean."""
    means = per_image(frame).sort_index()
    names = [name for name in dict.fromkeys(frame["method"]) if name != "minus mean"]
    rows = []
    for name in names:
        for start in STARTS[:2]:
            try:
                values = means.loc[(name, start, "authors_code")].xs(level, level="level")
            except KeyError:
                continue
            rows.append({"method": name, "start": start, "PSNR (dB)": values.mean(), "n": len(values)})
    table = pd.DataFrame(rows)
    figure, axis = plt.subplots(figsize=(plotting.WIDTH, 0.36 * len(names) + 1.4))
    for n, start in enumerate(STARTS[:2]):
        own = table[table["start"] == start]
        places = [names.index(name) + (n - 0.5) * 0.38 for name in own["method"]]
        label = "the image as it is" if n == 0 else "minus the noise's mean"
        axis.barh(
            places,
            own["PSNR (dB)"],
            0.36,
            color=plotting.COLOURS[n],
            hatch=("", "//")[n],
            edgecolor="white",
            label=label,
        )
    mean = float(at_level(level, "authors_code").mean(clean_test(LOOKS[0], 1, size=32)[:, :1]).mean())
    axis.axvline(-20 * np.log10(mean), color="black", linestyle="--", label="bound of what keeps the mean")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("PSNR (dB), mean over images")
    axis.set_xlim(left=10)
    axis.legend(loc="upper center", bbox_to_anchor=(0.45, -0.18), ncols=3)
    return figure, table


def level_figure(frame: pd.DataFrame) -> tuple[plt.Figure, pd.DataFrame]:
    """PSNR against the level under both laws, a line a method; networks with bars from their lowest to highest seed."""
    figure, axes = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.6), sharey=True)
    rows = []
    for axis, law in zip(axes, NOISES, strict=True):
        start = STARTS[1] if law == "authors_code" else STARTS[0]
        own = frame[(frame["law"] == law) & (frame["trained"] == law) & (frame["method"] != "minus mean")]
        own = own[(own["seed"] >= 0) | (own["start"] == start)]
        for n, (method, part) in enumerate(own.groupby("method", sort=False)):
            seeds = part.groupby(["level", "seed"])["psnr"].mean()
            mean, low, high = (seeds.groupby("level").agg(kind) for kind in ("mean", "min", "max"))
            style = (
                plotting.look(n - 1) if n else {"color": "black", "linestyle": ":", "marker": "|"}
            )  # noisy comes first
            axis.errorbar(mean.index, mean, yerr=[mean - low, high - mean], capsize=3, label=method, **style)
            images = part.groupby(["level", "look", "image"])[list(QUALITIES)].mean()
            for level in mean.index:
                own_level = images.loc[level]
                looks = own_level["psnr"].groupby("look").mean()
                rows.append(
                    {"law": LAWS[law], "method": method, "level": level, "PSNR (dB)": mean[level]}
                    | {
                        "over images": f"{interval(own_level['psnr']):.2f}",
                        "SSIM": f"{interval(own_level['ssim']):.3f}",
                    }
                    | {"lowest seed": low[level], "highest seed": high[level]}
                    | {look: looks.get(look) for look in LOOKS}
                )
        axis.set_title(LAWS[law])
        axis.set_xlabel("level")
        axis.set_xticks(mean.index)
    axes[0].set_ylabel("PSNR (dB), mean over looks")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure, pd.DataFrame(rows)


def seen_and_unseen(frame: pd.DataFrame) -> pd.DataFrame:
    """Gain of every network over the noisy image, on looks of its training and on the one left out; mean over levels."""
    own = frame[frame["law"] == frame["trained"]]
    keys = ["law", "look", "level", "image"]
    noisy = own[(own["method"] == "noisy") & (own["start"] == STARTS[0])].set_index(keys)["psnr"]
    nets = own[own["seed"] >= 0].set_index(keys)
    nets = nets.assign(gain=nets["psnr"] - noisy.reindex(nets.index)).reset_index()
    rows = []
    for (law, method), part in nets.groupby(["law", "method"], sort=False):
        row = {"law": LAWS[law], "network": method}
        for unseen, name in ((False, "looks of the training"), (True, "look left out")):
            seeds = part[part["unseen"] == unseen].groupby("seed")["gain"].mean()
            row[name] = f"{interval(seeds):.1f}" if len(seeds) else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def example(result: Any, look: str, level: float, *, image: int = 0) -> dict[str, Tensor | np.ndarray]:
    """One test image and what methods make of it: ``clean``, ``noisy`` and denoised ones, each (3, H, W).

    Parameters
    ----------
    result
        A training of DRAN that kept its weights; its law is the image's.
    look, level, image
        Which test image at which level.
    """
    settings = result.settings
    clean = clean_test(look, image + 1, size=settings["test_size"])
    law = at_level(level, settings["noise"])
    noisy = with_noise(clean, law, seed=list(LEVELS).index(level))[image:]
    clean = clean[image:]
    start = starts(noisy, clean, law)[1]
    found = {"clean": clean[0], "noisy": noisy[0]}
    for name in ("non-local means", "BM3D"):
        found[name] = classical(CLASSICAL[name], start, law)[0]
    found["DRAN"] = denoise_batch(trained_network(result), noisy)[0]
    return {name: np.asarray(picture) for name, picture in found.items()}


def panels(pictures: Mapping[str, np.ndarray]) -> tuple[plt.Figure, pd.DataFrame]:
    """Clean, noisy and denoised pictures with their middle ninth, what each method took off, and its error, in grey levels."""
    clean, noisy = pictures["clean"], pictures["noisy"]
    figure, axes = plt.subplots(4, len(pictures), figsize=(plotting.WIDTH, 0.84 * plotting.WIDTH + 0.4), squeeze=False)
    limit, rows = 255 * float(np.abs(noisy - clean).max()), []
    show = lambda axis, image, **more: axis.imshow(image, interpolation="nearest", **more)
    height, width = clean.shape[1:]
    detail = (slice(height // 3, 2 * height // 3), slice(width // 3, 2 * width // 3))
    for column, (name, picture) in zip(axes.T, pictures.items(), strict=True):
        visible = np.clip(picture.transpose(1, 2, 0), 0, 1)
        show(column[0], visible)
        show(column[1], visible[detail])
        column[0].set_title(name.replace(" ", "\n"))
        taken, error = 255 * (noisy - picture).mean(0), 255 * (picture - clean).mean(0)
        parts = (taken if name not in ("clean", "noisy") else None, error if name != "clean" else None)
        for axis, part in zip(column[2:], parts, strict=True):
            if part is not None:
                drawn = show(axis, part, cmap="RdBu_r", vmin=-limit, vmax=limit)
        if name != "clean":
            errors = {"mean taken off": taken.mean(), "mean error": error.mean(), "deviation of error": error.std()}
            rows.append({"method": name} | errors)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    for axis, label in zip(axes[:, 0], ("image", "detail", "taken off", "error"), strict=True):
        axis.set_ylabel(label)
    figure.colorbar(drawn, ax=axes, shrink=0.7, label="grey levels of 255")
    return figure, pd.DataFrame(rows)


def profiles(pictures: Mapping[str, np.ndarray], row: int) -> tuple[plt.Figure, pd.DataFrame]:
    """Intensity along one row of pixels, mean over channels, of clean and denoised pictures."""
    table = pd.DataFrame({name: picture[:, row].mean(0) for name, picture in pictures.items()})
    figure, axis = plt.subplots(figsize=(plotting.WIDTH, 3.0))
    axis.plot(table["noisy"], color="0.75", linewidth=1, label="noisy")
    axis.plot(table["clean"], color="black", linewidth=3, label="clean")
    for n, name in enumerate([name for name in pictures if name not in ("clean", "noisy")]):
        axis.plot(table[name], label=name, linewidth=1.6, **(plotting.look(n) | {"marker": None}))
    axis.set_xlabel(f"column in pixels, row {row}")
    axis.set_ylabel("intensity, 0 to 1")
    figure.legend(loc="outside lower center", ncols=5)
    return figure, table.rename_axis("column").reset_index()
