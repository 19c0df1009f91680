"""What fabricated trainings say to the ledger's claims: effects by hand, and verdicts that follow their sign."""

import json

import numpy as np
import pytest

from medrepro import ledger, recorded, runs
from medrepro.dran import evidence, experiments
from medrepro.dran.denoising_data import LOOKS
from medrepro.dran.denoising_runs import NOISES, WAYS
from medrepro.dran.task_runs import SHOWN, TASKS, TRAINED_ON

LEVELS, IMAGES = 3, 2
HALF = 0.3


class Stored:
    """A result with the settings of a planned run, as a file gives them back, and made-up numbers."""

    def __init__(self, run, *, psnr=None, loss=None):
        self.settings = json.loads(json.dumps(run.settings, sort_keys=True))
        self.arrays = {"psnr": psnr}
        self.history = [{"val_loss": 1.0}, {"val_loss": loss}]


def network(run, value, *, other=0.0):
    """PSNR `value` with running statistics on the law of the training, `other` everywhere else."""
    psnr = np.full((len(NOISES), len(WAYS), len(LOOKS), LEVELS, IMAGES), other, np.float32)
    psnr[NOISES.index(run.settings["noise"]), WAYS.index("running")] = value
    return Stored(run, psnr=psnr)


def comparison(profile="gpu", *, gain, left_alone=10.0, centred=25.0):
    """Comparison in which DRAN of seed s has 30 + s / 10 dB, DnCNN `gain` less, and classical methods what is given."""
    results = []
    for run in runs.plan(evidence.COMPARISON, profile):
        if run.settings.get("model") in ("dran", "dncnn"):
            value = 30 + run.settings["seed"] / 10 - (gain if run.settings["model"] == "dncnn" else 0)
            results.append(network(run, value))
        elif "methods" in run.settings:
            psnr = np.full((3, len(run.settings["methods"]), len(LOOKS), LEVELS, IMAGES), np.nan, np.float32)
            psnr[0], psnr[1] = left_alone, centred
            results.append(Stored(run, psnr=psnr))
    return results


def given(monkeypatch, results, kept=()):
    """Make `results` the live runs, in any plan, and `kept` the recorded ones."""
    by_settings = {json.dumps(one.settings, sort_keys=True): one for one in results}
    monkeypatch.setattr(runs, "load", lambda run: by_settings.get(json.dumps(run.settings, sort_keys=True)))
    monkeypatch.setattr(recorded, "found", lambda wanted: list(kept))


def verdicts(found, smallest=HALF):
    return {
        one.condition: ledger.condition_verdict(ledger.interval(one.effects), smallest)
        for one in ledger.deciding(found)
    }


def test_gain_over_a_network_is_paired_by_seed_on_its_own_law():
    results = comparison(gain=2.0)
    assert evidence.over_network(results, "dncnn", "paper") == pytest.approx([2, 2, 2], abs=1e-4)
    assert evidence.over_network(results[:3], "dncnn", "paper") == []


def test_gain_over_a_classical_method_has_a_value_a_seed_of_dran():
    results = comparison(gain=2.0)
    assert evidence.over_method(results, "BM3D", "as it is", "authors_code") == pytest.approx(
        [20, 20.1, 20.2], abs=1e-4
    )
    assert evidence.over_method(results, "BM3D", "minus mean", "authors_code") == pytest.approx([5, 5.1, 5.2], abs=1e-4)
    assert evidence.over_method(results, "nothing", "as it is", "paper") == []


@pytest.mark.parametrize(("gain", "expected"), [(2.0, ledger.SUPPORTED), (-2.0, ledger.CONTRADICTED)])
def test_dncnn_verdict_follows_the_sign(monkeypatch, gain, expected):
    given(monkeypatch, comparison("cpu", gain=gain), kept=comparison(gain=gain))
    found = evidence.over_dncnn(live=True)  # live there is one seed of DnCNN, which is no evidence
    assert verdicts(found) == {"uniform, positive": expected, "Gaussian": expected}
    assert {(one.source, one.data, one.profile, len(one.effects)) for one in found} == {
        ("recorded, phantoms", "phantom", "recorded", 3)
    }


@pytest.mark.parametrize(
    ("centred", "expected"), [(25.0, ledger.SUPPORTED), (30.1, ledger.NOT_SEEN), (35.0, ledger.CONTRADICTED)]
)
def test_a_classical_method_told_the_mean_is_a_condition_of_its_own(monkeypatch, centred, expected):
    given(monkeypatch, comparison("cpu", gain=1.0, centred=centred))
    found = verdicts(evidence.over_classical(live=True, method="BM3D"))
    assert found == {
        "uniform, positive, as it is": ledger.SUPPORTED,
        "uniform, positive, minus mean": expected,
        "Gaussian": ledger.SUPPORTED,
    }


def test_recorded_trainings_decide_before_live_ones(monkeypatch):
    given(monkeypatch, comparison("cpu", gain=0.0, centred=35.0), kept=comparison(gain=0.0, left_alone=35.0))
    found = evidence.over_classical(live=True, method="BM3D")
    assert len(found) == 6
    assert verdicts(found) == {
        "uniform, positive, as it is": ledger.CONTRADICTED,
        "uniform, positive, minus mean": ledger.SUPPORTED,
        "Gaussian": ledger.CONTRADICTED,
    }
    assert {one.source for one in ledger.deciding(found)} == {"recorded, phantoms"}


def test_one_seed_is_no_evidence(monkeypatch):
    one = [result for result in comparison(gain=2.0) if result.settings.get("seed", 0) == 0]
    given(monkeypatch, one, kept=one)
    assert evidence.over_dncnn(live=True) == []


def test_the_worst_look_of_the_training_decides_and_the_unseen_one_does_not(monkeypatch):
    results = comparison("cpu", gain=0.0, left_alone=20.0, centred=26.0)
    assert evidence.worst_look(results, "paper") == pytest.approx([10, 10.1], abs=1e-4)
    assert evidence.worst_look(results, "authors_code") == pytest.approx([4, 4.1], abs=1e-4)
    for one in results:
        if one.settings.get("model") == "dran":
            one.arrays["psnr"][:, :, LOOKS.index(experiments.UNSEEN)] = 0
    assert evidence.worst_look(results, "paper") == pytest.approx([10, 10.1], abs=1e-4)
    for one in results:
        if one.settings.get("model") == "dran":
            one.arrays["psnr"][:, :, LOOKS.index(experiments.SEEN[2])] = 15
    given(monkeypatch, results)
    assert set(verdicts(evidence.one_network_for_all(live=True), 3.0).values()) == {ledger.CONTRADICTED}


def ablation(gate, identity):
    return [
        Stored(run, loss=identity if run.settings.get("skip") == "identity" else gate)
        for run in runs.plan(evidence.ABLATION, "cpu")
    ]


@pytest.mark.parametrize(
    ("gate", "identity", "expected"), [(0.06, 0.08, ledger.SUPPORTED), (0.08, 0.06, ledger.CONTRADICTED)]
)
def test_gate_verdict_follows_the_sign(monkeypatch, gate, identity, expected):
    results = ablation(gate, identity)
    assert evidence.gate_over_identity(results) == pytest.approx(2 * [1 - gate / identity])
    given(monkeypatch, results)
    assert verdicts(evidence.gate_speeds_up(live=True), 0.034) == {"Gaussian": expected}


def test_gate_pairs_are_found_among_all_arms_and_a_diverged_training_has_none():
    results = [
        Stored(run, loss=0.05 if run == experiments.arm_run("dran", run.settings["seed"]) else 0.1)
        for run in experiments.recorded(evidence.ABLATION)
    ]
    assert evidence.gate_over_identity(results) == pytest.approx([0.5, 0.5, 0.5])
    results[0].history[-1]["val_loss"] = float("nan")
    assert len(evidence.gate_over_identity(results)) == 2


class Finders:
    """A result of finders that score `noisy` and `denoised` where trained on clean images, and 0.9 everywhere else."""

    def __init__(self, run, noisy, denoised):
        scores = np.full((len(TRAINED_ON), len(SHOWN)), 0.9)
        scores[0, SHOWN.index("noisy")], scores[0, SHOWN.index("DRAN")] = noisy, denoised
        self.settings, self.arrays = run.settings, dict.fromkeys(TASKS, scores)


@pytest.mark.parametrize(
    ("noisy", "denoised", "expected"), [(0.4, 0.6, ledger.SUPPORTED), (0.6, 0.4, ledger.CONTRADICTED)]
)
def test_verdict_on_tasks_follows_the_sign(monkeypatch, noisy, denoised, expected):
    monkeypatch.setattr(recorded, "found", lambda wanted: [])
    monkeypatch.setattr(runs, "load", lambda run: Finders(run, noisy, denoised))
    found = evidence.helps_afterwards(live=True)
    assert verdicts(found, 0.05) == dict.fromkeys(evidence.TASKS, expected)
    assert {len(one.effects) for one in found} == {3}
    assert set(evidence.TASKS.values()) == set(TASKS)
