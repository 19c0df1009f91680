"""Tables of the excitation analysis: statistics of trained networks, published thresholds, skips, variability against gain."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medrepro import published
from medrepro.metrics import Interval, interval
from medrepro.multifractal.evidence import published_gain
from medrepro.multifractal.excitations import (
    depth_slope,
    interquartile_range,
    largest_channel_share,
    pca_threshold,
    rank_correlation,
    variability,
)

#: Networks by key, in the order of the paper's figures; ``cse-ns`` has no skip connections.
NETWORKS = {"cse": "cSE", "cse-ns": "cSE without skips", "srm": "SRM", "fca": "FCA", "mono": "Mono"}
SETS = {"isic18": "ISIC18", "kvasir": "Kvasir-SEG", "busi": "BUSI"}
DEPTHS = (1, 2, 3)
#: Statistics of instance variability that are related to gains.
STATISTICS = ("total variance", "mean std", "participation ratio")
NARROW = 1e-6  # inter-quartile range below which a channel hardly varies
UNDEFINED = "undefined"  # a correlation of what does not vary


def network_of(settings: Mapping[str, Any]) -> str:
    """Key of a network: its model, with ``-ns`` where it was trained without skip connections."""
    return settings["model"] + ("" if settings.get("skips", True) else "-ns")


def case_of(settings: Mapping[str, Any]) -> tuple[int, int]:
    """What paired networks share: seed and fold."""
    return settings["seed"], settings.get("fold", 0)


def analysed(results: Iterable[Any]) -> pd.DataFrame:
    """Statistics of the gates of every trained network at every depth; networks or runs without gates are left out.

    Returns
    -------
    DataFrame
        One row a run and depth: ``network`` (key), ``case``, ``depth``, ``images``, ``channels``, ``EPT``, ``EPT raw``, the
        statistics of `variability`, ``narrow channels`` (inter-quartile range below 1e-6) and ``largest share`` (of the
        variance after scaling, in one channel).
    """
    rows = []
    for one in results:
        arrays = one.arrays
        for depth in DEPTHS:
            if network_of(one.settings) not in NETWORKS or f"excitation_{depth}" not in arrays:
                continue
            x = arrays[f"excitation_{depth}"]
            rows.append({
                "network": network_of(one.settings), "case": case_of(one.settings), "depth": depth, "images": len(x),
                "channels": x.shape[1], "EPT": pca_threshold(x), "EPT raw": pca_threshold(x, robust=False), **variability(x),
                "narrow channels": int((interquartile_range(x) < NARROW).sum()), "largest share": largest_channel_share(x),
            })  # fmt: skip
    columns = ["network", "case", "depth", "images", "channels", "EPT", "EPT raw", *STATISTICS, "saturated"]
    return pd.DataFrame(rows, columns=[*columns, "narrow channels", "largest share"])


def by_depth(table: pd.DataFrame) -> pd.DataFrame:
    """Threshold by network and depth: mean, smallest and largest over cases, number of cases that have one."""
    grouped = table.groupby(["network", "depth"])["EPT"]
    found = grouped.agg(EPT="mean", smallest="min", largest="max", cases="count").reset_index()
    found["network"] = pd.Categorical(found["network"], [*NETWORKS])
    return found.sort_values(["network", "depth"], ignore_index=True).astype({"network": str})


# -- published thresholds --------------------------------------------------------------------------------------------


def typed_thresholds(data: str) -> pd.DataFrame:
    """The thresholds that the paper's figure draws for a set, as typed into the authors' notebook; FCA is not drawn."""
    frame = published.frame("multifractal", "excitation_threshold_typed").query("data == @data and model != 'fca'")
    return pd.DataFrame({
        "network": frame["model"], "depth": frame["depth"], "EPT": frame["value"].astype(float),
        "smallest": frame["value"].astype(float), "largest": frame["value"].astype(float), "cases": 1,
    }).reset_index(drop=True)  # fmt: skip


def recomputed() -> pd.DataFrame:
    """Statistics computed again from the authors' CSV files: one row a set and network, one column a quantity."""
    frame = published.frame("multifractal", "excitation_statistics_recomputed")
    return frame.pivot(index=["data", "model"], columns="quantity", values="value").astype(float)


def typed_against_recomputed() -> pd.DataFrame:
    """Thresholds at depth 3, typed by hand and computed again from the CSV files, with what separates them."""
    again = recomputed()["threshold"]
    rows = []
    for data in SETS:
        typed = typed_thresholds(data).query("depth == 3").set_index("network")["EPT"]
        rows += [
            {"data": data, "network": key, "typed": typed[key], "recomputed": again[data, key]} for key in typed.index
        ]
    table = pd.DataFrame(rows)
    table["recomputed - typed"] = table["recomputed"] - table["typed"]
    kinds = [
        table["recomputed - typed"] == 0,
        table["recomputed - typed"] == 1,
        table["typed"] == 2 * table["recomputed"],
    ]
    table["difference"] = np.select(kinds, ["none", "the + 1 is missing", "twice the value"], "other")
    return table


# -- skip connections and depth --------------------------------------------------------------------------------------


def slopes(thresholds: pd.DataFrame) -> pd.DataFrame:
    """Slope of the threshold of cSE with depth, with and without skips, and their paired difference, case by case.

    Parameters
    ----------
    thresholds
        Rows with ``network``, ``case``, ``depth``, ``EPT``. Cases without a threshold at every depth are left out.
    """
    wide = thresholds.pivot(index=["case", "network"], columns="depth", values="EPT").dropna()
    found = (
        wide.apply(lambda row: depth_slope(row.tolist()), axis=1).unstack("network") if len(wide) else pd.DataFrame()
    )
    if not {"cse", "cse-ns"} <= set(found.columns):
        return pd.DataFrame(columns=["case", "with skips", "without skips", "difference"])
    both = found[["cse", "cse-ns"]].dropna()
    table = pd.DataFrame({"with skips": both["cse"], "without skips": both["cse-ns"]}).reset_index()
    table["difference"] = table["with skips"] - table["without skips"]
    return table


def published_slopes(*, again: bool = False) -> pd.DataFrame:
    """The same from the typed thresholds, one case a set; `again` puts the recomputed values in their place at depth 3."""
    parts = [typed_thresholds(data).assign(case=data) for data in SETS]
    table, computed = pd.concat(parts, ignore_index=True), recomputed()["threshold"]
    if again:
        deepest = table["depth"] == 3
        keys = zip(table.loc[deepest, "case"], table.loc[deepest, "network"])
        table.loc[deepest, "EPT"] = [computed[key] for key in keys]
    return slopes(table).set_index("case").loc[[*SETS]].reset_index()


def slope_table(sources: Mapping[str, pd.DataFrame], overlaps: Mapping[str, float]) -> pd.DataFrame:
    """Slopes of several sources with the interval of their paired difference; `overlaps` as in `medrepro.metrics.interval`."""
    rows = []
    for source, table in sources.items():
        if not len(table):
            continue
        found = interval(table["difference"], overlap=overlaps.get(source, 0.0))
        rows.append({
            "source": source, "cases": found.n, "with skips": table["with skips"].mean(),
            "without skips": table["without skips"].mean(), "with - without": f"{found:.2f}",
        })  # fmt: skip
    return pd.DataFrame(rows)


# -- instance variability against gain -------------------------------------------------------------------------------


def variability_and_gain(results: Sequence[Any], table: pd.DataFrame, *, depth: int = 3) -> pd.DataFrame:
    """For each network with skips and each case: statistics of its gates at a depth, gain over the plain U-Net in points.

    Parameters
    ----------
    results
        Trainings, the plain U-Net among them.
    table
        Their statistics, from `analysed`.
    """
    dice = {(network_of(one.settings), case_of(one.settings)): 100 * one.metrics["dice"] for one in results}
    chosen = table[(table["depth"] == depth) & (table["network"] != "cse-ns")]
    gains = [
        dice[network, case] - dice.get(("unet", case), np.nan)
        for network, case in zip(chosen["network"], chosen["case"])
    ]
    return chosen[["network", "case", *STATISTICS]].assign(gain=gains).dropna(subset="gain").reset_index(drop=True)


def published_variability_and_gain() -> pd.DataFrame:
    """The same from published numbers: Table 1 and the statistics of the CSV files; the sets are the cases."""
    again = recomputed()
    rows = [
        {"network": key, "case": data, "total variance": again.loc[(data, key), "total_variance"],
         "mean std": again.loc[(data, key), "mean_std"], "gain": published_gain(key, data)}
        for data in SETS for key in NETWORKS if key != "cse-ns"
    ]  # fmt: skip
    return pd.DataFrame(rows)


def case_correlations(points: pd.DataFrame, statistic: str) -> list[float]:
    """Rank correlation of a statistic with the gain inside each case that has at least three networks."""
    groups = [group for _, group in points.groupby("case") if len(group) >= 3]
    found = [rank_correlation(group[statistic], group["gain"]).mean for group in groups]
    return [rho for rho in found if np.isfinite(rho)]


def correlation_table(sources: Mapping[str, pd.DataFrame], overlaps: Mapping[str, float]) -> pd.DataFrame:
    """Rank correlation of each statistic with the gain: over all points, and inside each case; with 95 % intervals.

    A correlation is ``undefined`` where no case has three networks whose statistic and gain vary, as after a training
    too short for any network to find a lesion.
    """
    rows = []
    for source, points in sources.items():
        for statistic in [name for name in STATISTICS if name in points]:
            known = points.dropna(subset=statistic)
            row = {"source": source, "statistic": statistic, "points": len(known)}
            if not (inside := case_correlations(known, statistic)):
                rows.append(row | {"all points": UNDEFINED, "cases": 0, "inside cases": UNDEFINED})
                continue
            pooled = rank_correlation(known[statistic], known["gain"])
            each = interval(inside, overlap=overlaps.get(source, 0.0))
            each = Interval(each.mean, max(each.low, -1.0), min(each.high, 1.0), each.n)  # a correlation is no larger
            told = f"{pooled:.2f}" if np.isfinite(pooled.low) else f"{pooled.mean:.2f} (no interval)"
            rows.append(row | {"all points": told, "cases": len(inside), "inside cases": f"{each:.2f}"})
    return pd.DataFrame(rows)


def scaling_table(table: pd.DataFrame, *, depth: int = 3) -> pd.DataFrame:
    """Thresholds with and without robust scaling at a depth, beside saturation and the largest channel: means over cases."""
    shown = ["EPT", "EPT raw", "saturated", "narrow channels", "largest share"]
    found = table[table["depth"] == depth].groupby("network")[shown].mean()
    found = found.reindex([key for key in NETWORKS if key in found.index])
    return found.rename(index=NETWORKS, columns={"EPT": "EPT robust"}).reset_index()
