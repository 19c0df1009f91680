"""What the trainings say to the rows of the ledger: paired differences between networks, from recorded or live runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medrepro import ledger, published, recorded, runs, staging
from medrepro.multifractal import experiments

TABLE = "multifractal/03-table-1"


def paired(results: Sequence[Any], model: str, other: str = "unet", *, preset: str = "authors_code") -> np.ndarray:
    """Dice of a network minus that of another, in points, one value a case (seed, fold) that both have.

    A network without two readings is found under the authors' code whatever `preset` says.
    """

    def scores(name: str) -> dict[tuple, float]:
        reading = preset if name in experiments.READ_TWICE else "authors_code"
        found = [one for one in results if one.settings.get("model") == name]
        exact = [one for one in found if one.settings["preset"] == reading] or found
        return {(one.settings["seed"], one.settings.get("fold", 0)): 100 * one.metrics["dice"] for one in exact}

    first, second = scores(model), scores(other)
    return np.array([first[case] - second[case] for case in sorted(first.keys() & second.keys())])


def overlap(results: Sequence[Any]) -> float:
    """Test over training cases of folds, for the corrected interval; 0 for phantoms, whose seeds share nothing."""
    folds = [one for one in results if "fold" in one.settings]
    return float(np.mean([one.metrics["num_test"] / one.metrics["num_train"] for one in folds])) if folds else 0.0


def published_gain(model: str, data: str) -> float:
    """Gain over the plain U-Net that the paper reports on a set, in points of Dice."""
    table = published.frame("multifractal", "table_1").set_index(["model", "data"])["value"]
    return float(table[(model, data)] - table[("unet", data)])


def _live() -> list[runs.StoredRun]:
    """Live runs of Table 1 at profile cpu, as far as they are stored."""
    return [one for run in staging.plan(TABLE, "cpu") if (one := runs.load(run))]


def gain_over_unet(*, live: bool, model: str) -> list[ledger.Evidence]:
    """Evidence on one network's gain over the plain U-Net, on the side that the paper reports for BUSI.

    Recorded folds of real images count from two folds on; without them, live phantoms speak to the condition ``busi``.
    """
    sign = 1 if published_gain(model, "busi") > 0 else -1
    found = []
    folds = recorded.found(experiments.recorded(TABLE))
    if len(effects := sign * paired(folds, model)) >= 2:
        note = f"{len(effects)} folds of a subset of BUSI, {experiments.RECORDED['size']} pixels, {experiments.RECORDED['num_epochs']} epochs"
        found.append(
            ledger.Evidence(
                "recorded, real data", "busi (subset)", "recorded", effects, "busi", overlap(folds), note=note
            )
        )
    if live and len(effects := sign * paired(_live(), model)) >= 2:
        note = f"{len(effects)} seeds, short trainings on phantoms"
        found.append(ledger.Evidence("live, phantoms", "phantom", "cpu", effects, "busi", note=note))
    return found
