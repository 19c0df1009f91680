"""What a careful reader checks: tests on the paper's own numbers, dead parts of the protocol, splits, masks, batches."""

import inspect
import json
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from medrepro import plotting, published
from medrepro.metrics import interval
from medrepro.multifractal.comparison import NAMES, SETS
from medrepro.multifractal.experiments import ARMS, MODELS, arm_runs

NUM_FOLDS = 5


def published_tests(*, correlation: float = 0.5) -> pd.DataFrame:
    """Tests of every row of Table 1 against the U-Net row, from published means and spreads alone.

    Parameters
    ----------
    correlation
        Assumed between the fold scores of two networks: the fold scores themselves are not published.

    Returns
    -------
    DataFrame
        One row a comparison: gain in points, ``Welch`` (two groups, unequal variances), ``paired`` (Student's t on
        differences), ``corrected`` (Nadeau and Bengio's, for folds that share three quarters of their training images:
        variance factor 1/5 + 1/4), all two-sided p values, and the published mark.
    """
    from scipy import stats

    def two_sided(statistic: float) -> float:
        return float(2 * stats.t.sf(abs(statistic), NUM_FOLDS - 1))

    frame = published.frame("multifractal", "table_1").set_index(["data", "model"])
    rows = []
    for data in SETS:
        plain = frame.loc[(data, "unet")]
        for model in MODELS[1:]:
            row = frame.loc[(data, model)]
            gain, first, second = row["value"] - plain["value"], row["spread"], plain["spread"]
            spread = np.sqrt(first**2 + second**2 - 2 * correlation * first * second)
            welch = stats.ttest_ind_from_stats(
                row["value"], first, NUM_FOLDS, plain["value"], second, NUM_FOLDS, equal_var=False
            )
            rows.append({
                "data": SETS[data], "network": NAMES[model], "gain": gain, "Welch": float(welch.pvalue),
                "paired": two_sided(gain / spread / np.sqrt(1 / NUM_FOLDS)),
                "corrected": two_sided(gain / spread / np.sqrt(1 / NUM_FOLDS + 1 / (NUM_FOLDS - 1))), "mark": row["mark"],
            })  # fmt: skip
    return pd.DataFrame(rows)


def dead_at_start(num_layers: int, *, num_levels: int = 16, seed: int = 0) -> np.ndarray:
    """Level sets without a gradient in freshly started Multi layers of the authors' code, one count a layer."""
    import torch

    from medrepro.multifractal.recalibration import Multi

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        layers = [Multi(1, preset="authors_code", num_levels=num_levels) for _ in range(num_layers)]
        return np.array([int((layer.precisions() == 0).sum()) for layer in layers])


def dead_after_training(results: Sequence[Any]) -> pd.DataFrame:
    """Dead level sets of trained Multi networks, depth by depth, at their start and at their end, and how many came alive."""
    from medrepro.multifractal.segmentation_runs import seeded_unet

    rows = []
    for one in results:
        given = {name: one.settings[name] for name in ("model", "seed", "channels", "size", "preset")}
        net = seeded_unet(**given, switches=one.settings.get("switches"))
        before = [(level.recalibrate.precisions() == 0)[0] for level in net.encoder]
        net.load_state_dict(one.weights)
        after = [(level.recalibrate.precisions() == 0)[0] for level in net.encoder]
        for depth, (first, last) in enumerate(zip(before, after, strict=True), 1):
            rows.append({
                "seed": given["seed"], "depth": depth, "dead at the start": int(first.sum()),
                "dead at the end": int(last.sum()), "came alive": int((first & ~last).sum()), "of": len(first),
            })  # fmt: skip
    return pd.DataFrame(rows)


def plateau_rates(num_epochs: int, *, lr: float = 1e-4, floor: float) -> np.ndarray:
    """Learning rates under the plateau schedule (factor 1/2, patience 10) while a loss stagnates, shape (num_epochs,)."""
    import torch

    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=10, min_lr=floor)
    rates = []
    for _ in range(num_epochs):
        schedule.step(1.0)
        rates.append(optimiser.param_groups[0]["lr"])
    return np.array(rates)


def validation_sets() -> pd.DataFrame:
    """In how many of five folds each set's validation images are the very same, under the authors' split."""
    from medrepro.data.splits import folds

    rows = []
    for data, count in (("isic18", 2594), ("kvasir", 1000)):
        chosen = [tuple(fold["val"]) for fold in folds(data, np.zeros(count, int), rule="authors")]
        commonest = max(set(chosen), key=chosen.count)
        rows.append({
            "data": SETS[data], "images": count, "validation images": len(commonest), "first": commonest[0],
            "last": commonest[-1], "folds with the very same": chosen.count(commonest),
        })  # fmt: skip
    return pd.DataFrame(rows)


def mask_ceiling(values: Sequence[float]) -> pd.DataFrame:
    """Best possible Dice and IoU, as coded, of a perfect prediction where the mask is stored at these grey values."""
    import torch

    from medrepro.multifractal.objectives import Confusion, dice_per_image

    truth = torch.zeros(1, 1, 16, 16)
    truth[..., 4:12, 4:12] = 1
    rows = []
    for value in values:
        confusion = Confusion().plus(truth, value * truth)
        dice = float(dice_per_image(truth, value * truth)[0])
        rows.append({"mask stored at": value, "Dice": dice, "IoU": float(confusion.iou())})
    return pd.DataFrame(rows)


def batch_scores(results: Sequence[Any], *, sizes: Sequence[int] = (1, 16, 32, 64)) -> pd.DataFrame:
    """Test Dice (%) of stored networks, tested again at other batch sizes, and once in another order of images.

    Parameters
    ----------
    results
        Trainings that kept their weights; one on a real set needs that set under ``MEDREPRO_DATA``.
    sizes
        Test batches; 32 is the one of the authors' code.
    """
    from medrepro.multifractal.attention_figures import trained_network
    from medrepro.multifractal.segmentation_runs import fold_sets, test_scores

    rows = []
    for one in results:
        known = {name: one.settings[name] for name in inspect.signature(fold_sets).parameters if name in one.settings}
        test, net = fold_sets(**known)["test"], trained_network(one)
        order = np.random.default_rng(one.settings["seed"]).permutation(len(test))
        tests = {f"batch {size}": (test, size) for size in sizes} | {"batch 32, shuffled": (test.take(order), 32)}
        found = {
            name: float(100 * test_scores(net, taken.images, taken.masks, batch_size=size, device="cpu")[0].mean())
            for name, (taken, size) in tests.items()
        }
        rows.append({"network": NAMES[one.settings["model"]], "seed": one.settings["seed"], **found})
    return pd.DataFrame(rows)


def arm_gains(results: Sequence[Any]) -> pd.DataFrame:
    """Paired gain of every arm over the row of Table 1 that it starts from, and of every row over the plain U-Net.

    In points of Dice, with 95 % intervals over seeds; ``still falling`` counts trainings that had not levelled off.

    Raises
    ------
    ValueError
        No arm is there together with the row that it starts from.
    """
    keys = {_key(arm_runs(arm)[0].settings): arm for arm in ARMS}
    stored: dict[str, dict[int, Any]] = {}
    for one in results:
        if arm := keys.get(_key(one.settings)):
            stored.setdefault(arm, {})[one.settings["seed"]] = one
    rows = []
    for arm, own in stored.items():
        base = "unet" if arm in MODELS or arm.startswith("unet") else ARMS[arm]["model"]
        seeds = sorted(own.keys() & stored.get(base, {}).keys())
        if arm == base or not seeds:
            continue
        dice = np.array([[100 * runs[seed].metrics["dice"] for seed in seeds] for runs in (own, stored[base])])
        found = interval(dice[0] - dice[1])
        rows.append({
            "arm": arm, "against": NAMES[base], "n": len(seeds), "Dice (%)": dice[0].mean(), "gain": found.mean,
            "gain low": found.low, "gain high": found.high,
            "still falling": sum(not own[seed].metrics["levelled"] for seed in seeds),
        })  # fmt: skip
    if not rows:
        raise ValueError("no arm and the row it starts from are recorded together: record some first")
    order = [NAMES[model] for model in MODELS]
    return pd.DataFrame(rows).sort_values("against", key=lambda names: names.map(order.index), kind="stable")


def _key(settings: dict[str, Any]) -> str:
    return json.dumps([settings.get(name) for name in ("model", "preset", "switches", "control")], sort_keys=True)


def told(table: pd.DataFrame, *arms: str) -> str:
    """Gains of arms with their intervals, as one line of prose; an arm that is not recorded is said to be missing."""
    rows, parts = table.set_index("arm"), []
    for arm in arms:
        if arm not in rows.index:
            parts.append(f"{arm}: not recorded")
            continue
        row = rows.loc[arm]
        parts.append(f"{arm} {row['gain']:+.1f} [{row['gain low']:+.1f}, {row['gain high']:+.1f}]")
    return "; ".join(parts)


def arms_figure(table: pd.DataFrame) -> tuple[plt.Figure, pd.DataFrame]:
    """Gains of arms with intervals, one panel for each row that they are compared with."""
    groups = list(table.groupby("against", sort=False))
    heights = [len(group) + 1 for _, group in groups]
    figure, axes = plt.subplots(
        len(groups),
        1,
        figsize=(plotting.WIDTH, 0.27 * sum(heights) + 0.8),
        sharex=True,
        squeeze=False,
        height_ratios=heights,
    )
    for number, (axis, (base, group)) in enumerate(zip(axes.flat, groups)):
        place = np.arange(len(group))[::-1]
        low, high = group["gain"] - group["gain low"], group["gain high"] - group["gain"]
        errors = [part.where(np.isfinite(part), 0) for part in (low, high)]
        style = plotting.look(number) | {"linestyle": "none"}
        axis.axvline(0, color="0.4", linewidth=1, linestyle=":")
        axis.errorbar(group["gain"], place, xerr=errors, capsize=3, elinewidth=1.5, **style)
        axis.set(yticks=place, yticklabels=group["arm"], ylim=(-0.7, len(group) - 0.3))
        axis.set_title(f"against {base}", loc="left")
    axes.flat[-1].set_xlabel("gain in points of Dice")
    return figure, table
