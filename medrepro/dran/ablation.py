"""Tables and figures of the ablation: what each part of the network and of its training does."""

import json
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from medrepro import plotting
from medrepro.dran.comparison import LAWS
from medrepro.dran.denoising_runs import NOISES, NUM_EPOCHS, WAYS
from medrepro.dran.experiments import ARMS, arm_run
from medrepro.dran.noise import LEVELS
from medrepro.metrics import holm, interval, paired_p

#: Mean |n| of blind Gaussian noise, levels 0 to 50, in [-1, 1] units: the L1 loss of predicting nothing.
NOTHING = 2 * 25 / 255 * float(np.sqrt(2 / np.pi))


def quality(result: Any, *, law: str = "paper", way: str = "running", name: str = "psnr") -> float:
    """Mean over looks, levels and images of one training's test."""
    return float(result.arrays[name][NOISES.index(law), WAYS.index(way)].mean())


def mean_l1(result: Any) -> np.ndarray:
    """Validation L1 of the noise after each twentieth of a training, in [-1, 1] units, whatever its loss was."""
    return np.array([row["val_l1"] for row in result.history])


def steps_to(result: Any, share: float) -> float:
    """Steps until the validation L1 is below a share of the loss of predicting nothing; infinite if it never is.

    Known to a twentieth of the training.
    """
    reached = np.flatnonzero(mean_l1(result) < share * NOTHING)
    return float((reached[0] + 1) * result.settings["steps"] // NUM_EPOCHS) if len(reached) else float("inf")


def skip_of(result: Any) -> str:
    """Name of a training's skip path."""
    return {"gate": "noise gate", "identity": "identity", "conv": "plain convolution"}[
        result.settings.get("skip", "gate")
    ]


def skip_figure(results: Sequence[Any]) -> tuple[plt.Figure, pd.DataFrame]:
    """Validation L1 by steps, a thin line a training, a thick one the mean of a skip path."""
    figure, axis = plt.subplots(figsize=(plotting.WIDTH, 3.4))
    rows, names = [], list(dict.fromkeys(skip_of(one) for one in results))
    for n, name in enumerate(names):
        own = [one for one in results if skip_of(one) == name]
        steps = np.arange(1, NUM_EPOCHS + 1) * own[0].settings["steps"] // NUM_EPOCHS
        curves = np.stack([mean_l1(one) for one in own])
        style = plotting.look(n)
        axis.plot(steps, curves.T, color=style["color"], linewidth=0.8, alpha=0.6)
        axis.plot(steps, curves.mean(0), label=name, markevery=3, **style)
        rows += [
            {"skip path": name, "seed": one.settings["seed"], "steps": step, "validation L1": value}
            for one, curve in zip(own, curves, strict=True)
            for step, value in zip(steps, curve, strict=True)
        ]
    axis.axhline(NOTHING, color="black", linestyle=":", label="predicting nothing")
    axis.set_xlabel("steps")
    axis.set_ylabel("validation L1, range −1 to 1")
    axis.set_yscale("log")
    axis.legend()
    return figure, pd.DataFrame(rows)


def skip_table(results: Sequence[Any], *, shares: Sequence[float] = (0.75, 0.5)) -> pd.DataFrame:
    """Steps to given losses, final loss and its spread over seeds, and test PSNR, for each skip path."""
    rows = []
    for name in dict.fromkeys(skip_of(one) for one in results):
        own = [one for one in results if skip_of(one) == name]
        last = np.array([mean_l1(one)[-1] for one in own])
        row = {"skip path": name, "n": len(own)}
        for share in shares:
            steps = [steps_to(one, share) for one in own]
            row[f"steps to {share:g} of nothing"] = ", ".join(
                "never" if np.isinf(step) else f"{step:.0f}" for step in steps
            )
        row |= {
            "final L1": f"{last.mean():.4f}",
            "spread over seeds": f"{last.std(ddof=1):.4f}" if len(own) > 1 else "–",
        }
        row["PSNR (dB)"] = f"{interval([quality(one) for one in own]):.2f}"
        rows.append(row)
    return pd.DataFrame(rows)


def _told(one: Any) -> str:
    return json.dumps(one.settings, sort_keys=True)


def skip_arms(results: Sequence[Any]) -> list[Any]:
    """Of recorded trainings those of the arms that differ in the skip path alone."""
    arms = [arm for arm, own in ARMS.items() if set(own) <= {"skip"}]
    wanted = {_told(arm_run(arm, seed)) for arm in arms for seed in range(3)}
    return [one for one in results if _told(one) in wanted]


def arm_table(results: Sequence[Any]) -> pd.DataFrame:
    """Every arm against DRAN as it stands, paired by seed: PSNR gain under Gaussian noise with interval and Holm's p.

    Parameters
    ----------
    results
        Recorded trainings of `ARMS`; arms without a partner at any seed are left out.
    """
    found: dict[str, dict[int, Any]] = {}
    arms = {_told(arm_run(arm, seed)): (arm, seed) for arm in ARMS for seed in range(3)}
    for one in results:
        if known := arms.get(_told(one)):
            found.setdefault(known[0], {})[known[1]] = one
    base, rows = found.get("dran", {}), []
    for arm, own in found.items():
        seeds = sorted(own.keys() & base.keys())
        if not seeds:
            continue
        values = np.array([quality(own[seed]) for seed in seeds])
        gains = values - [quality(base[seed]) for seed in seeds]
        rows.append({
            "arm": "DRAN as it stands" if arm == "dran" else arm, "n": len(seeds),
            "parameters": own[seeds[0]].metrics["parameters"], "PSNR (dB)": values.mean(),
            "spread": values.std(ddof=1) if len(seeds) > 1 else np.nan,
            "gain": gains.mean(), "interval": "–" if arm == "dran" else f"{interval(gains):+.2f}",
            "p": np.nan if arm == "dran" or len(seeds) < 2 else paired_p(gains),
            "final L1": np.mean([mean_l1(own[seed])[-1] for seed in seeds]),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    if len(table):
        tested = table["p"].notna()
        table.loc[tested, "p (Holm)"] = holm(table.loc[tested, "p"])
    return table


def arm_figure(table: pd.DataFrame) -> plt.Figure:
    """Gain of every arm over DRAN as it stands, with its 95 % interval."""
    shown = table[table["arm"] != "DRAN as it stands"].sort_values("gain").reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(plotting.WIDTH, 0.3 * len(shown) + 1.0))
    for place, row in shown.iterrows():
        half = np.nan if row["n"] < 2 else _upper(row["interval"]) - row["gain"]
        axis.errorbar(row["gain"], place, xerr=half, color=plotting.COLOURS[0], marker="o", capsize=3)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(shown)), shown["arm"])
    axis.set_xlabel("PSNR gain over DRAN as it stands (dB), 95 % interval over seeds")
    return figure


def _upper(text: str) -> float:
    return float(text.rsplit(",", 1)[1].strip(" ]"))


def mismatch_table(results: Sequence[Any]) -> pd.DataFrame:
    """Mean PSNR of networks trained under one law and tested under the other: four cells, and the offset left."""
    rows = []
    for one in results:
        for law in NOISES:
            rows.append({
                "trained on": LAWS[one.settings["noise"]], "tested on": LAWS[law], "PSNR (dB)": quality(one, law=law),
                "offset": quality(one, law=law, name="offset"),
            })  # fmt: skip
    return pd.DataFrame(rows)


def ways_table(results: Sequence[Any]) -> pd.DataFrame:
    """Mean PSNR at each level with running, single-image and recalibrated batch norm, under the law of the training."""
    rows = []
    for one in results:
        law = one.settings["noise"]
        for way in WAYS:
            by_level = one.arrays["psnr"][NOISES.index(law), WAYS.index(way)].mean((0, 2))
            rows.append(
                {"trained on": LAWS[law], "statistics": way} | dict(zip(map(str, LEVELS), by_level, strict=True))
            )
    return pd.DataFrame(rows)
