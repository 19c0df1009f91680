"""Figures of the excitation analysis: each function draws what it is given and returns the figure with the table behind it."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from medrepro import plotting
from medrepro.multifractal.excitation_tables import DEPTHS, NETWORKS, case_of, network_of
from medrepro.multifractal.excitations import (
    SHARE,
    double_exponential,
    explained_variance,
    fit_curve,
    growing_minus_decaying,
    pca_threshold,
    subsampled_threshold,
)

#: Colour and marker of each network: the paper's markers, colours that differ for colour-blind readers too.
LOOKS = {
    "cse": {"color": "black", "marker": "o"},
    "cse-ns": {"color": "0.45", "marker": "s", "markerfacecolor": "white"},
    "srm": {"color": plotting.COLOURS[4], "marker": "X"},
    "fca": {"color": plotting.COLOURS[1], "marker": "D"},
    "mono": {"color": plotting.COLOURS[0], "marker": "^"},
}
RED = plotting.COLOURS[3]


def _grid(count: int, *, height: float, **more: Any) -> tuple[plt.Figure, list[plt.Axes]]:
    """Panels in rows of three; places that stay empty are switched off."""
    rows = -(-count // 3)
    columns = min(count, 3)
    figure, axes = plt.subplots(rows, columns, figsize=(plotting.WIDTH, height * rows), squeeze=False, **more)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, list(axes.flat[:count])


def _legend(figure: plt.Figure, axes: Sequence[plt.Axes]) -> None:
    """One legend below all panels."""
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 5))


def _first_case(results: Sequence[Any]) -> dict[str, Mapping[str, np.ndarray]]:
    """Arrays of the networks that share the case of the first network with gates, in the order of `NETWORKS`."""
    gated = [one for one in results if "excitation_1" in one.arrays and network_of(one.settings) in NETWORKS]
    own = {network_of(one.settings): one.arrays for one in gated if case_of(one.settings) == case_of(gated[0].settings)}
    return {key: own[key] for key in NETWORKS if key in own}


def gate_maps(results: Sequence[Any], *, depth: int = 3) -> tuple[plt.Figure, pd.DataFrame]:
    """Gates of the first case at a depth: one row an image, one column a channel, one panel a network."""
    maps = {NETWORKS[key]: arrays[f"excitation_{depth}"] for key, arrays in _first_case(results).items()}
    figure, axes = _grid(len(maps), height=2.5)
    for axis, (name, gates) in zip(axes, maps.items()):
        drawn = axis.imshow(gates, aspect="auto", cmap="cividis", interpolation="nearest")
        axis.set(title=name, xlabel="channel")
        figure.colorbar(drawn, ax=axis, shrink=0.9)
    for axis in axes[::3]:
        axis.set_ylabel("test image")
    rows = [
        {"network": name, "images": len(x), "channels": x.shape[1], "smallest": x.min(), "mean": x.mean(),
         "largest": x.max(), "mean std over images": x.std(axis=0, ddof=1).mean(),
            "std over channels": x.mean(axis=0).std(ddof=1)}
        for name, x in maps.items()
    ]  # fmt: skip
    return figure, pd.DataFrame(rows)


def thresholds(parts: Mapping[str, pd.DataFrame]) -> tuple[plt.Figure, pd.DataFrame]:
    """Threshold by depth in the paper's form: a dashed line with markers per network, a red dotted line at 2.

    Parameters
    ----------
    parts
        Panel title -> ``network``, ``depth``, ``EPT``, ``smallest``, ``largest``, ``cases`` (see `excitation_tables.by_depth`).
        FCA is left out, as in the paper.
    """
    figure, axes = _grid(len(parts), height=2.4)
    rows = []
    for axis, (title, table) in zip(axes, parts.items()):
        axis.axhline(2, color=RED, linestyle=":", linewidth=1.5, label="2 components")
        shown = table[table["network"] != "fca"]
        for key, own in shown.groupby("network", sort=False):
            spread = [own["EPT"] - own["smallest"], own["largest"] - own["EPT"]]
            axis.errorbar(
                own["depth"],
                own["EPT"],
                spread,
                linestyle="--",
                capsize=2,
                elinewidth=1,
                label=NETWORKS[key],
                **LOOKS[key],
            )
        axis.set(title=title, xticks=DEPTHS, xlabel="encoder depth", ylim=(0, None))
        rows.append(shown.assign(source=title, network=shown["network"].map(NETWORKS)))
    for axis in axes[::3]:
        axis.set_ylabel("components")
    _legend(figure, axes)
    table = pd.concat(rows, ignore_index=True)
    return figure, table[["source", "network", "depth", "EPT", "smallest", "largest", "cases"]]


def explained_curves(results: Sequence[Any]) -> tuple[plt.Figure, pd.DataFrame]:
    """Cumulative explained variance of the first case, one wide panel per depth: points, dashed fit, R^2 in the legend."""
    own, rows = _first_case(results), []
    figure, axes = plt.subplots(3, 1, figsize=(plotting.WIDTH, 7.6))
    for axis, depth in zip(axes, DEPTHS):
        axis.axhline(SHARE, color=RED, linestyle=":", linewidth=1.5)
        for key, arrays in own.items():
            curve = explained_variance(arrays[f"excitation_{depth}"])
            if np.isnan(curve[0]):
                continue
            fit, index = fit_curve(curve), np.arange(1, len(curve) + 1)
            told = f"{NETWORKS[key]}, R² = {fit.r2:.4f}" if fit else f"{NETWORKS[key]}, no fit"
            axis.plot(index, curve, linestyle="none", markersize=4, label=told, **LOOKS[key])
            if fit:
                fine = np.linspace(1, len(curve), 200)
                axis.plot(fine, double_exponential(fine, *fit.parameters), "--", linewidth=1, color=LOOKS[key]["color"])
            told = {"depth": depth, "network": NETWORKS[key], "R2": fit.r2 if fit else np.nan}
            rows += [told | {"component": n, "explained": value} for n, value in zip(index, curve)]
        axis.set(title=f"depth {depth}", ylabel="cumulative share", ylim=(0.2, 1.02))
        axis.legend(loc="lower right")
    axes[-1].set_xlabel("principal component")
    return figure, pd.DataFrame(rows)


def curve_models(curve: np.ndarray, *, reach: int) -> tuple[plt.Figure, pd.DataFrame]:
    """Both curve models fitted to the cumulative explained variance of a layer, and drawn beyond its last component."""
    models = {
        "sum of two saturating (code)": double_exponential,
        "growing minus decaying (text)": growing_minus_decaying,
    }
    figure, axis = plt.subplots(figsize=(plotting.WIDTH, 3))
    index, far = np.arange(1, len(curve) + 1), np.arange(1, reach + 1, dtype=float)
    axis.axvspan(len(curve), reach, color="0.92")
    axis.text(len(curve) + 4, 0.7, "beyond the last component")
    axis.axhline(1, color="0.4", linewidth=1, linestyle=":")
    axis.plot(index, curve, "o", color="black", markersize=3, label="explained variance")
    rows = []
    for number, (name, model) in enumerate(models.items(), 1):
        if fit := fit_curve(curve, model=model):
            style = {"color": plotting.COLOURS[number], "linestyle": plotting.LINES[number]}
            axis.plot(far, model(far, *fit.parameters), label=f"{name}, R² = {fit.r2:.4f}", **style)
            rows.append({
                "model": name, "R2": fit.r2, "1 - R2": 1 - fit.r2,
                "at the last component": model(float(len(curve)), *fit.parameters),
                f"at {reach}": model(float(reach), *fit.parameters),
            })  # fmt: skip
    axis.set(xlabel="principal component", ylabel="cumulative share")
    axis.legend(loc="lower right")
    return figure, pd.DataFrame(rows)


def number_of_images(results: Sequence[Any], *, seed: int) -> tuple[plt.Figure, pd.DataFrame]:
    """Threshold against the number of images: independent noise in 128 channels, and subsets of our test images at depth 3."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.2))
    rng, channels = np.random.default_rng(seed), 128
    numbers = (16, 32, 64, 129, 200, 519, 1000, 2000)
    noise = [pca_threshold(rng.standard_normal((n, channels))) for n in numbers]
    left.axhline(int(SHARE * channels) + 1, color="0.4", linestyle=":", linewidth=1.5, label="without end")
    left.plot(numbers, noise, label="noise", **plotting.look(3))
    for n, name in ((129, "BUSI"), (200, "Kvasir-SEG"), (519, "ISIC18")):
        height = noise[numbers.index(n)]
        left.annotate(name, (n, height), (6, -12), textcoords="offset points", fontsize=9)
    left.set(xscale="log", title="noise, 128 channels", xlabel="images", ylabel="components")
    left.set_xticks((20, 100, 500, 2000), labels=("20", "100", "500", "2000"), minor=False)
    left.legend(loc="lower right")
    rows = [{"what": "noise", "channels": channels, "images": n, "EPT": value} for n, value in zip(numbers, noise)]
    for key in ("cse", "srm", "mono"):
        own = [one.arrays["excitation_3"] for one in results if network_of(one.settings) == key]
        smallest = min((len(x) for x in own), default=0)
        counts = sorted({n for n in (4, 8, 16, 32, 64, 128, 256, 512, smallest) if n <= smallest})
        means = [np.mean([subsampled_threshold(x, n, draws=6, seed=seed) for x in own]) for n in counts]
        right.plot(counts, means, linestyle="--", label=NETWORKS[key], **LOOKS[key])
        rows += [
            {"what": NETWORKS[key], "channels": own[0].shape[1], "images": n, "EPT": value}
            for n, value in zip(counts, means)
        ]
    right.set(xscale="log", title="our networks, depth 3", xlabel="test images drawn", ylim=(0, None))
    right.set_xticks(counts, labels=[str(n) for n in counts])
    right.minorticks_off()
    right.legend()
    return figure, pd.DataFrame(rows)


def variability_against_gain(parts: Mapping[str, pd.DataFrame]) -> tuple[plt.Figure, pd.DataFrame]:
    """Total variance of the gates at depth 3 against the gain over the plain U-Net, one panel for each source."""
    figure, axes = _grid(len(parts), height=2.5)
    rows = []
    for axis, (title, points) in zip(axes, parts.items()):
        axis.axhline(0, color="0.4", linewidth=1, linestyle=":")
        for key in [key for key in NETWORKS if key in set(points["network"])]:
            own = points[points["network"] == key]
            axis.plot(
                own["total variance"], own["gain"], linestyle="none", clip_on=False, label=NETWORKS[key], **LOOKS[key]
            )
        known = points["total variance"][points["total variance"] > 0]
        decades = np.log10([known.min(), known.max()]) if len(known) else (-1, 0)
        axis.set(
            title=title,
            xlabel="total variance",
            xscale="log",
            xlim=10.0 ** np.array([decades[0] // 1, -(-decades[1] // 1)]),
        )
        rows.append(points.assign(source=title, network=points["network"].map(NETWORKS)))
    for axis in axes[::3]:
        axis.set_ylabel("gain (points of Dice)")
    _legend(figure, axes)
    table = pd.concat(rows, ignore_index=True)
    return figure, table[["source", "network", "total variance", "gain"]]
