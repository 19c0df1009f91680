import math
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from medrepro import training
from medrepro.training import CHECKPOINT, TensorBatches, check_device, evaluate, fit

EPOCHS = 5
LOSS = functional.binary_cross_entropy_with_logits
ADAM = partial(torch.optim.Adam, lr=1e-2)


def network(seed=0, dropout=0.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(4, 1, 1)
        )


def samples(count=10, seed=0):
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return images, (images.mean(1, keepdim=True) > 0.5).float()


def noisy(images, targets, generator):
    return images + 0.1 * torch.randn(images.shape, generator=generator), targets


def train_batches(augment=noisy, shuffle=True, count=10, batch_size=4):
    return TensorBatches(
        *samples(count), batch_size=batch_size, shuffle=shuffle, augment=augment,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip


def val_batches():
    return TensorBatches(*samples(6, seed=2), batch_size=4)


def rich_training(scratch=None, augment=noisy):
    """Everything that a checkpoint must hold: dropout, batch norm, shuffling, augmentation, schedule, EMA, Adam."""
    model = network(dropout=0.3)
    result = fit(
        model, train_batches(augment), val_batches(), loss=LOSS, optimiser=ADAM, num_epochs=EPOCHS, seed=3, ema=0.8,
        accumulate=2, schedule=lambda epoch: 0.9**epoch, scratch=scratch, checkpoint_every=2,
    )  # fmt: skip
    return model, result


def same_weights(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class KilledAt:
    """Augmentation that kills its own process at one of its calls."""

    def __init__(self, call):
        self.calls, self.last = 0, call

    def __call__(self, images, targets, generator):
        self.calls += 1
        if self.calls == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        return noisy(images, targets, generator)


# -- batches ---------------------------------------------------------------------------------------------------------


def test_batches_keep_order_and_the_last_partial_batch():
    images, masks = samples(5)
    batches = TensorBatches(images, masks, batch_size=2)
    assert len(batches) == 3
    assert torch.equal(torch.cat([image for image, _ in batches]), images)
    assert [len(mask) for _, mask in batches] == [2, 2, 1]


def test_shuffled_batches_hold_every_pair_once_and_change_order_every_epoch():
    images, masks = torch.arange(20.0), torch.arange(20.0) * 10
    batches = TensorBatches(images, masks, batch_size=6, shuffle=True, generator=torch.Generator().manual_seed(0))
    epochs = [torch.cat([image for image, _ in batches]) for _ in range(2)]
    assert not torch.equal(*epochs)
    assert all(torch.equal(epoch.sort().values, images) for epoch in epochs)
    assert all(torch.equal(mask, image * 10) for image, mask in batches)


def test_batches_refuse_what_cannot_be_gone_through():
    images, masks = samples(4)
    with pytest.raises(ValueError, match="4 images, 3 targets"):
        TensorBatches(images, masks[:3], batch_size=2)
    with pytest.raises(ValueError, match="generator"):
        TensorBatches(images, masks, batch_size=2, shuffle=True)
    with pytest.raises(ValueError, match="batch_size is 0"):
        TensorBatches(images, masks, batch_size=0)


# -- the loop against plain torch ------------------------------------------------------------------------------------


def test_history_and_weights_are_those_of_a_plain_torch_loop():
    model, plain = network(), network()
    result = fit(model, train_batches(), val_batches(), loss=LOSS, optimiser=ADAM, num_epochs=2)
    optimiser, batches, losses = ADAM(plain.parameters()), train_batches(), []
    for _ in range(2):
        plain.train()
        total = 0.0
        for image, mask in batches:
            optimiser.zero_grad()
            loss = LOSS(plain(image), mask)
            loss.backward()
            optimiser.step()
            total += loss.item() * len(image)
        plain.eval()
        val = LOSS(plain(samples(6, seed=2)[0]), samples(6, seed=2)[1]).item()
        losses.append((total / 10, val))
    assert [row["train_loss"] for row in result.history] == [train for train, _ in losses]
    # atol: one batch of six against a weighted mean of four and two
    assert [row["val_loss"] for row in result.history] == pytest.approx([val for _, val in losses], abs=1e-6)
    assert result.best_epoch == 2
    assert same_weights(model, plain)


def test_two_accumulated_batches_are_one_large_batch():
    def without_norm():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Conv2d(3, 1, 3, padding=1)

    sgd = partial(torch.optim.SGD, lr=0.5)
    small, large = without_norm(), without_norm()
    for model, size, accumulate in ((small, 2, 2), (large, 4, 1)):  # 11 images: the last group is 2 + 1
        batches = train_batches(None, shuffle=False, count=11, batch_size=size)
        fit(model, batches, loss=LOSS, optimiser=sgd, num_epochs=3, accumulate=accumulate)
    torch.testing.assert_close(small.weight, large.weight, atol=1e-6, rtol=0)  # float32 sums in another order


def test_moving_average_is_that_of_its_definition():
    trail = []

    def watched(model, batch):
        trail.append(model[4].weight.detach().clone())  # before the step: the value after the step before
        return LOSS(model(batch[0]), batch[1])

    model = network()
    fit(
        model,
        train_batches(count=4),
        loss=LOSS,
        optimiser=ADAM,
        num_epochs=4,
        step=watched,
        ema=0.7,
        monitor="train_loss",
    )
    plain = network()
    fit(plain, train_batches(count=4), loss=LOSS, optimiser=ADAM, num_epochs=4)
    after = [*trail[1:], plain[4].weight]
    average = after[0]
    for weight in after[1:]:
        average = 0.7 * average + 0.3 * weight
    torch.testing.assert_close(model[4].weight, average, atol=1e-6, rtol=0)


def test_schedule_multiplies_the_learning_rate():
    history = fit(
        network(), train_batches(), loss=LOSS, optimiser=ADAM, num_epochs=3, schedule=lambda epoch: 1 / (1 + epoch)
    ).history
    assert [row["lr"] for row in history] == pytest.approx([0.01, 0.005, 0.01 / 3])


def test_weights_of_the_best_epoch_come_back():
    model = network()
    scored = []

    def rising(prediction, mask):
        scored.append(prediction.sum().item())
        return torch.tensor([0.0, 0.9, 0.5, 0.9][(len(scored) - 1) // 2])  # two validation batches an epoch

    result = fit(
        model, train_batches(), val_batches(), loss=LOSS, optimiser=ADAM, num_epochs=4, scores={"made_up": rising},
        monitor="val_made_up", mode="max",
    )  # fmt: skip
    assert result.best_epoch == 2  # the first of two equal ones
    assert result.best == pytest.approx(0.9)
    assert not model.training
    shorter = network()
    fit(shorter, train_batches(), val_batches(), loss=LOSS, optimiser=ADAM, num_epochs=2)
    assert same_weights(model, shorter)


def test_scores_are_means_over_samples_and_leave_the_mode_alone():
    model = nn.Identity()
    batches = TensorBatches(torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3), batch_size=2)
    found = evaluate(model, batches, scores={"each": lambda p, t: p, "mean": lambda p, t: p.mean()})
    assert found == {"each": 3.0, "mean": 3.0}
    assert model.training


# -- reproducible, resumable -----------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_numbers_and_another_one_does_not():
    first, second = rich_training(), rich_training()
    assert first[1].history == second[1].history
    assert same_weights(first[0], second[0])
    other = fit(network(dropout=0.3), train_batches(), loss=LOSS, optimiser=ADAM, num_epochs=1, seed=4)
    same = fit(network(dropout=0.3), train_batches(), loss=LOSS, optimiser=ADAM, num_epochs=1, seed=3)
    assert other.history != same.history


def test_training_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    rich_training()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "call", [11, pytest.param(14, marks=pytest.mark.slow)]
)  # three batches an epoch: amid epoch 4 and 5, checkpoints after 2 and 4
def test_training_killed_and_resumed_ends_like_an_undisturbed_one(tmp_path, call):
    code = (
        "import sys, torch; torch.set_num_threads(1); from pathlib import Path;"
        "from tests.test_training import KilledAt, rich_training;"
        "rich_training(Path(sys.argv[1]), KilledAt(int(sys.argv[2])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(call)], capture_output=True, text=True,
        cwd=Path(__file__).parents[1], timeout=120,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (done.stdout, done.stderr) == ("", "")  # Lightning stays silent
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    counting = KilledAt(None)
    model, result = rich_training(tmp_path, counting)
    assert counting.calls == 3 * (EPOCHS - 2 * ((call - 1) // 6))  # it did go on from the checkpoint
    plain_model, plain = rich_training()
    assert result.history == plain.history
    assert (result.best_epoch, result.best) == (plain.best_epoch, plain.best)
    assert same_weights(model, plain_model)


def test_finished_training_is_read_back_without_another_step(tmp_path):
    first_model, first = rich_training(tmp_path)
    counting = KilledAt(None)
    model, again = rich_training(tmp_path, counting)
    assert counting.calls == 0
    assert again == first
    assert same_weights(model, first_model)


@pytest.mark.parametrize(("seconds", "written"), [(0.0, EPOCHS), (1e9, 0)])
def test_checkpoints_are_apart_in_time_unless_epochs_are_counted(tmp_path, monkeypatch, seconds, written):
    saved = []
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", seconds)
    monkeypatch.setattr(training._Checkpoint, "save", lambda self, **progress: saved.append(len(progress["history"])))
    fit(network(), train_batches(), loss=LOSS, optimiser=ADAM, num_epochs=EPOCHS, scratch=tmp_path)
    assert saved == list(range(1, written + 1))


def test_damaged_checkpoint_is_told_and_training_starts_anew(tmp_path):
    _, first = rich_training(tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="cannot be read"):
        _, again = rich_training(tmp_path)
    assert again.history == first.history


def test_checkpoint_with_code_in_it_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"parts": Bomb()}, tmp_path / CHECKPOINT)
    with pytest.warns(UserWarning, match="cannot be read"):
        rich_training(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_nothing_is_written_or_said_without_scratch(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    rich_training()
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# -- faults ----------------------------------------------------------------------------------------------------------


def test_loss_that_is_not_finite_stops_training_and_says_so(tmp_path):
    calls = []

    def breaking(model, batch):
        calls.append(1)
        loss = LOSS(model(batch[0]), batch[1])
        return loss * math.nan if len(calls) == 8 else loss  # amid epoch 3

    model = network()
    train = partial(fit, val=val_batches(), loss=LOSS, optimiser=ADAM)
    result = train(model, train_batches(), num_epochs=9, step=breaking, scratch=tmp_path, checkpoint_every=1)
    assert result.diverged
    assert len(result.history) == 3
    assert result.history[-1]["diverged"]
    assert "diverged" not in result.history[0]
    assert len(calls) == 8
    undisturbed = network()
    train(undisturbed, train_batches(), num_epochs=2)
    assert result.best_epoch == 2
    assert same_weights(model, undisturbed)
    again = train(network(), train_batches(), num_epochs=9, step=breaking, scratch=tmp_path, checkpoint_every=1)
    assert again.diverged
    assert len(calls) == 8  # a resumed training does not try the lost one again


@pytest.mark.parametrize("val", [None, val_batches()])
def test_weights_lost_in_the_very_first_epoch_give_the_initial_ones_back(val):
    model = network()
    lost = partial(torch.optim.SGD, lr=math.inf)
    result = fit(model, train_batches(count=4), val, loss=LOSS, optimiser=lost, num_epochs=3)
    assert result.diverged
    assert result.best_epoch == 0
    assert math.isnan(result.best)
    assert same_weights(model, network())


def test_absent_and_unknown_devices_are_refused_clearly(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="NVIDIA GPU"):
        fit(network(), train_batches(), loss=LOSS, optimiser=ADAM, num_epochs=1, device="cuda")
    with pytest.raises(ValueError, match="expected 'cpu' or 'cuda'"):
        check_device("tpu")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "16-mixed"}, "16-mixed on cuda"),
        ({"precision": "8"}, "precision is '8'"),
        ({"monitor": "val_loss"}, "expected one of train_loss"),
        ({"mode": "least"}, "mode is 'least'"),
        ({"num_epochs": 0}, "num_epochs 0"),
    ],
)
def test_settings_out_of_range_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        fit(network(), train_batches(), **{"loss": LOSS, "optimiser": ADAM, "num_epochs": 1, **wrong})


def test_iterable_that_is_used_up_is_refused():
    with pytest.raises(ValueError, match="no training batch"):
        fit(network(), iter(list(train_batches())), loss=LOSS, optimiser=ADAM, num_epochs=2)


def test_bf16_trains_in_float32_weights_and_close_to_float32():
    results, seen = {}, {}
    for precision in ("32", "bf16-mixed"):
        model, dtypes = network(), []

        def watched(prediction, target, dtypes=dtypes):
            dtypes.append(prediction.dtype)
            return LOSS(prediction, target)

        model[0].register_forward_hook(lambda module, inputs, output, dtypes=dtypes: dtypes.append(output.dtype))
        results[precision] = fit(
            model, train_batches(), val_batches(), loss=watched, optimiser=ADAM, num_epochs=2, precision=precision
        )
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        seen[precision] = set(dtypes)
    assert seen["32"] == {torch.float32}
    assert seen["bf16-mixed"] == {torch.float32, torch.bfloat16}  # layers in bf16, the loss in float32
    losses = [result.history[-1]["val_loss"] for result in results.values()]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=0.02)  # eight bits of mantissa


@pytest.mark.parametrize(("precision", "dtype"), [("32", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_own_step_sees_the_model_itself_under_the_chosen_precision(precision, dtype):
    model, seen = network(), []

    def step(given, batch):
        prediction = given(batch[0])
        seen.append((given is model, prediction.dtype))
        return LOSS(prediction, batch[1])

    fit(model, train_batches(), loss=LOSS, optimiser=ADAM, num_epochs=1, precision=precision, step=step)
    assert set(seen) == {(True, dtype)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed"])
def test_cuda_training_is_repeatable_and_resumable(tmp_path, precision):
    def train(num_epochs, scratch=None):
        model = network(dropout=0.3)
        options = {"loss": LOSS, "optimiser": ADAM, "device": "cuda", "precision": precision, "ema": 0.8}
        options |= {"scratch": scratch, "checkpoint_every": 1}
        return fit(model, train_batches(), val_batches(), num_epochs=num_epochs, **options)

    whole = train(4)
    assert train(4).history == whole.history
    train(2, tmp_path)
    assert train(4, tmp_path).history == whole.history
