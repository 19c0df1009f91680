"""What timed runs say to the claim on cost."""

from typing import Any

import numpy as np

from medrepro import ledger, recorded, runs, staging
from medrepro.multifractal import experiments

NOTEBOOK = "multifractal/05-cost"


def extra_steps(result: Any, variant: str) -> np.ndarray:
    """Time of a variant's training step over that of cSE and SRM (mean of both), in plain U-Net steps, one value a round."""
    rounds: dict[int, dict[str, float]] = {}
    for row in result.history:
        if row["kind"] == "training step":
            rounds.setdefault(row["round"], {})[row["variant"]] = row["ratio"]
    return np.array([own[variant] - (own["cse"] + own["srm"]) / 2 for _, own in sorted(rounds.items())])


def dearer_than_gates(*, live: bool) -> list[ledger.Evidence]:
    """Evidence that Mono and Multi cost more than SE and SRM, as the equations read and in our forms."""
    found = [("recorded, phantoms", "recorded", one) for one in recorded.found(experiments.recorded(NOTEBOOK))]
    if live:
        stored = [runs.load(run) for run in staging.plan(NOTEBOOK, "cpu")]
        found += [("live, phantoms", "cpu", one) for one in stored if one is not None]
    evidence = []
    for source, profile, one in found:
        size, batch = one.settings["size"], one.settings["batch_size"]
        note = f"{one.settings['rounds']} rounds, {size} x {size} pixels of noise, batch {batch}, one CPU thread"
        for variant in ("mono, literal", "multi, literal", "mono, ours", "multi, ours"):
            effects = extra_steps(one, variant)
            evidence.append(ledger.Evidence(source, "noise", profile, effects, variant, note=note))
    return evidence
