"""Figures and tables of what recalibration costs."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from medrepro import plotting, published

KINDS = ("training step", "inference")
NAMES = {
    "unet": "U-Net", "cse": "cSE", "scse": "scSE", "srm": "SRM", "fca": "FCA", "mono, literal": "Mono, literal",
    "mono, ours": "Mono, ours", "multi, literal": "Multi, literal", "multi, ours": "Multi, ours",
}  # fmt: skip
#: Variants that the authors' own code was measured with, by the name of our variant that computes the same way.
MEASURED = {
    "cse": "cse",
    "scse": "scse",
    "srm": "srm",
    "fca": "fca",
    "mono, literal": "mono",
    "multi, literal": "multi",
}


def ratios(result: Any) -> pd.DataFrame:
    """Median, smallest and largest ratio to the plain U-Net over rounds, one row a variant and kind."""
    rounds = pd.DataFrame(result.history)
    grouped = rounds.groupby(["kind", "variant"], sort=False)["ratio"]
    table = grouped.agg(["median", "min", "max"]).reset_index()
    table["seconds"] = rounds.groupby(["kind", "variant"], sort=False)["seconds"].median().to_numpy()
    table["variant"] = table["variant"].map(NAMES)
    return table


def of_the_authors_code() -> pd.DataFrame:
    """Ratios to the plain U-Net that were measured on the authors' own code, one row a variant and kind."""
    frame = published.frame("multifractal", "cost_of_the_authors_code")
    plain = frame[frame["model"] == "unet"].set_index("kind")["value"]
    frame["ratio"] = frame["value"] / frame["kind"].map(plain)
    return frame[["kind", "model", "ratio"]]


def cost_figure(result: Any) -> tuple[plt.Figure, pd.DataFrame]:
    """Times as ratios to the plain U-Net: ours with the range over rounds, the authors' code beside it."""
    table, theirs = ratios(result), of_the_authors_code().set_index(["kind", "model"])["ratio"]
    order = [name for key, name in NAMES.items() if key != "unet"][::-1]
    place = np.arange(len(order))
    figure, axes = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.4), sharey=True)
    for axis, kind in zip(axes, KINDS):
        own = table[table["kind"] == kind].set_index("variant").loc[order]
        errors = [own["median"] - own["min"], own["max"] - own["median"]]
        style = plotting.look(0) | {"linestyle": "none"}
        axis.errorbar(own["median"], place, xerr=errors, capsize=3, elinewidth=1.5, label="our layers", **style)
        known = {NAMES[key]: theirs[(kind, model)] for key, model in MEASURED.items()}
        style = plotting.look(1) | {"linestyle": "none", "fillstyle": "none", "markersize": 9}
        axis.plot(list(known.values()), [order.index(name) for name in known], label="authors' code", **style)
        axis.axvline(1, color="0.4", linewidth=1, linestyle=":")
        axis.set(xscale="log", title=kind, xlabel="time, plain U-Net = 1", yticks=place, yticklabels=order)
        ticks = [1, 2, 4, 8, 16]
        axis.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axis.set_xticks([], minor=True)
    axes[1].legend(loc="upper right")
    return figure, table


def memory(result: Any) -> pd.DataFrame:
    """MiB kept for the backward pass by every variant, and the ratio to the plain U-Net."""
    kept = {key: result.metrics[f"kept bytes, {key}"] for key in NAMES}
    return pd.DataFrame({
        "variant": [NAMES[key] for key in kept], "MiB": [value / 2**20 for value in kept.values()],
        "plain U-Net = 1": [value / kept["unet"] for value in kept.values()],
    })  # fmt: skip


def traffic(shape: tuple[int, int, int, int], *, num_levels: int = 16) -> pd.DataFrame:
    """Least memory traffic of one layer's forward pass in float32, by what has to be read and written.

    Parameters
    ----------
    shape
        (B, C, H, W) of the maps.
    num_levels
        Q of the literal Multi, whose tensors of shape (B, C, H, W, Q) are counted as written and read once each.
    """
    elements = float(np.prod(shape))
    counted = {
        "copy of the map": (4 + 4, "read, write"),
        "exponent map": (4 + 4 + 4, "read for min and max, read, write"),
        "Mono": (4 + 4 + 4 + 4, "read for min and max, read for the mean exponent, read and write for the product"),
        "Multi, in testing": (4 + 4 + 4, "read for min and max, read, write"),
        "Multi, in training": (4 + 4 + 4 + 4 + 4, "two more reads for the two batch norms"),
        "Multi, literal": (12 + 5 * 8 * num_levels, "five tensors with an axis of level sets, each written and read"),
    }
    return pd.DataFrame(
        [
            {"what": name, "bytes a pixel and channel": size, "MiB": size * elements / 2**20, "why": why}
            for name, (size, why) in counted.items()
        ]
    )
