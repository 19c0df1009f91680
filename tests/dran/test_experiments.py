"""Plans of the chapter: what each profile would run, dry runs of the large ones, and a smoke test on CUDA."""

import pytest
import torch

from medrepro import paths, runs, staging
from medrepro.dran import experiments
from medrepro.dran.denoising_runs import build

COMPARISON = "dran/03-comparison"


@pytest.mark.quick
@pytest.mark.parametrize("profile", experiments.PROFILES)
@pytest.mark.parametrize("notebook", paths.notebooks("dran"))
def test_every_profile_plans_every_notebook_without_computing(notebook, profile):
    planned = staging.plan(notebook, profile)
    assert planned or notebook == "dran/01-noise-models"  # moments are computed on the page
    assert len({run.digest for run in planned}) == len(planned)


@pytest.mark.quick
def test_networks_of_the_comparison_share_images_crops_and_steps():
    trained = [run.settings for run in staging.plan(COMPARISON, "cpu") if "model" in run.settings]
    cases = {
        str({key: s[key] for key in ("steps", "num_images", "size", "crop", "batch_size", "lr", "looks")})
        for s in trained
    }
    assert len(cases) == 1
    for law in experiments.NOISES:
        seeds = {
            model: {s["seed"] for s in trained if (s["model"], s["noise"]) == (model, law)}
            for model in experiments.MODELS
        }
        assert seeds["dran"] == {0, 1}
        assert all(0 in own for own in seeds.values())
        kept = {
            run.settings["seed"] for run in experiments.recorded(COMPARISON) if run.settings.get("model") == "dncnn"
        }
        assert kept == {0, 1, 2}
    assert all(experiments.UNSEEN not in s["looks"] for s in trained)


@pytest.mark.quick
def test_paper_profile_has_the_authors_configuration():
    train = experiments.PROFILES["paper"]["train"]
    assert (train["steps"], train["batch_size"], train["crop"], train["lr"], train["rate"]) == (
        121_920,
        24,
        128,
        1e-3,
        "constant",
    )
    assert experiments.PROFILES["paper"]["dran"] == {"features": 64, "layers": 5}


@pytest.mark.quick
def test_arms_differ_from_dran_in_their_own_setting_alone():
    base = experiments.arm_run("dran", 0).settings
    for arm, own in experiments.ARMS.items():
        changed = {key for key, value in experiments.arm_run(arm, 0).settings.items() if base.get(key) != value}
        assert changed == set(own)


@pytest.mark.parametrize("profile", ["gpu", "paper"])
def test_dry_run_of_a_large_profile_takes_one_step_of_shapes(profile):
    for run in staging.plan(COMPARISON, profile)[:6]:
        if "model" not in run.settings:
            continue
        assert run.device == "cuda"
        with torch.device("meta"), torch.no_grad():
            net = build(run.settings["model"], seed=0, network=run.settings["network"]).eval()
            assert net(torch.zeros(1, 3, run.settings["crop"], run.settings["crop"])).shape[1] == 3


@pytest.mark.parametrize("model", experiments.MODELS)
def test_training_on_cuda(model):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    [run] = [
        run
        for run in staging.plan(COMPARISON, "smoke")
        if run.settings.get("model") == model and run.settings["noise"] == "paper"
    ][:1]
    assert runs.compute(runs.Run(run.function, run.settings, "cuda")).metrics["diverged"] is False
