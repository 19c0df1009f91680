"""What the trainings say to the ledger's claims: DRAN against other methods, its gate, every look, what comes after."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from medrepro import ledger, recorded, runs
from medrepro.dran import experiments
from medrepro.dran.comparison import LAWS, STARTS
from medrepro.dran.denoising_data import LOOKS
from medrepro.dran.denoising_runs import NOISES, WAYS
from medrepro.dran.task_runs import SHOWN, TRAINED_ON

COMPARISON, ABLATION, AFTERWARDS = "dran/03-comparison", "dran/04-ablation", "dran/05-real-noise-and-tasks"
#: Tasks after denoising by the names of the ledger, with the axes of `medrepro.dran.task_runs.finders_on_denoised`.
TASKS = {"segmentation": "dice", "detection": "detected", "image with or without lesion": "area"}

Effects = Callable[[Sequence[Any]], list[float]]


def network_psnr(results: Sequence[Any], model: str, law: str) -> dict[int, np.ndarray]:
    """PSNR of networks of a kind on the law that they were trained for, (looks, levels, images), by seed.

    Batch norm with running statistics.
    """
    place = NOISES.index(law), WAYS.index("running")
    return {
        one.settings["seed"]: one.arrays["psnr"][place]
        for one in results
        if one.settings.get("model") == model and one.settings["noise"] == law
    }


def classical_psnr(results: Sequence[Any], method: str, start: str, law: str) -> np.ndarray | None:
    """PSNR of a classical method from one of `STARTS` under a law, (looks, levels, images); None if it was not run."""
    for one in results:
        methods = one.settings.get("methods", ())
        if one.settings["noise"] == law and method in methods:
            return one.arrays["psnr"][STARTS.index(start), list(methods).index(method)]
    return None


def over_network(results: Sequence[Any], rival: str, law: str) -> list[float]:
    """PSNR of DRAN minus that of a rival network in dB, mean over looks, levels and images, one value a shared seed."""
    own, other = (network_psnr(results, model, law) for model in ("dran", rival))
    return [float((own[seed] - other[seed]).mean()) for seed in sorted(own.keys() & other.keys())]


def over_method(results: Sequence[Any], method: str, start: str, law: str) -> list[float]:
    """PSNR of DRAN minus that of a classical method in dB, mean over the same noisy images, one value a seed of DRAN."""
    other = classical_psnr(results, method, start, law)
    own = network_psnr(results, "dran", law)
    return [] if other is None else [float((own[seed] - other).mean()) for seed in sorted(own)]


def worst_look(results: Sequence[Any], law: str) -> list[float]:
    """Gain of DRAN on that look of its training where it is smallest, in dB over the noisy image, one value a seed.

    Under uniform noise the noisy image counts minus the noise's mean, whose subtraction needs no network.
    """
    noisy = classical_psnr(results, "noisy", STARTS[1] if law == "authors_code" else STARTS[0], law)
    if noisy is None:
        return []
    seen = [place for place, look in enumerate(LOOKS) if look in experiments.SEEN]
    own = network_psnr(results, "dran", law)
    return [float((own[seed] - noisy).mean((1, 2))[seen].min()) for seed in sorted(own)]


def gate_over_identity(results: Sequence[Any]) -> list[float]:
    """Validation loss at the end of a training that the gate saves, as a share of the loss with an identity skip.

    One value for each pair of trainings that differ in the skip path alone, ordered by seed; trainings that diverged
    have no loss and no pair.
    """
    losses: dict[str, dict[str, tuple[int, float]]] = {}
    for one in results:
        rest = {key: value for key, value in one.settings.items() if key not in ("skip", "keep_weights")}
        last = one.history[-1]["val_loss"]
        if last is not None and np.isfinite(last):
            key = json.dumps(rest, sort_keys=True)
            losses.setdefault(key, {})[one.settings.get("skip", "gate")] = (one.settings["seed"], last)
    pairs = [found for found in losses.values() if {"gate", "identity"} <= found.keys()]
    pairs.sort(key=lambda found: found["gate"][0])
    return [float(1 - found["gate"][1] / found["identity"][1]) for found in pairs]


def task_gain(results: Sequence[Any], task: str) -> list[float]:
    """Score of a finder trained on clean images that gets DRAN's results, minus its score on noisy ones; one value a seed.

    Levels are averaged.
    """
    gains: dict[int, list[float]] = {}
    row, denoised, noisy = TRAINED_ON.index("clean"), SHOWN.index("DRAN"), SHOWN.index("noisy")
    for one in results:
        if "denoiser" in one.settings:
            score = one.arrays[task][row]
            gains.setdefault(one.settings["seed"], []).append(float(score[denoised] - score[noisy]))
    return [float(np.mean(found)) for _, found in sorted(gains.items())]


def over_dncnn(*, live: bool) -> list[ledger.Evidence]:
    """Evidence that DRAN is better than DnCNN, a condition a law of noise."""
    parts = {name: _of(over_network, rival="dncnn", law=law) for law, name in LAWS.items()}
    return _evidence(COMPARISON, parts, live=live)


def over_classical(*, live: bool, method: str) -> list[ledger.Evidence]:
    """Evidence that DRAN is better than a classical method: left alone, told the mean, and under Gaussian noise."""
    parts = {
        f"{LAWS['authors_code']}, {start}": _of(over_method, method=method, start=start, law="authors_code")
        for start in STARTS[:2]
    }
    parts[LAWS["paper"]] = _of(over_method, method=method, start=STARTS[0], law="paper")
    return _evidence(COMPARISON, parts, live=live)


def one_network_for_all(*, live: bool) -> list[ledger.Evidence]:
    """Evidence that one network gains on every look that it was trained on, a condition a law of noise."""
    parts = {name: _of(worst_look, law=law) for law, name in LAWS.items()}
    return _evidence(COMPARISON, parts, live=live)


def gate_speeds_up(*, live: bool) -> list[ledger.Evidence]:
    """Evidence that a network with noise gates has the smaller validation loss after equally many steps."""
    return _evidence(ABLATION, {"Gaussian": gate_over_identity}, live=live)


def helps_afterwards(*, live: bool) -> list[ledger.Evidence]:
    """Evidence that finders of lesions do better on denoised than on noisy images, a condition a task."""
    parts = {name: _of(task_gain, task=task) for name, task in TASKS.items()}
    return _evidence(AFTERWARDS, parts, live=live)


def _of(function: Callable[..., list[float]], **given: str) -> Effects:
    return lambda results: function(results, **given)


def _evidence(notebook: str, parts: dict[str, Effects], *, live: bool) -> list[ledger.Evidence]:
    """Recorded trainings of two seeds or more, and the live ones of profile cpu where asked for."""
    kinds = [("recorded, phantoms", "recorded", recorded.found(experiments.recorded(notebook)))]
    if live:
        stored = [one for run in runs.plan(notebook, "cpu") if (one := runs.load(run))]
        kinds.append(("live, phantoms", "cpu", stored))
    found = []
    for source, profile, results in kinds:
        steps = next((one.settings["steps"] for one in results if "steps" in one.settings), None)
        for condition, effects in parts.items():
            if len(values := effects(results)) >= 2:
                note = f"{len(values)} seeds, {steps} steps on phantoms, a quarter of the authors' channels"
                found.append(ledger.Evidence(source, "phantom", profile, values, condition, note=note))
    return found
