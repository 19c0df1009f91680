"""The recovered numbers and the ledger agree with each other, with arithmetic, and with the chapter's settings."""

import inspect
import math

import pytest
import torch

from medrepro import checks, paths, published
from medrepro.dran import evidence, experiments
from medrepro.dran.denoising_runs import LOSSES, train_denoiser
from medrepro.dran.noise import LEVELS, at_level, bias_bound, expected_psnr
from medrepro.ledger import Ledger
from medrepro.published import read_yaml

PAPER = "dran"
NOTEBOOKS = (
    "01-noise-models",
    "02-dynamic-residual-attention",
    "03-comparison",
    "04-ablation",
    "05-real-noise-and-tasks",
    "06-careful-reader",
)


def values(name, key):
    return {one.of[key]: one.value for one in published.table(PAPER, name).values}


def test_profile_paper_is_the_shipped_configuration():
    shipped, steps = values("configuration", "setting"), values("training_steps", "part")
    train = experiments.PROFILES["paper"]["train"]
    assert steps["one epoch"] == math.ceil(values("collection", "part")["training"] / shipped["batch size"])
    assert steps["training"] == train["steps"] == shipped["epochs"] * steps["one epoch"]
    assert (train["batch_size"], train["crop"]) == (shipped["batch size"], shipped["side of a crop in pixels"])
    assert (train["rate"], train["lr"]) == ("constant", shipped["Adam rate"])
    defaults = {name: one.default for name, one in inspect.signature(train_denoiser).parameters.items()}
    assert tuple(defaults["betas"]) == (shipped["Adam beta 1"], shipped["Adam beta 2"])
    assert defaults["loss"] == "l1"


def test_levels_of_the_tests_are_those_that_are_named():
    assert tuple(values("noise_levels", "level").values()) == LEVELS


def test_the_loss_is_the_mean_absolute_error_of_the_noise():
    predicted, noise = torch.tensor([[0.5, -1.0], [0.0, 0.25]]), torch.tensor([[0.25, -0.5], [1.0, 0.25]])
    assert float(LOSSES["l1"](predicted, noise)) == pytest.approx((0.25 + 0.5 + 1.0 + 0.0) / 4)


def test_parts_of_the_collection_add_up():
    parts = values("collection", "part")
    assert parts["training"] + parts["evaluation"] == parts["collected"]
    assert parts["training"] / parts["collected"] == pytest.approx(0.823, abs=5e-4)
    assert parts["evaluation"] / parts["collected"] == pytest.approx(0.177, abs=5e-4)


def test_the_conflict_of_the_largest_gains_is_said():
    table = published.table(PAPER, "largest_gains")
    gains = {one.of["images"]: one.value for one in table.values if one.of["quality"].startswith("PSNR")}
    assert gains == {"all": 11.17, "dermatology": 13.75}
    assert "conflict" in table.note


def test_sample_outputs_fit_the_law_of_the_code():
    frame = published.frame(PAPER, "sample_outputs").set_index(["image", "level", "method", "quality"])["value"]
    assert len(frame) == 42
    for (_, level), part in frame.groupby(["image", "level"]):
        psnr = part.xs("psnr", level="quality").droplevel(["image", "level"])
        law = at_level(level, "authors_code")
        assert psnr["noisy"] == pytest.approx(expected_psnr(law), abs=0.12)  # clipping in the dark
        assert psnr["minus mean"] == pytest.approx(expected_psnr(law) + 6.02, abs=0.05)
        assert psnr["DRAN"] > bias_bound(law)


def test_bm3d_minus_mean_is_best_in_five_of_six_and_left_alone_it_stays_under_the_bound():
    frame = published.frame(PAPER, "sample_rivals")
    psnr = frame[frame["quality"] == "psnr"]
    assert len(psnr) == 42
    wide = psnr.pivot(index=["image", "level"], columns=["method", "start"], values="value")
    averaged = wide["BM3D", "minus mean, channels averaged"]
    best = wide["BM3D", "minus mean"].where(averaged.isna(), averaged)
    assert (best > wide["DRAN", "as it is"]).sum() == 5
    for (_, level), row in wide.iterrows():
        bound = bias_bound(at_level(level, "authors_code"))
        assert max(row["BM3D", "as it is"], row["non-local means", "as it is"]) < bound + 0.01


def test_the_ledger_fits_its_schema_and_names_tests_that_exist():
    """`medrepro.ledger.read` also asks for every notebook of the chapter; here the rest is checked."""
    ledger = read_yaml(paths.PACKAGE / PAPER / "ledger.yaml", Ledger)
    items = [row.item for row in ledger.rows]
    assert len(items) == len(set(items))
    for row in ledger.rows:
        assert row.notebook is None or row.notebook in NOTEBOOKS, row.item
        assert [test for test in row.tests if not checks.exists(test)] == [], row.item


def test_every_notebook_of_the_ledger_is_planned():
    for name in NOTEBOOKS:
        experiments.runs(f"{PAPER}/{name}", "smoke")


def test_conditions_of_the_ledger_are_those_that_evidence_speaks_to(monkeypatch):
    spoken = {}
    monkeypatch.setattr(evidence, "_evidence", lambda notebook, parts, *, live: list(parts))
    for row in read_yaml(paths.PACKAGE / PAPER / "ledger.yaml", Ledger).rows:
        if row.evidence:
            function = getattr(evidence, row.evidence.split(":")[1])
            spoken[row.item] = function(live=True, **row.given)
            assert [condition.name for condition in row.conditions] == spoken[row.item]
    assert len(spoken) == 6
