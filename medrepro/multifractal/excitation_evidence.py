"""What the trainings say to the ledger's rows on excitations: thresholds, skip connections, instance variability."""

from collections.abc import Callable, Sequence
from typing import Any

from medrepro import ledger, recorded, runs, staging
from medrepro.multifractal import excitation_tables as tables
from medrepro.multifractal import experiments
from medrepro.multifractal.evidence import overlap

NOTEBOOK = "multifractal/04-excitations"


def slope_differences(results: Sequence[Any]) -> list[float]:
    """Slope of the threshold of cSE with depth, with minus without skips, one value a case."""
    return tables.slopes(tables.analysed(results))["difference"].tolist()


def above_cse(results: Sequence[Any], depths: Sequence[int] = tables.DEPTHS) -> list[float]:
    """Threshold of SRM and Mono minus that of cSE, mean over both and over depths, one value a case that has all three."""
    table = tables.analysed(results)
    wide = table[table["depth"].isin(depths)].pivot(index=["case", "depth"], columns="network", values="EPT")
    if not {"cse", "srm", "mono"} <= set(wide.columns):
        return []
    difference = (wide["srm"] + wide["mono"]) / 2 - wide["cse"]
    return difference.unstack("depth").dropna().mean(axis=1).tolist()


def variability_correlations(results: Sequence[Any]) -> list[float]:
    """Rank correlation, over networks, of total variance at depth 3 with the gain in Dice, one value a case."""
    points = tables.variability_and_gain(results, tables.analysed(results))
    return tables.case_correlations(points, "total variance")


def _found(condition: str, effects: Callable[[Sequence[Any]], list[float]], *, live: bool) -> list[ledger.Evidence]:
    """Recorded folds of real images count from two on; live phantoms stand beside them."""
    folds, found = recorded.found(experiments.recorded(NOTEBOOK)), []
    if len(values := effects(folds)) >= 2:
        size, epochs = (experiments.RECORDED[name] for name in ("size", "num_epochs"))
        note = f"{len(values)} folds of a subset of BUSI, {size} pixels, {epochs} epochs, half of the paper's channels"
        found.append(
            ledger.Evidence(
                "recorded, real data", "busi (subset)", "recorded", values, condition, overlap(folds), note=note
            )
        )
    stored = [one for run in staging.plan(NOTEBOOK, "cpu") if (one := runs.load(run))] if live else []
    if len(values := effects(stored)) >= 2:
        note = f"{len(values)} seeds, short trainings on phantoms, a quarter of the paper's channels"
        found.append(ledger.Evidence("live, phantoms", "phantom", "cpu", values, condition, note=note))
    return found


def threshold_with_and_without_skips(*, live: bool, condition: str = "busi") -> list[ledger.Evidence]:
    """Evidence that the threshold of cSE grows more with depth where the network has skip connections."""
    return _found(condition, slope_differences, live=live)


def threshold_figure(*, live: bool) -> list[ledger.Evidence]:
    """Evidence on the two differences that the figure of thresholds stresses."""
    skips = threshold_with_and_without_skips(live=live, condition="busi, skips")
    return skips + _found("busi, SRM and Mono", above_cse, live=live)


def explained_variance_figure(*, live: bool) -> list[ledger.Evidence]:
    """Evidence that the curves of SRM and Mono lie below that of cSE at depth 3: they need more components."""
    return _found("busi, depth 3", lambda results: above_cse(results, depths=(3,)), live=live)


def variability_and_gain(*, live: bool) -> list[ledger.Evidence]:
    """Evidence that networks whose gates vary more between images gain more."""
    return _found("busi", variability_correlations, live=live)
