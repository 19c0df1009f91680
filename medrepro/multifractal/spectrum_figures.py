"""Figures of the notebook on spectra: each function draws what it is given and returns the figure with its table."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from medrepro import plotting
from medrepro.data.phantoms import binomial_cascade
from medrepro.metrics import interval
from medrepro.multifractal.exponent import rescale
from medrepro.multifractal.spectrum import Partition, Spectrum, partition_function, spectrum

LOG_SIDE = "log2(box side / image side)"


# -- the cascade and its spectrum ------------------------------------------------------------------------------------


def cascade_steps(p: float, steps: Sequence[int]) -> tuple[plt.Figure, pd.DataFrame]:
    """The binomial cascade after some numbers of steps, as log2 of density over mean density, cut off at -5 and 5."""
    measures = {step: binomial_cascade(step, p) for step in steps}
    figure = plotting.show_maps(
        {f"{step} step{'s' * (step > 1)}": np.log2(mass * mass.size) for step, mass in measures.items()},
        label="log2(density / mean)", cmap="cividis", limits=(-5, 5),
    )  # fmt: skip
    rows = [
        {"steps": step, "boxes": mass.size, "smallest mass": mass.min(), "largest mass": mass.max(), "sum": mass.sum()}
        for step, mass in measures.items()
    ]
    return figure, pd.DataFrame(rows)


def partition_lines(partition: Partition, found: Spectrum) -> tuple[plt.Figure, pd.DataFrame]:
    """log2 of the partition function against log2 of the box side, a line for every moment, with its fitted slope."""
    figure, axis = plt.subplots(figsize=(plotting.WIDTH, 3.4))
    x = partition.log_sides
    table = {"box side (pixels)": partition.sides}
    for number, (q, tau, log_z) in enumerate(zip(found.q, found.tau, partition.log_z)):
        look = plotting.look(number) | {"linestyle": "none"}
        axis.plot(x, tau * (x - x.mean()) + log_z.mean(), color=look["color"], linewidth=1.2)
        axis.plot(x, log_z, **look, label=f"q = {q:g}: slope {tau:.3f}")
        table[f"log2 Z, q = {q:g}"] = log_z
    axis.set(xlabel=LOG_SIDE, ylabel="log2 of partition function")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure, pd.DataFrame(table)


def legendre(found: Spectrum, closed: Spectrum, at: float) -> tuple[plt.Figure, pd.DataFrame]:
    """tau(q) with its tangent at one moment, and f(alpha) with the same moment marked; closed form as lines.

    Parameters
    ----------
    found, closed
        Measured spectrum and the closed form, at the same moments.
    at
        The moment whose tangent is drawn, one of those of `found`.
    """
    here = int(np.argmin(np.abs(found.q - at)))
    alpha, f = found.alpha[here], found.f[here]
    figure, (left, right) = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.5))
    every = slice(None, None, 4)
    dots = {"color": plotting.COLOURS[0], "marker": "o", "linestyle": "none"}
    tangent = {"color": plotting.COLOURS[3], "linestyle": "--", "linewidth": 1.5}
    point = {"color": plotting.COLOURS[3], "marker": "D", "linestyle": "none", "markersize": 8}
    left.plot(closed.q, closed.tau, color="0.3", linewidth=1.2, label="closed form")
    left.plot(found.q[every], found.tau[every], **dots, label="measured")
    ends = np.array([0.0, found.q[-1]])
    left.plot(ends, alpha * ends - f, **tangent, label=f"tangent at q = {at:g}")
    left.plot([at], [found.tau[here]], **point)
    left.annotate(f"-f = {-f:.2f}", (0, -f), (-4.6, -f + 2.4), arrowprops={"arrowstyle": "->", "color": "0.3"})
    left.set(xlabel="moment q", ylabel="mass exponent tau(q)")
    left.legend(loc="lower right")
    right.plot(closed.alpha, closed.f, color="0.3", linewidth=1.2)
    right.plot(found.alpha[every], found.f[every], **dots)
    low = np.array([closed.alpha.min(), 2.1])
    right.plot(low, low, color="0.5", linestyle=":", linewidth=1.5, label="f = alpha, touched at q = 1")
    right.plot([alpha], [f], **point, label=f"q = {at:g}: ({alpha:.2f}, {f:.2f})")
    right.set(xlabel="exponent alpha", ylabel="dimension f(alpha)", ylim=(0, 2.75))
    right.legend(loc="upper right")
    columns = {name: getattr(found, name) for name in ("q", "tau", "alpha", "f")}
    return figure, pd.DataFrame(columns | {f"{name}, closed form": getattr(closed, name) for name in ("tau", "f")})


# -- the network's boxes and its stretch -----------------------------------------------------------------------------


def sliding_and_aligned(
    aligned: np.ndarray, sliding: np.ndarray, stretched: np.ndarray
) -> tuple[plt.Figure, pd.DataFrame]:
    """Shares of local exponents: aligned boxes, sliding boxes, sliding boxes after the stretch.

    Parameters
    ----------
    aligned
        Exponents of aligned boxes, any shape; few different values.
    sliding, stretched
        Exponents of sliding boxes at every pixel, any shape.
    """
    marks, counts = np.unique(aligned.round(6), return_counts=True)
    shares = counts / counts.sum()
    bins = np.linspace(0.5, 7, 66)
    figure, axes = plt.subplots(1, 3, figsize=(plotting.WIDTH, 2.9), sharex=True)
    axes[0].bar(marks, shares, width=0.25, color=plotting.COLOURS[0])
    for mark, count in zip(marks, counts):
        text = f"{count / counts.min():.0f}"
        axes[0].annotate(text, (mark, count / counts.sum()), (0, 2), textcoords="offset points", ha="center")
    axes[0].set(title="aligned boxes", ylabel="share", ylim=(0, 1.15 * shares.max()))
    for axis, title, values in zip(axes[1:], ("sliding boxes", "sliding, stretched"), (sliding, stretched)):
        axis.stairs(np.histogram(values, bins)[0] / values.size, bins, fill=True, color=plotting.COLOURS[0])
        for number, mark in enumerate(marks):
            label = None if number else "aligned\nvalues"
            axis.axvline(mark, color=plotting.COLOURS[3], linestyle="--", linewidth=1, label=label)
        axis.set(title=title, xlim=(0.5, 7))
    axes[2].legend(loc="upper right", handlelength=1.2)
    figure.supxlabel("local exponent", fontsize=10)
    rows = [
        {"boxes": name, "mean": a.mean(), "spread": a.std(), "smallest": a.min(), "largest": a.max()}
        for name, a in {"aligned": aligned, "sliding": sliding, "sliding, stretched": stretched}.items()
    ]
    return figure, pd.DataFrame(rows)


def flattened(
    partitions: Mapping[str, Partition], spectra: Mapping[str, Spectrum], moment: float
) -> tuple[plt.Figure, pd.DataFrame]:
    """f(alpha) of several versions of a measure, and what log2 Z_q keeps beyond a uniform measure at one moment."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.3))
    rows = []
    for number, (name, found) in enumerate(spectra.items()):
        look = plotting.look(number) | {"markevery": 4}
        left.plot(found.alpha, found.f, **look, label=name)
        partition = partitions[name]
        row = int(np.argmin(np.abs(partition.q - moment)))
        right.plot(partition.log_sides, partition.departure[row], **look | {"markevery": 1})
        rows.append({
            "measure": name, "smallest alpha": found.alpha.min(), "largest alpha": found.alpha.max(),
            "width": found.width, f"straightness at q = {moment:g} (R²)": found.departure_r2[row],
        })  # fmt: skip
    left.plot([2], [2], "k*", markersize=10, label="uniform measure")
    left.set(xlabel="exponent alpha", ylabel="dimension f(alpha)", ylim=(0, 2.9))
    left.legend(loc="upper right")
    right.axhline(0, color="0.4", linewidth=1, linestyle=":")
    right.set(xlabel=LOG_SIDE, ylabel=f"log2 Z beyond uniform, q = {moment:g}")
    return figure, pd.DataFrame(rows)


def stretched(measure: np.ndarray) -> np.ndarray:
    """A measure (H, W) after the network's stretch to [1, 256]."""
    return rescale(torch.as_tensor(measure, dtype=torch.float64)[None, None])[0, 0].numpy()


def widths_by_depth(p: float, levels: Sequence[int], moments: Sequence[float]) -> pd.DataFrame:
    """Widths of the spectra of cascades of several depths, as they are and stretched to [1, 256]."""
    rows = []
    for level in levels:
        measure = binomial_cascade(level, p)
        flat = stretched(measure)
        before, after = (spectrum(partition_function(array, moments)).width for array in (measure, flat))
        rows.append({
            "steps": level, "largest / smallest density": measure.max() / measure.min(), "width": before,
            "width, stretched": after, "pixels below 2 after the stretch": (flat < 2).mean(),
        })  # fmt: skip
    return pd.DataFrame(rows)


# -- surfaces --------------------------------------------------------------------------------------------------------


def box_dimensions(surfaces: pd.DataFrame) -> tuple[plt.Figure, pd.DataFrame]:
    """Dimension by box counting and by the structure function against that of the synthesis, 95 % intervals over seeds.

    Parameters
    ----------
    surfaces
        A row a surface with ``hurst`` and the metrics of `spectrum_runs.box_counting_of_surface`.
    """
    series = {"structure": "structure function", "large_boxes": "boxes of side 8 or more"}
    series |= {name: f"all boxes, {name[6:]} levels" for name in surfaces if name.startswith("boxes_")}
    rows = []
    for hurst, group in surfaces.groupby("hurst"):
        for column, name in series.items():
            found = interval(group[column])
            rows.append({
                "Hurst exponent": hurst, "dimension 3 - H": 3 - hurst, "estimate by": name, "surfaces": len(group),
                "mean": found.mean, "low": found.low, "high": found.high, "bias": found.mean - (3 - hurst),
            })  # fmt: skip
    table = pd.DataFrame(rows)
    figure, axis = plt.subplots(figsize=(plotting.WIDTH, 3.5))
    ends = np.array([table["dimension 3 - H"].min() - 0.05, table["dimension 3 - H"].max() + 0.05])
    axis.plot(ends, ends, color="0.4", linestyle=":", linewidth=1.5, label="no bias")
    for number, (name, one) in enumerate(table.groupby("estimate by", sort=False)):
        errors = [one["mean"] - one["low"], one["high"] - one["mean"]]
        axis.errorbar(one["dimension 3 - H"], one["mean"], errors, capsize=3, **plotting.look(number), label=name)
    axis.set(xlabel="dimension of the synthesis, 3 - H", ylabel="estimated dimension")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure, table


# -- real textures ---------------------------------------------------------------------------------------------------


def _partitions(result: Any) -> list[Partition]:
    """Partition functions of a texture run: the image, then its shuffled copies (without derivatives)."""
    arrays = result.arrays
    return [Partition(arrays["q"], arrays["sides"], log_z, np.full_like(log_z, np.nan)) for log_z in arrays["log_z"]]


def scaling_lines(result: Any, moment: float) -> tuple[plt.Figure, pd.DataFrame]:
    """log2 Z_q of a texture and of its shuffled pixels, as it is and beyond a uniform measure, with fits and R².

    Parameters
    ----------
    result
        A run of `spectrum_runs.texture_spectrum`.
    moment
        The q that is drawn.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.4))
    row = int(np.argmin(np.abs(result.arrays["q"] - moment)))
    smallest, largest = result.metrics["smallest"], result.metrics["largest"]
    rows = []
    for number, (name, partition) in enumerate(zip(("image", "shuffled pixels"), _partitions(result))):
        x, look = partition.log_sides, plotting.look(number) | {"linestyle": "none"}
        fitted = (partition.sides >= smallest) & (partition.sides <= largest)
        for axis, y, kind in ((left, partition.log_z[row], "r2"), (right, partition.departure[row], "departure_r2")):
            r2 = result.arrays[kind][number, row]
            line = np.polynomial.Polynomial.fit(x[fitted], y[fitted], 1)
            axis.plot(
                x,
                y,
                **look,
                label=f"{name}: R² = {np.floor(1e6 * r2) / 1e6:.6f}" if axis is left else f"{name}: R² = {r2:.2f}",
            )
            axis.plot(x[fitted], line(x[fitted]), color=look["color"], linewidth=1.5, linestyle="--" if number else "-")
        rows += [
            {"pixels": name, "box side": int(side), "fitted": bool(used), "log2 Z": z, "beyond uniform": rest}
            for side, used, z, rest in zip(partition.sides, fitted, partition.log_z[row], partition.departure[row])
        ]
    for axis, label in ((left, f"log2 Z, q = {moment:g}"), (right, f"log2 Z beyond uniform, q = {moment:g}")):
        axis.axvspan(*np.log2(np.array([smallest, largest]) / result.metrics["side"]), color="0.93", zorder=0)
        axis.set(xlabel=LOG_SIDE, ylabel=label)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.24))
    return figure, pd.DataFrame(rows)


def texture_spectra(results: Sequence[Any], limit: float) -> tuple[plt.Figure, pd.DataFrame]:
    """f(alpha) of textures and of a shuffled copy each, moments up to `limit`; hollow where q is negative."""
    columns = 3
    rows_of_panels = -(-len(results) // columns)
    figure, axes = plt.subplots(
        rows_of_panels, columns, figsize=(plotting.WIDTH, 2.3 * rows_of_panels + 0.5), sharex=True, sharey=True
    )
    rows = []
    for axis, result in zip(axes.flat, results):
        q = result.arrays["q"]
        kept = np.abs(q) <= limit
        for n in reversed(range(2)):  # the image last, on top; copies hardly differ, the table has them all
            alpha, f = (result.arrays[name][n][kept] for name in ("alpha", "f"))
            look = plotting.look(n) | {"linestyle": "-", "linewidth": 1, "markersize": 5}
            label = ("image", "shuffled pixels")[n]
            axis.plot(alpha, f, **look | {"marker": None})
            axis.plot(alpha[q[kept] >= 0], f[q[kept] >= 0], **look | {"linestyle": "none"}, label=label)
            axis.plot(alpha[q[kept] < 0], f[q[kept] < 0], **look | {"linestyle": "none"}, markerfacecolor="white")
        axis.axhline(2, color="0.6", linewidth=1, linestyle=":")
        axis.set_title(f"{result.settings['image']} ({result.metrics['side']:.0f} pixels)")
        axis.set(xlim=(1.65, 2.5), ylim=(1.5, 2.35))  # one frame for all: a long arm may leave it
        rows.append(_widths(result, kept))
    axes.flat[0].legend(loc="lower right", handletextpad=0.2)
    figure.supxlabel("exponent alpha", fontsize=10)
    figure.supylabel("dimension f(alpha)", fontsize=10)
    return figure, pd.DataFrame(rows)


def _widths(result: Any, kept: np.ndarray) -> dict[str, Any]:
    """Width of the spectrum on both sides of q = 0, for the image and over its shuffled copies, and straightness."""
    q, alpha = result.arrays["q"], result.arrays["alpha"]
    bright, dark = (np.ptp(alpha[:, kept & side], axis=1) for side in (q >= 0, q <= 0))
    last = np.flatnonzero(kept)[-1]
    return {
        "image": result.settings["image"], "side": int(result.metrics["side"]),
        "fitted sides": f"{result.metrics['smallest']:.0f} to {result.metrics['largest']:.0f}",
        "width, q >= 0": bright[0], "shuffled": bright[1:].mean(), "shuffled, largest": bright[1:].max(),
        "width, q <= 0": dark[0], "shuffled, q <= 0": dark[1:].mean(),
        f"R² of log2 Z, q = {q[last]:g}": result.arrays["r2"][0, last],
        f"R² beyond uniform, q = {q[last]:g}": result.arrays["departure_r2"][0, last],
    }  # fmt: skip


def slopes_by_range(results: Sequence[Any], moment: float) -> pd.DataFrame:
    """Slopes of log2 Z_q beyond a uniform measure, over the network's sides 2 to 8 and over the fitted ones.

    Parameters
    ----------
    results
        Runs of `spectrum_runs.texture_spectrum`; of the shuffled copies the mean slope is told.
    moment
        The q of the slopes.
    """
    rows = []
    for result in results:
        ends = {"2 to 8": (2, 8), "fitted": (result.metrics["smallest"], result.metrics["largest"])}
        row = {"image": result.settings["image"], "fitted sides": "{:.0f} to {:.0f}".format(*ends["fitted"])}
        at = int(np.argmin(np.abs(result.arrays["q"] - moment)))
        for name, (smallest, largest) in ends.items():
            slopes = [
                spectrum(one, smallest=smallest, largest=largest).tau[at] - 2 * (moment - 1)
                for one in _partitions(result)
            ]
            row |= {f"image, {name}": slopes[0], f"shuffled, {name}": float(np.mean(slopes[1:]))}
        rows.append(row)
    return pd.DataFrame(rows)
