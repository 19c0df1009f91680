"""Figures of the chapter: each function draws what it is given and returns the figure with the table behind it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from medrepro import plotting
from medrepro.metrics import interval


def cascade_exponents(p: float) -> np.ndarray:
    """Exponents of the binomial cascade between aligned boxes of side 2 and 8: five values, in closed form."""
    share = np.arange(5) / 4
    return -2 * (share * np.log2(p) + (1 - share) * np.log2(1 - p))


def edge(exponent: np.ndarray, start: int, stop: int, bright: int) -> tuple[plt.Figure, pd.DataFrame]:
    """The exponent along a row across a step edge.

    Parameters
    ----------
    exponent
        Values along the row, shape (W,).
    start, stop
        Columns drawn.
    bright
        First bright column.
    """
    columns = np.arange(start, stop)
    figure, axis = plt.subplots(figsize=(plotting.WIDTH, 2.8))
    axis.axvspan(bright - 0.5, stop - 0.5, color="0.9")
    middle = (exponent.max() + exponent.min()) / 2
    axis.text((start + bright) / 2 - 2, middle, "dark side", ha="center")
    axis.text((bright + stop) / 2, middle, "bright side", ha="center")
    axis.axhline(2, color="0.4", linewidth=1, linestyle=":", label="flat: 2")
    axis.plot(columns, exponent[start:stop], **plotting.look(0), label="exponent")
    axis.set(xlabel="column (pixels)", ylabel="exponent")
    axis.legend(loc="upper right")
    return figure, pd.DataFrame({"column": columns, "exponent": exponent[start:stop]})


def histograms(values: dict[str, np.ndarray], marks: np.ndarray) -> tuple[plt.Figure, pd.DataFrame]:
    """Shares of exponents, one panel for each set of values, with exact exponents marked."""
    bins = np.linspace(0.5, 5, 46)
    figure, axes = plt.subplots(1, len(values), figsize=(plotting.WIDTH, 2.9), sharey=True)
    table = {"from": bins[:-1].round(2)}
    for axis, (title, array) in zip(axes, values.items()):
        share = np.histogram(array, bins)[0] / array.size
        table[title] = share
        axis.stairs(share, bins, fill=True, color=plotting.COLOURS[0])
        for number, mark in enumerate(marks):
            axis.axvline(
                mark, color=plotting.COLOURS[3], linestyle="--", linewidth=1.2, label=None if number else "exact"
            )
        axis.set(xlabel="exponent", title=title)
    axes[0].set_ylabel("share of pixels")
    axes[0].legend()
    return figure, pd.DataFrame(table)


def roughness(surfaces: pd.DataFrame) -> tuple[plt.Figure, pd.DataFrame]:
    """Mean and spread of the exponent map against the Hurst exponent of the surface, with 95 % intervals over seeds."""
    rows = []
    for hurst, group in surfaces.groupby("hurst"):
        row = {"Hurst exponent": hurst, "surfaces": len(group)}
        for name, column in (("mean", "mean_alpha"), ("spread", "std_alpha")):
            found = interval(group[column])
            row |= {name: found.mean, f"{name} low": found.low, f"{name} high": found.high}
        rows.append(row)
    table = pd.DataFrame(rows)
    figure, axes = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3))
    for number, (axis, name) in enumerate(zip(axes, ("mean", "spread"))):
        errors = [table[name] - table[f"{name} low"], table[f"{name} high"] - table[name]]
        axis.errorbar(table["Hurst exponent"], table[name], errors, capsize=3, **plotting.look(number))
        axis.set(xlabel="Hurst exponent of the surface", ylabel=f"{name} of the exponent map")
    axes[0].set_ylim(1.5, 2.5)
    return figure, table


def image_maps(images: dict[str, np.ndarray], maps: dict[str, np.ndarray]) -> tuple[plt.Figure, pd.DataFrame]:
    """Images above, their exponent maps below on one scale from 1.5 to 2.5."""
    shapes = [image.shape[1] / image.shape[0] for image in images.values()]
    height = plotting.WIDTH / sum(shapes) * 2 + 0.3
    figure, axes = plt.subplots(
        2, len(images), figsize=(plotting.WIDTH, height), squeeze=False, gridspec_kw={"width_ratios": shapes}
    )
    for column, (name, image) in enumerate(images.items()):
        axes[0, column].imshow(image, cmap="gray")
        axes[0, column].set_title(name)
        drawn = axes[1, column].imshow(maps[name], cmap="cividis", vmin=1.5, vmax=2.5)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(drawn, ax=axes, shrink=0.5, location="bottom", label="exponent (2: locally flat)", extend="both")
    rows = [
        {"image": n, "mean": a.mean(), "spread": a.std(), "smallest": a.min(), "largest": a.max()}
        for n, a in maps.items()
    ]
    return figure, pd.DataFrame(rows)


def inside_outside(results: list) -> pd.DataFrame:
    """Exponent inside minus outside of lesions for each set: 95 % intervals over images."""
    rows = []
    for result in results:
        arrays = result.arrays
        spread = arrays["std_inside"] - arrays["std_outside"]
        mean = arrays["mean_inside"] - arrays["mean_outside"]
        rows.append({
            "data": result.settings["data"], "images": len(spread), "mean, inside - outside": f"{interval(mean):.4f}",
            "spread, inside - outside": f"{interval(spread):.4f}", "images with less spread inside": (spread < 0).mean(),
        })  # fmt: skip
    return pd.DataFrame(rows)
