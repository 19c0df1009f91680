"""Training shared by all papers: one loop on Lightning Fabric, which brings devices, precision and gradient scaling.

Fabric and not Lightning's Trainer: the loop stays in sight, a step costs no more than plain torch, and the state that a
resumed training needs (weights, optimiser, random numbers, data order, best weights so far) is one small dictionary.
"""

import contextlib
import importlib
import math
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medrepro.imports import without

#: Names of precision, and what Fabric calls them.
PRECISIONS = {"32": "32-true", "bf16-mixed": "bf16-mixed", "16-mixed": "16-mixed"}
#: The checkpoint's name inside `scratch`.
CHECKPOINT = "training.pt"
CHECKPOINT_SECONDS = 10.0  # between checkpoints, where epochs between them are not given: what a kill may cost

Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
Score = Callable[[Tensor, Tensor], Tensor]


class TensorBatches(torch.utils.data.IterableDataset):
    """Batches of images and targets held in memory; the last, smaller batch is kept.

    Parameters
    ----------
    images, targets
        First axis: the sample.
    batch_size
        Samples a batch.
    shuffle
        Draw a new order for every epoch.
    augment
        ``(images, targets, generator) -> (images, targets)``, called on every batch of every epoch.
    generator
        Source of the order and of what `augment` draws, on the CPU; needed by both. `fit` keeps its state in
        checkpoints.

    Raises
    ------
    ValueError
        Unequal or no samples; `shuffle` or `augment` without a generator.

    Examples
    --------
    >>> batches = TensorBatches(torch.zeros(5, 1, 4, 4), torch.ones(5, 1, 4, 4), batch_size=2)
    >>> [len(images) for images, targets in batches]
    [2, 2, 1]
    """

    def __init__(
        self,
        images: Tensor,
        targets: Tensor,
        *,
        batch_size: int,
        shuffle: bool = False,
        augment: Augment | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if len(images) != len(targets) or len(images) == 0:
            raise ValueError(f"{len(images)} images, {len(targets)} targets: expected as many of both, at least one")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: expected at least 1")
        if generator is None and (shuffle or augment is not None):
            raise ValueError(
                "shuffle and augment draw random numbers: pass generator=torch.Generator().manual_seed(...)"
            )
        self.images, self.targets, self.batch_size = images, targets, batch_size
        self.shuffle, self.augment, self.generator = shuffle, augment, generator

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images), generator=self.generator) if self.shuffle else None
        for start in range(0, len(self.images), self.batch_size):
            place = slice(start, start + self.batch_size) if order is None else order[start : start + self.batch_size]
            images, targets = self.images[place], self.targets[place]
            yield (images, targets) if self.augment is None else self.augment(images, targets, self.generator)


@dataclass(frozen=True)
class Fit:
    """What a training leaves beside the model, which holds the best weights."""

    history: list[dict[str, Any]]  # one row an epoch: epoch (from 1), lr, train_loss, val_loss, val_NAME, diverged
    best_epoch: int  # 0: no epoch ended with a finite number, the weights are the initial ones
    best: float  # the monitored number of that epoch, NaN where there is none
    diverged: bool  # a loss was not finite, and training stopped there


def check_device(device: str) -> None:
    """Raise a clear error where a device is unknown or absent."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}: expected 'cpu' or 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "device 'cuda' was asked for and none is available: choose a profile that runs on the CPU (smoke, cpu), or "
            "a machine with an NVIDIA GPU and a CUDA build of torch"
        )


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable, *, scores: Mapping[str, Score], device: str = "cpu"
) -> dict[str, float]:
    """Mean of every score over samples, in evaluation mode; the model's mode is put back afterwards.

    Parameters
    ----------
    model
        Maps inputs to predictions, on `device`.
    batches
        Pairs (inputs, targets).
    scores
        ``(prediction, target) -> Tensor``: one number a sample, or the batch's mean as a scalar.
    device
        Where `model` lies.
    """
    totals, count, mode = dict.fromkeys(scores, 0.0), 0, model.training
    model.eval()
    for inputs, targets in batches:
        targets = targets.to(device)
        prediction = model(inputs.to(device))
        for name, score in scores.items():
            # one number a sample, or one for all: either way its mean counts for the whole batch
            totals[name] += float(score(prediction, targets).double().mean()) * len(inputs)
        count += len(inputs)
    model.train(mode)
    return {name: total / max(count, 1) for name, total in totals.items()}


def _fabric(device: str, precision: str) -> tuple[Any, Any]:
    """Fabric on one device, and its gradient scaler (None unless the precision is 16-mixed)."""
    library = import_fabric()
    # the environment is named, so that a Slurm job of several tasks is not taken for a distributed training
    plugins: list[Any] = [library.plugins.environments.LightningEnvironment()]
    if precision == "16-mixed":
        scaler = torch.amp.GradScaler(device)
        plugins.append(library.plugins.MixedPrecision("16-mixed", device, scaler=scaler))
        return library.Fabric(accelerator=device, devices=1, plugins=plugins), scaler
    return library.Fabric(accelerator=device, devices=1, precision=PRECISIONS[precision], plugins=plugins), None


def import_fabric() -> ModuleType:
    """Lightning Fabric alone; only its detection of loss spikes, not used here, needs torchmetrics."""
    with without("torchmetrics"):
        return importlib.import_module("lightning_fabric")


@contextlib.contextmanager
def _reproducible(seed: int, device: str) -> Iterator[None]:
    """Torch's own random numbers start from `seed` inside, and go on as they were afterwards."""
    cuda = device == "cuda"
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []):
        torch.manual_seed(seed)
        try:
            if cuda:  # on a CPU torch's training operations give the same numbers anyway
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
                torch.use_deterministic_algorithms(True, warn_only=True)
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


class _Checkpoint:
    """Everything that a resumed training needs, as plain tensors, numbers, lists and dictionaries, in one file."""

    def __init__(self, scratch: Path | None, parts: Mapping[str, Any], generators: Sequence[Any], device: str) -> None:
        self.path = None if scratch is None else Path(scratch) / CHECKPOINT
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.generators = [generator for generator in generators if generator is not None]
        self.device = device

    def save(self, **progress: Any) -> None:
        """Write under another name and rename: a kill leaves the old file or the new one, never half of one."""
        if self.path is None:
            return
        content = {
            "progress": progress,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "generators": [generator.get_state() for generator in self.generators],
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if self.device == "cuda" else None,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        torch.save(content, part)
        os.replace(part, self.path)

    def load(self) -> dict[str, Any] | None:
        """Put every part back where it was; the progress of that moment, or None where there is no checkpoint."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            warnings.warn(f"{self.path} cannot be read ({error}): training starts anew", stacklevel=3)
            return None
        for name, part in self.parts.items():
            part.load_state_dict(content["parts"][name])
        for generator, state in zip(self.generators, content["generators"], strict=True):
            generator.set_state(state)
        torch.set_rng_state(content["random"])
        if self.device == "cuda":
            torch.cuda.set_rng_state(content["cuda"])
        return content["progress"]


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def _finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def _train_epoch(
    fabric: Any, step: Callable[[Any], Tensor], train: Iterable, accumulate: int, optimiser: Any, after_step: Callable
) -> float:
    """One pass over the batches: mean loss over samples. It ends at the first loss that is not finite, and returns it."""
    total, count, stream = 0.0, 0, iter(train)
    while group := list(islice(stream, accumulate)):
        # weighted by samples: the gradient is that of one large batch, a smaller last batch included
        samples = sum(len(batch[0]) for batch in group)
        for batch in group:
            loss = step(fabric.to_device(batch))
            value = loss.item()
            if not math.isfinite(value):
                return value
            share = len(batch[0]) / samples
            fabric.backward(loss if share == 1 else loss * share)
            total, count = total + value * len(batch[0]), count + len(batch[0])
        optimiser.step()
        optimiser.zero_grad()
        after_step()
    if count == 0:
        raise ValueError("there is no training batch: pass an iterable that can be gone through once an epoch")
    return total / count


def fit(
    model: nn.Module,
    train: Iterable,
    val: Iterable | None = None,
    *,
    loss: Score,
    optimiser: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    num_epochs: int,
    step: Callable[[nn.Module, Any], Tensor] | None = None,
    scores: Mapping[str, Score] | None = None,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "32",
    accumulate: int = 1,
    ema: float | None = None,
    schedule: Callable[[int], float] | None = None,
    monitor: str | None = None,
    mode: Literal["min", "max"] = "min",
    scratch: Path | None = None,
    checkpoint_every: int | None = None,
) -> Fit:
    """Train a model; it ends in evaluation mode, on `device`, with the weights of its best epoch.

    Parameters
    ----------
    model
        Trained in place.
    train, val
        Batches (inputs, targets), gone through once an epoch, such as `TensorBatches`. The state of an attribute
        ``generator`` goes into checkpoints: it must be the only source of order and augmentation.
    loss
        ``(prediction, target) -> Tensor``, the mean over a batch; also the validation loss.
    optimiser
        Makes the optimiser from the parameters, for instance ``partial(torch.optim.Adam, lr=1e-4)``.
    num_epochs
        Epochs; all are run.
    step
        ``(model, batch) -> loss`` in training, in place of ``loss(model(inputs), targets)``; called under autocast.
    scores
        Further numbers of the validation set by name, as in `evaluate`; ``dice`` becomes ``val_dice``.
    seed
        Of torch's random numbers inside the model (dropout, noise), which leave the caller's untouched.
    device
        ``cpu`` or ``cuda``.
    precision
        ``32``, ``bf16-mixed`` or ``16-mixed`` (with gradient scaling, on CUDA alone).
    accumulate
        Batches an optimiser step.
    ema
        Decay of an exponential moving average of the weights, updated every optimiser step; validation, the best
        weights and the final ones are then those of the average.
    schedule
        Factor on the learning rate as a function of the epoch, counted from 0.
    monitor, mode
        Column of the history that decides the best epoch, and whether it is to be small (``min``) or large (``max``);
        default ``val_loss``, or ``train_loss`` without `val`. Of equal epochs the first one counts.
    scratch
        Folder of this one training for its checkpoint, from which a killed training goes on; nothing is written
        elsewhere, and without it nothing at all.
    checkpoint_every
        Epochs between checkpoints; if not given, one is written after every epoch that ends `CHECKPOINT_SECONDS` or more
        after the last, since to write it takes as long as an epoch of a small network.

    Returns
    -------
    Fit
        History, best epoch, and whether training stopped at a loss that was not finite (`diverged`, also in the
        history's last row): the weights are then those of the best epoch before.

    Raises
    ------
    ValueError
        An unknown device, precision, mode or monitored column; no batch.
    RuntimeError
        No GPU where one was asked for.

    Notes
    -----
    Same seed, data, threads and CPU give the same history bit for bit, killed and resumed or not. On CUDA, deterministic
    algorithms are asked for where torch has them.
    """
    check_device(device)
    if precision not in PRECISIONS or (precision == "16-mixed" and device == "cpu"):
        raise ValueError(f"precision is {precision!r} on {device}: expected {', '.join(PRECISIONS)} (16-mixed on cuda)")
    if mode not in ("min", "max") or min(accumulate, num_epochs, checkpoint_every or 1) < 1:
        raise ValueError(
            f"mode is {mode!r}, accumulate {accumulate}, num_epochs {num_epochs}, checkpoint_every {checkpoint_every}: "
            "expected 'min' or 'max', and numbers of at least 1"
        )
    val_scores = {} if val is None else {"loss": loss, **(scores or {})}
    columns = ["train_loss", *(f"val_{name}" for name in val_scores)]
    monitor = monitor or ("train_loss" if val is None else "val_loss")
    if monitor not in columns:
        raise ValueError(f"monitor is {monitor!r}: expected one of {', '.join(columns)}")

    fabric, scaler = _fabric(device, precision)
    with _reproducible(seed, device):
        own = optimiser(model.parameters())  # Fabric's wrapper would keep its first param_groups after a resume
        net, optim = fabric.setup(model, own)
        base_lr = [group["lr"] for group in own.param_groups]
        average, kept, judged = None, model, net
        if ema is not None:
            average = torch.optim.swa_utils.AveragedModel(
                model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema)
            )
            kept, judged = average.module, fabric.setup_module(average.module)
        generators = [getattr(batches, "generator", None) for batches in (train, val)]
        parts = {"model": model, "optimiser": own, "average": average, "scaler": scaler}
        checkpoint = _Checkpoint(scratch, parts, generators, device)
        progress = checkpoint.load() or {
            "history": [], "best_epoch": 0, "best": math.nan, "best_weights": _weights(kept), "diverged": False
        }  # fmt: skip
        history: list[dict[str, Any]] = progress["history"]
        saved = time.monotonic()

        def one_step(batch: Any) -> Tensor:
            if step is None:
                return loss(net(batch[0]), batch[1])
            with fabric.autocast():  # the model itself: Fabric's wrapper would refuse methods other than forward
                return step(model, batch)

        def after_step() -> None:
            if average is not None:
                average.update_parameters(model)

        while len(history) < num_epochs and not progress["diverged"]:
            factor = 1.0 if schedule is None else schedule(len(history))
            for group, lr in zip(own.param_groups, base_lr, strict=True):
                group["lr"] = lr * factor
            net.train()
            row = {"epoch": len(history) + 1, "lr": own.param_groups[0]["lr"]}
            row["train_loss"] = _train_epoch(fabric, one_step, train, accumulate, optim, after_step)
            if math.isfinite(row["train_loss"]) and val is not None:
                found = evaluate(judged, val, scores=val_scores, device=device)
                row |= {f"val_{name}": value for name, value in found.items()}
            losses = row["train_loss"], row.get("val_loss", 0.0)
            progress["diverged"] = not (all(map(math.isfinite, losses)) and _finite(kept))
            history.append(row | ({"diverged": True} if progress["diverged"] else {}))
            value = row.get(monitor, math.nan)
            better = value < progress["best"] if mode == "min" else value > progress["best"]
            if not progress["diverged"] and (better or (progress["best_epoch"] == 0 and math.isfinite(value))):
                progress |= {"best_epoch": row["epoch"], "best": value, "best_weights": _weights(kept)}
            if checkpoint_every is None:
                due = time.monotonic() - saved >= CHECKPOINT_SECONDS
            else:
                due = len(history) % checkpoint_every == 0 or len(history) == num_epochs or progress["diverged"]
            if due:
                checkpoint.save(**progress)
                saved = time.monotonic()
    model.load_state_dict(progress["best_weights"])
    model.eval()
    return Fit(history, progress["best_epoch"], progress["best"], progress["diverged"])
