"""Table 1 beside our own numbers: scores, paired gains over the plain U-Net, learning curves."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from medrepro import plotting, published
from medrepro.metrics import holm, interval, paired_p
from medrepro.multifractal.evidence import overlap, paired
from medrepro.multifractal.experiments import MODELS

NAMES = {"unet": "U-Net", "cse": "cSE", "scse": "scSE", "srm": "SRM", "fca": "FCA", "mono": "Mono", "multi": "Multi"}
SETS = {"isic18": "ISIC18", "kvasir": "Kvasir-SEG", "busi": "BUSI"}


def published_table() -> pd.DataFrame:
    """Table 1 as the paper reports it: one row a network, one column a set, spread and mark beside the mean.

    Where two sources give different marks, both are printed.
    """
    frame = published.frame("multifractal", "table_1")
    marks = frame["note"].fillna(frame["mark"]).fillna("")
    frame["text"] = [
        f"{row.value:.2f} ± {row.spread:.2f} {mark}".strip() for row, mark in zip(frame.itertuples(), marks)
    ]
    wide = frame.pivot(index="model", columns="data", values="text").loc[list(MODELS), list(SETS)]
    return (
        wide.rename(index=NAMES, columns=SETS)
        .reset_index()
        .rename(columns={"model": "network"})
        .rename_axis(columns=None)
    )


NOTHING = 0.01  # Dice below which a network marks next to no pixel rightly: the training did not begin to learn


def gains(results: Sequence[Any], *, preset: str, models: Sequence[str] = MODELS) -> pd.DataFrame:
    """Dice of each network in points, its paired gain over the plain U-Net with 95 % interval, and corrected tests.

    Folds share training data, so their interval and test are Nadeau and Bengio's; p values are corrected by Holm.
    ``still falling`` counts trainings whose validation loss had not levelled off, ``found nothing`` those whose Dice is
    below `NOTHING`.
    """
    shared, rows = overlap(results), []
    for model in models:
        own = [
            one
            for one in results
            if one.settings["model"] == model and one.settings["preset"] in (preset, "authors_code")
        ]
        exact = [one for one in own if one.settings["preset"] == preset] or own
        if not exact:
            continue
        dice = [100 * one.metrics["dice"] for one in exact]
        difference = paired(results, model, preset=preset) if model != "unet" else []
        found = interval(difference, overlap=shared) if len(difference) else None
        rows.append({
            "network": NAMES[model], "n": len(dice), "Dice (%)": np.mean(dice), "smallest": min(dice), "largest": max(dice),
            "gain": found.mean if found else np.nan, "gain low": found.low if found else np.nan,
            "gain high": found.high if found else np.nan,
            "p": paired_p(difference, overlap=shared) if len(difference) > 1 else np.nan,
            "still falling": sum(not one.metrics["levelled"] for one in exact),
            "found nothing": sum(one.metrics["dice"] < NOTHING for one in exact),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    if len(table):
        table.insert(table.columns.get_loc("p") + 1, "p (Holm)", holm(table["p"]))
    return table


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `gains` with mean and interval in one cell."""

    def gain(row: Any) -> str:
        if np.isnan(row["gain"]):
            return "–"
        limits = (
            f" [{row['gain low']:+.1f}, {row['gain high']:+.1f}]" if np.isfinite(row["gain low"]) else " (no interval)"
        )
        return f"{row['gain']:+.1f}{limits}"

    if not len(table):
        return table
    return pd.DataFrame({
        "network": table["network"], "n": table["n"], "Dice (%)": table["Dice (%)"].map("{:.1f}".format),
        "gain over U-Net": [gain(row) for _, row in table.iterrows()], "p": table["p"], "p (Holm)": table["p (Holm)"],
        **{name: [f"{row[name]} of {row['n']}" for _, row in table.iterrows()] for name in ("still falling", "found nothing")},
    })  # fmt: skip


def gain_figure(parts: dict[str, pd.DataFrame]) -> tuple[plt.Figure, pd.DataFrame]:
    """Gains over the plain U-Net, one panel for each source, never on one axis: published, recorded, live.

    Parameters
    ----------
    parts
        Panel title -> table with ``network``, ``gain``, ``gain low``, ``gain high`` (NaN where unknown), ``n``.
    """
    order = [NAMES[model] for model in MODELS if model != "unet"]
    figure, axes = plt.subplots(1, len(parts), figsize=(plotting.WIDTH, 3.2), sharey=True, squeeze=False)
    rows = []
    for number, (axis, (title, table)) in enumerate(zip(axes[0], parts.items())):
        axis.axvline(0, color="0.4", linewidth=1, linestyle=":")
        known = table[table["network"].isin(order)].set_index("network").reindex(order)
        known[["gain low", "gain high"]] = known[["gain low", "gain high"]].replace([np.inf, -np.inf], np.nan)
        place = np.arange(len(order))[::-1]
        low = (known["gain"] - known["gain low"]).fillna(0).clip(lower=0)
        high = (known["gain high"] - known["gain"]).fillna(0).clip(lower=0)
        style = plotting.look(number) | {"linestyle": "none"}
        axis.errorbar(known["gain"], place, xerr=[low, high], capsize=3, elinewidth=1.5, **style)
        axis.set(title=title, xlabel="gain in points of Dice", yticks=place, yticklabels=order)
        rows.append(
            known.reset_index().assign(source=title)[["source", "network", "gain", "gain low", "gain high", "n"]]
        )
    return figure, pd.concat(rows, ignore_index=True)


def published_gains(data: str) -> pd.DataFrame:
    """Gains that the paper reports on a set; no interval, since fold scores are not published."""
    values = published.frame("multifractal", "table_1").query("data == @data").set_index("model")["value"]
    rows = [
        {"network": NAMES[m], "gain": values[m] - values["unet"], "gain low": np.nan, "gain high": np.nan, "n": 5}
        for m in MODELS
    ]
    return pd.DataFrame(rows)


def curves(results: Sequence[Any]) -> tuple[plt.Figure, pd.DataFrame]:
    """Validation Dice by epoch: one line a network (mean over trainings), a thin line each training."""
    figure, axes = plt.subplots(2, 4, figsize=(plotting.WIDTH, 3.9), sharex=True, sharey=True)
    rows = []
    for number, (axis, model) in enumerate(zip(axes.flat, MODELS)):
        own = [[100 * row["val_dice"] for row in one.history] for one in results if one.settings["model"] == model]
        for line in own:
            axis.plot(range(1, len(line) + 1), line, color="0.6", linewidth=0.8)
        mean = np.mean(own, axis=0)
        axis.plot(range(1, len(mean) + 1), mean, color=plotting.COLOURS[number])
        axis.set_title(NAMES[model])
        rows += [{"network": NAMES[model], "epoch": n, "validation Dice (%)": value} for n, value in enumerate(mean, 1)]
    axes.flat[-1].set_axis_off()
    axes[1, 0].set_xlabel("epoch")
    axes[0, 0].set_ylabel("Dice (%)")
    return figure, pd.DataFrame(rows)


def welch_from_table(data: str) -> pd.DataFrame:
    """Tests that the published means and spreads alone allow: Welch's p against the U-Net row, five folds each."""
    from scipy.stats import ttest_ind_from_stats

    frame = published.frame("multifractal", "table_1").query("data == @data").set_index("model")
    plain, rows = frame.loc["unet"], []
    for model in MODELS[1:]:
        row = frame.loc[model]
        p = ttest_ind_from_stats(
            row["value"], row["spread"], 5, plain["value"], plain["spread"], 5, equal_var=False
        ).pvalue
        rows.append(
            {
                "network": NAMES[model],
                "data": data,
                "gain": row["value"] - plain["value"],
                "p (Welch)": float(p),
                "mark": row["mark"],
            }
        )
    return pd.DataFrame(rows)


def batch_dependence(results: Sequence[Any]) -> pd.DataFrame:
    """Dice of the exponent networks with the rescaling over the test batch, as coded, and for each image alone."""
    rows = []
    for model in ("mono", "multi"):
        own = [one for one in results if one.settings["model"] == model and "dice_sample" in one.metrics]
        if own:
            batch, single = (np.array([100 * one.metrics[name] for one in own]) for name in ("dice", "dice_sample"))
            found = interval(single - batch)
            rows.append({
                "network": NAMES[model], "n": len(own), "over the batch": batch.mean(), "each image alone": single.mean(),
                "difference": f"{found:+.2f}",
            })  # fmt: skip
    return pd.DataFrame(rows)
