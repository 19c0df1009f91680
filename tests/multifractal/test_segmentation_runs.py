import json

import numpy as np
import pytest
import torch
from PIL import Image

from medrepro import runs, sources
from medrepro.data.phantoms import lesion_phantoms
from medrepro.multifractal import segmentation_runs
from medrepro.multifractal.segmentation_runs import (
    LEVELLED,
    MODELS,
    fold_sets,
    late_fall,
    random_flips,
    seeded_unet,
    train_segmenter,
)
from medrepro.training import CHECKPOINT

CHANNELS = (16, 32)  # FCA needs multiples of 16
SMALL = {
    "data": "phantom", "model": "unet", "preset": "authors_code", "seed": 0, "size": 16, "channels": CHANNELS,
    "num_epochs": 2, "lr": 1e-3, "batch_size": 4, "num_train": 10, "num_val": 5, "num_test": 7,
}  # fmt: skip


def train(**changes):
    return train_segmenter(**{**SMALL, **changes})


@pytest.fixture
def busi(tmp_path, monkeypatch):
    """A set in BUSI's layout: 24 benign and 12 malignant images that do not look alike."""
    root = tmp_path / "sets" / "busi" / "Dataset_BUSI_with_GT"
    rng = np.random.default_rng(0)
    for label, count in (("benign", 24), ("malignant", 12)):
        (root / label).mkdir(parents=True)
        for n in range(1, count + 1):
            image = rng.integers(0, 256, (20, 24), dtype=np.uint8)
            mask = np.zeros((20, 24), np.uint8)
            mask[5:15, 4 : 6 + n % 12] = 255
            Image.fromarray(image).save(root / label / f"{label} ({n}).png")
            Image.fromarray(mask).save(root / label / f"{label} ({n})_mask.png")
    monkeypatch.setenv("MEDREPRO_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("MEDREPRO_CACHE", str(tmp_path / "cache"))


# -- paired comparisons ----------------------------------------------------------------------------------------------


def test_all_seven_models_of_a_seed_start_from_one_trunk():
    options = {"channels": (16, 32, 64), "size": 16, "preset": "authors_code"}
    plain = seeded_unet("unet", seed=3, **options).state_dict()
    other = seeded_unet("unet", seed=4, **options).state_dict()
    assert not torch.equal(plain["head.weight"], other["head.weight"])
    for model in MODELS:
        torch.manual_seed(len(model))  # the caller's random numbers do not matter
        weights = seeded_unet(model, seed=3, **options).state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in plain.items()), model
        assert all(".recalibrate." in name for name in weights.keys() - plain.keys()), model


def test_recalibrations_of_a_seed_are_the_same_every_time_and_others_at_another_seed():
    options = {"channels": CHANNELS, "size": 16, "preset": "authors_code"}
    name = "encoder.0.recalibrate.gate.squeeze.weight"
    first, again, other = (seeded_unet("cse", seed=seed, **options).state_dict()[name] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_making_a_network_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    seeded_unet("multi", seed=1, channels=CHANNELS, size=16, preset="paper")
    assert torch.equal(torch.rand(2), expected)


def test_models_of_a_seed_see_the_same_images_and_flips(monkeypatch):
    def batches_of(model, seed=0):
        seen = []

        def watched(images, masks, generator):
            images, masks = random_flips(images, masks, generator)
            seen.append(images)
            return images, masks

        monkeypatch.setattr(segmentation_runs, "random_flips", watched)
        train(model=model, seed=seed)
        monkeypatch.undo()
        return torch.cat(seen)

    plain = batches_of("unet")
    assert len(plain) == 20  # ten images, two epochs, the last partial batch kept
    assert torch.equal(plain, batches_of("multi"))
    assert not torch.equal(plain, batches_of("unet", seed=1))


# -- protocol --------------------------------------------------------------------------------------------------------


def test_flips_are_the_same_for_image_and_mask_and_all_four_outcomes_equally_frequent():
    image = torch.arange(6.0).view(1, 1, 2, 3)
    outcomes = [image, image.flip(-1), image.flip(-2), image.flip(-1, -2)]
    generator = torch.Generator().manual_seed(0)
    flipped, masks = random_flips(image.expand(4000, -1, -1, -1), image.expand(4000, -1, -1, -1) * 10, generator)
    assert torch.equal(masks, flipped * 10)
    counts = [int((flipped == outcome).flatten(1).all(1).sum()) for outcome in outcomes]
    assert sum(counts) == 4000
    assert min(counts) > 880  # 1000 each, standard deviation 27
    again, _ = random_flips(image.expand(4000, -1, -1, -1), image.expand(4000, -1, -1, -1), generator)
    assert not torch.equal(again, flipped)


def test_phantom_parts_are_disjoint_and_continue_one_another():
    sets = fold_sets("phantom", size=16, seed=5, num_train=4, num_val=2, num_test=3)
    images, _ = lesion_phantoms(9, 5, size=16)
    assert np.array_equal(np.concatenate([sets[part].images for part in ("train", "val", "test")]), images)
    names = [name for part in sets.values() for name in part.names]
    assert len(set(names)) == 9


@pytest.mark.parametrize("split", ["authors", "grouped"])
def test_folds_of_a_real_set_test_every_image_once(busi, split):
    folds = [fold_sets("busi", size=16, seed=0, fold=n, num_folds=3, split=split) for n in range(3)]
    assert sorted(name for sets in folds for name in sets["test"].names) == sorted(
        name for part in folds[0].values() for name in part.names
    )
    for sets in folds:
        labels = list(sets["train"].labels)
        assert labels != sorted(labels)  # classes are mixed in the fixed order of training
        again = fold_sets("busi", size=16, seed=9, fold=folds.index(sets), num_folds=3, split=split)
        assert list(again["train"].names) == list(sets["train"].names)  # the run's seed decides nothing here


def test_thinned_folds_keep_their_order_and_stay_inside_the_fold(busi):
    whole = fold_sets("busi", size=16, seed=0, num_folds=3)
    few = fold_sets("busi", size=16, seed=1, num_folds=3, num_train=7, num_test=500)
    order = [list(whole["train"].names).index(name) for name in few["train"].names]
    assert len(order) == 7
    assert order == sorted(order)
    assert len(few["test"]) == len(whole["test"])


def test_limit_loads_so_many_images_of_a_real_set(busi):
    sets = fold_sets("busi", size=16, seed=0, num_folds=2, limit=30)
    assert sum(len(part) for part in sets.values()) == 30


def test_best_epoch_is_that_of_the_lowest_validation_loss_and_its_weights_are_tested():
    result = train(num_epochs=4, lr=0.03, keep_weights=True)
    losses = [row["val_loss"] for row in result["history"]]
    assert result["metrics"]["best_epoch"] == 1 + int(np.argmin(losses))
    assert result["metrics"]["best_val_loss"] == min(losses)
    net = seeded_unet("unet", seed=9, channels=CHANNELS, size=16, preset="paper")
    net.load_state_dict(result["weights"])
    images, masks = lesion_phantoms(7, 0, size=16, first=15)
    with torch.no_grad():
        predicted = net.eval()(torch.from_numpy(images)).numpy() >= 0  # probability 1/2
    masks = masks > 0
    both, either = (predicted & masks).sum((1, 2, 3)), predicted.sum((1, 2, 3)) + masks.sum((1, 2, 3))
    assert result["arrays"]["dice"] == pytest.approx(2 * both / either, abs=1e-9)
    assert result["metrics"]["dice"] == pytest.approx(np.mean(2 * both / either), abs=1e-9)
    assert result["metrics"]["iou"] == pytest.approx(both.sum() / (predicted | masks).sum(), abs=1e-9)


@pytest.mark.parametrize(("data", "expected"), [("phantom", [32, 8]), ("isic18", [16, 16, 8])])
def test_test_batches_are_16_for_isic18_and_32_elsewhere(monkeypatch, data, expected):
    made = fold_sets("phantom", size=16, seed=0, num_train=4, num_val=2, num_test=40)
    monkeypatch.setattr(segmentation_runs, "fold_sets", lambda *args, **kwargs: made)
    sizes = []
    counted = segmentation_runs.dice_per_image
    # validation scores the same function: its batches of two are left out
    monkeypatch.setattr(
        segmentation_runs, "dice_per_image", lambda prob, mask: sizes.append(len(prob)) or counted(prob, mask)
    )
    train(data=data, num_epochs=1)
    assert [size for size in sizes if size != 2] == expected


@pytest.mark.parametrize("model", ["unet", "cse", "mono", "multi"])
def test_scores_with_rescaling_per_image_are_those_of_images_tested_alone(model):
    result = train(model=model, keep_weights=True)
    if model in ("unet", "cse"):
        assert "dice_sample" not in result["arrays"]
        return
    net = seeded_unet(model, seed=9, channels=CHANNELS, size=16, preset="authors_code")
    net.load_state_dict(result["weights"])
    images, masks = lesion_phantoms(7, 0, size=16, first=15)
    alone = [
        segmentation_runs.test_scores(net, images[n : n + 1], masks[n : n + 1], batch_size=1, device="cpu")[0]
        for n in range(7)
    ]
    assert result["arrays"]["dice_sample"] == pytest.approx(np.concatenate(alone), abs=1e-9)
    assert result["metrics"]["dice_sample"] == pytest.approx(np.mean(alone), abs=1e-9)


@pytest.mark.parametrize("model", ["unet", "scse", "mono", "multi"])
def test_gates_of_every_test_image_come_back_depth_by_depth(model):
    result = train(model=model, skips=False, num_epochs=1, keep_weights=True)
    gates = {name: array for name, array in result["arrays"].items() if name.startswith("excitation")}
    if model in ("unet", "multi"):
        assert not gates
        return
    net = seeded_unet(model, seed=9, channels=CHANNELS, size=16, preset="authors_code", skips=False)
    net.load_state_dict(result["weights"])
    images, _ = lesion_phantoms(7, 0, size=16, first=15)
    with torch.no_grad():
        expected = net.eval().excitations(torch.from_numpy(images))
    assert [gate.shape for gate in gates.values()] == [(7, 16)]
    assert list(gates) == ["excitation_1"]
    assert np.array_equal(gates["excitation_1"], expected[0].numpy())


def test_without_skips_the_decoder_alone_is_smaller():
    shared = {"seed": 3, "channels": (16, 32, 64), "size": 16, "preset": "authors_code"}
    with_skips, without = (
        dict(seeded_unet("cse", skips=skips, **shared).named_parameters()) for skips in (True, False)
    )
    changed = {name for name, weight in without.items() if weight.shape != with_skips[name].shape}
    assert changed == {"decoder.0.conv_1.weight", "decoder.1.conv_1.weight"}


def test_shuffling_is_off_unless_asked_for():
    fixed, shuffled = train(), train(shuffle=True)
    assert fixed["history"] != shuffled["history"]


def test_switches_reach_the_recalibration():
    plain, changed = train(model="multi"), train(model="multi", switches={"minmax": "sample"})
    assert plain["history"] != changed["history"]
    assert changed["metrics"]["dice_sample"] == changed["metrics"]["dice"]


def test_precision_is_a_setting():
    half = train(precision="bf16-mixed")
    assert half["history"] != train()["history"]
    assert half["history"][-1]["val_loss"] == pytest.approx(train()["history"][-1]["val_loss"], abs=0.02)


# -- levelled off ----------------------------------------------------------------------------------------------------


def test_late_fall_is_the_slope_over_the_last_quarter_relative_to_its_start():
    assert late_fall([9, 8, 7, 6, 1.0, 0.9, 0.8, 0.7]) == pytest.approx(0.3)
    assert late_fall([5.0] * 30 + [0.5] * 10) == pytest.approx(0)
    assert late_fall([1.0] * 8 + [1, 1.1, 1.2, 1.3]) == pytest.approx(-0.3)
    assert np.isnan(late_fall([1.0] * 7))


@pytest.mark.parametrize(("last", "levelled"), [(1 - LEVELLED + 0.001, True), (1 - LEVELLED - 0.001, False)])
def test_training_that_still_falls_is_marked(monkeypatch, last, levelled):
    curve = [2.0] * 4 + list(np.linspace(1, last, 4))
    real = segmentation_runs.fit

    def told(*args, **kwargs):
        trained = real(*args, **kwargs)
        trained.history[:] = [{"epoch": n + 1, "val_loss": value} for n, value in enumerate(curve)]
        return trained

    monkeypatch.setattr(segmentation_runs, "fit", told)
    assert train(num_epochs=1)["metrics"]["levelled"] is levelled


def test_diverged_training_is_told_and_still_tested():
    result = train(lr=1e30, num_epochs=6)
    assert result["metrics"]["diverged"]
    assert not result["metrics"]["levelled"]
    assert result["history"][-1]["diverged"]
    assert len(result["history"]) < 6
    assert np.isfinite(result["arrays"]["dice"]).all()


# -- as a run --------------------------------------------------------------------------------------------------------


def test_run_is_stored_and_the_same_in_another_store(store, tmp_path):
    run = runs.Run("medrepro.multifractal.segmentation_runs:train_segmenter", {**SMALL, "model": "mono"})
    first, second = (runs.compute(run, store=tmp_path / name) for name in ("a", "b"))
    assert first.metrics == second.metrics
    assert first.history == second.history
    assert np.array_equal(first.arrays["dice"], second.arrays["dice"])
    assert [path.name for path in (tmp_path / "a").iterdir()] == [first.path.name]  # no scratch is left
    assert not any("second" in name for name in (*first.metrics, *first.history[0]))  # timings are the store's
    json.dumps(first.metrics, allow_nan=False)


def test_run_interrupted_in_training_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    calls = []

    def interrupted(images, masks, generator):
        calls.append(1)
        if len(calls) == 8:  # three batches an epoch
            raise KeyboardInterrupt
        return random_flips(images, masks, generator)

    monkeypatch.setattr(segmentation_runs, "random_flips", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(model="multi", num_epochs=4, scratch=tmp_path, checkpoint_every=1)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    resumed = train(model="multi", num_epochs=4, scratch=tmp_path, checkpoint_every=1)
    assert len(calls) == 8 + 2 * 3  # two epochs were in the checkpoint
    undisturbed = train(model="multi", num_epochs=4)
    assert resumed["history"] == undisturbed["history"]
    assert np.array_equal(resumed["arrays"]["dice"], undisturbed["arrays"]["dice"])


def test_real_set_trains_under_both_splits(busi):
    for split in ("authors", "grouped"):
        result = train(data="busi", split=split, num_folds=3, num_train=None, num_val=None, num_test=None)
        assert result["metrics"]["num_test"] == 12
        assert result["arrays"]["dice"].shape == (12,)


def test_module_reaches_nothing_that_may_change_without_training_again():
    followed = sources.followed("medrepro.multifractal.segmentation_runs")
    assert "medrepro.training" in followed
    assert not {name.split(".")[-1] for name in followed} & set(sources.NOT_FOR_RUNS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "transformer"}, "expected one of unet, cse"),
        ({"fold": 1}, "phantom has no folds"),
        ({"num_test": None}, "expected at least 1 each"),
        ({"channels": (12, 16), "model": "fca"}, "not divisible by 16"),
        ({"device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_faults_name_what_was_expected(wrong, message):
    with pytest.raises(ValueError, match=message):
        train(**wrong)


def test_fold_that_is_not_there_is_refused(busi):
    with pytest.raises(ValueError, match="expected 0 to 2"):
        fold_sets("busi", size=16, seed=0, fold=3, num_folds=3)
