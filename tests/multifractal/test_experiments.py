"""Plans of the chapter: what each profile would run, dry runs of the large ones, and a smoke test on CUDA where there is one."""

import dataclasses

import pytest
import torch

from medrepro import paths, runs, staging
from medrepro.multifractal import experiments
from medrepro.multifractal.segmentation_runs import seeded_unet
from medrepro.multifractal.segmenter import UNet

TABLE = "multifractal/03-table-1"


@pytest.mark.quick
@pytest.mark.parametrize("profile", experiments.PROFILES)
@pytest.mark.parametrize("notebook", paths.notebooks("multifractal"))
def test_every_profile_plans_every_notebook_without_computing(notebook, profile):
    planned = staging.plan(notebook, profile)
    assert planned
    assert len(set(planned)) == len(planned)
    assert len({run.digest for run in planned}) == len(planned)


@pytest.mark.quick
def test_table_1_trains_seven_networks_on_the_same_cases():
    planned = staging.plan(TABLE, "cpu")
    assert len(planned) == 21
    by_model = {model: [] for model in experiments.MODELS}
    for run in planned:
        case = {
            key: value
            for key, value in run.settings.items()
            if key not in ("model", "preset", "switches", "keep_weights")
        }
        by_model[run.settings["model"]].append(case)
    assert all(cases == by_model["unet"] for cases in by_model.values())
    assert {run.settings["preset"] for run in planned} == {"authors_code"}


@pytest.mark.quick
def test_settings_were_chosen_with_seeds_that_no_run_uses():
    seeds = {run.settings["seed"] for profile in experiments.PROFILES for run in staging.plan(TABLE, profile)}
    assert seeds.isdisjoint({100, 101})
    assert {run.settings["seed"] for run in experiments.recorded(TABLE)} == {0}


@pytest.mark.quick
def test_paper_profile_has_the_papers_protocol():
    train = experiments.PROFILES["paper"]["train"]
    assert train == {
        "size": 224, "channels": [32, 64, 128, 256], "num_epochs": 400, "batch_size": 16, "lr": 1e-4, "shuffle": False,
    }  # fmt: skip
    assert experiments.PROFILES["paper"]["real"] == {"num_folds": 5, "split": "authors", "binarise": False}


@pytest.mark.quick
def test_recorded_grid_has_seven_networks_and_two_in_the_texts_reading_in_three_folds():
    grid = experiments.recorded(TABLE)
    assert len(grid) == 27
    assert {run.settings["fold"] for run in grid} == {0, 1, 2}
    assert sum(run.settings["preset"] == "paper" for run in grid) == 6
    assert all(run.settings["num_epochs"] >= 30 and run.settings["size"] == 128 for run in grid)


@pytest.mark.parametrize("profile", ["gpu", "paper"])
def test_dry_run_of_a_large_profile_takes_one_step_of_shapes(profile):
    for run in staging.plan(TABLE, profile)[:7]:
        settings = run.settings
        assert run.device == "cuda"
        # exponents read values (where to put blocks and tables), which the meta device has none of
        device = "cpu" if settings["model"] in experiments.READ_TWICE else "meta"
        size = settings["size"]
        with torch.device(device), torch.no_grad():
            net = UNet(
                settings["channels"], recalibration=settings["model"].replace("unet", "none"), preset=settings["preset"],
                switches=settings.get("switches"), image_size=(size, size),
            )  # fmt: skip
            logits = net.eval()(torch.zeros(1, 3, size, size))
        assert logits.shape == (1, 1, size, size)


def test_cuda_asked_for_and_absent_is_a_clear_error():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(runs.RunError, match="CUDA device"):
        runs.compute(staging.plan(TABLE, "gpu")[0])


@pytest.mark.parametrize("model", experiments.MODELS)
def test_smoke_training_runs_on_cuda(model, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    [run] = [
        run for run in staging.plan(TABLE, "smoke") if run.settings["model"] == model and run.settings["seed"] == 0
    ]
    result = runs.compute(dataclasses.replace(run, device="cuda"), store=tmp_path)
    assert 0 <= result.metrics["dice"] <= 1


@pytest.mark.quick
def test_all_networks_of_a_seed_start_from_the_same_trunk():
    trunk = seeded_unet("unet", seed=3, channels=(8, 16), size=16, preset="paper").state_dict()
    for model in experiments.MODELS[1:]:
        other = seeded_unet(model, seed=3, channels=(8, 16), size=16, preset="paper").state_dict()
        assert all(torch.equal(other[name], tensor) for name, tensor in trunk.items()), model
