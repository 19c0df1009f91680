"""Run function behind Table 1: one network trained on one fold of one set (Martins et al. 2025, their training code).

Protocol of github.com/miguelmartins/multifractal-recalibration, commit 3b723cd: flips redrawn every epoch, batches of 16
in a fixed order with the last partial one kept, Adam by the Keras rule at a constant rate, half cross-entropy and half
soft Dice, weights of the epoch with the lowest validation loss, no early stopping.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medrepro.data.catalogue import resolve
from medrepro.data.segmentation import SegmentationSet, load_segmentation
from medrepro.data.splits import folds
from medrepro.multifractal.controls import with_control
from medrepro.multifractal.exponent import Exponent
from medrepro.multifractal.objectives import Confusion, dice_per_image, segmentation_loss
from medrepro.multifractal.optimiser import KerasAdam
from medrepro.multifractal.segmenter import UNet
from medrepro.training import TensorBatches, check_device, fit

#: Rows of Table 1 by the name of their recalibration.
MODELS = {"unet": "none", **{name: name for name in ("cse", "scse", "srm", "fca", "mono", "multi")}}
SPLIT_SEED = 42  # of every fold, thinning and fixed order, whatever the run's seed: as in the paper's code
LEVELLED = 0.05  # largest fall of the validation loss over the last quarter that counts as levelled off


def random_flips(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flip each pair left-right with probability 1/2, then up-down with probability 1/2, image and mask alike."""
    draws = torch.rand(2, len(images), 1, 1, 1, generator=generator) < 0.5
    for axis, flip in zip((-1, -2), draws):
        images, masks = (torch.where(flip, maps.flip(axis), maps) for maps in (images, masks))
    return images, masks


def seeded_unet(
    model: str,
    *,
    seed: int,
    channels: Sequence[int],
    size: int,
    preset: str,
    switches: Mapping[str, Any] | None = None,
    skips: bool = True,
    control: str | None = None,
) -> UNet:
    """U-Net whose weights outside the recalibration depend on the seed alone, so that all seven start from one trunk.

    Parameters
    ----------
    model
        ``unet``, ``cse``, ``scse``, ``srm``, ``fca``, ``mono`` or ``multi``.
    seed
        Of the initial weights; the recalibration's come from a stream of their own.
    channels, preset, switches, skips
        As in `UNet`.
    size
        Side of the images in pixels.
    control
        As in `with_control`, if one is to take the place of exponent or recalibration.

    Raises
    ------
    ValueError
        An unknown model, preset, switch or control; channels that a model cannot take.
    """
    if model not in MODELS:
        raise ValueError(f"model is {model!r}: expected one of {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = UNet(channels, skips=skips, image_size=(size, size))
        torch.manual_seed(int(np.random.SeedSequence((seed, 1)).generate_state(1)[0]))
        net = UNet(
            channels,
            recalibration=MODELS[model],
            preset=preset,
            switches=switches,
            skips=skips,
            image_size=(size, size),
        )
    missing, unexpected = net.load_state_dict(trunk.state_dict(), strict=False)
    if unexpected or any(".recalibrate." not in name for name in missing):
        raise RuntimeError(f"{model} does not contain the plain U-Net: {missing + unexpected} differ")
    return net if control is None else with_control(net, control)


def late_fall(losses: Sequence[float]) -> float:
    """Relative fall of a loss over the last quarter of epochs (at least four), by a straight line through them.

    0.1: the line ends 10 % below where it starts; negative: the loss rises. NaN for fewer than eight epochs.

    Examples
    --------
    >>> round(late_fall([1.0] * 12 + [1.0, 0.9, 0.8, 0.7]), 3)
    0.3
    """
    if len(losses) < 8:
        return float("nan")
    last = np.asarray(losses, float)[-max(4, len(losses) // 4) :]
    slope, start = np.polyfit(np.arange(len(last)), last, 1)
    return float(-slope * (len(last) - 1) / max(abs(start), 1e-12))


def _thinned(indices: np.ndarray, number: int | None) -> np.ndarray:
    """At most so many of the indices, drawn by the split's seed, in their order."""
    if number is None or number >= len(indices):
        return indices
    return indices[np.sort(np.random.default_rng(SPLIT_SEED).choice(len(indices), number, replace=False))]


def fold_sets(
    data: str,
    *,
    size: int,
    seed: int,
    fold: int = 0,
    num_folds: int = 5,
    split: str = "grouped",
    num_train: int | None = None,
    num_val: int | None = None,
    num_test: int | None = None,
    limit: int | None = None,
    binarise: bool = True,
    phantom: Mapping[str, Any] | None = None,
) -> dict[str, SegmentationSet]:
    """Sets ``train``, ``val`` and ``test`` of one fold.

    Parameters
    ----------
    data
        Name of a segmentation set.
    size
        Side of the images in pixels.
    seed
        Seed of the phantoms; no part of a real set depends on it.
    fold, num_folds, split
        Fold of a real set, and the rule of `folds`. Under ``grouped`` the training list is shuffled once.
    num_train, num_val, num_test
        Numbers of phantoms, which have no folds: all three are needed, and no image is in two sets. Of a real set, at
        most so many of the fold, the same ones for every model and seed.
    limit
        Images of a real set that are loaded, before folds are made.
    binarise, phantom
        As in `load_segmentation`.

    Raises
    ------
    ValueError
        A fold that is not there; numbers missing for phantoms.
    """
    numbers = {"train": num_train, "val": num_val, "test": num_test}
    if resolve(data).is_phantom:
        if fold != 0 or not all(numbers.values()):
            raise ValueError(
                f"{data} has no folds and any number of images: fold is {fold}, expected 0; num_train, num_val, num_test "
                f"are {tuple(numbers.values())}, expected at least 1 each"
            )
        sets, first = {}, 0
        for part, number in numbers.items():
            sets[part] = load_segmentation(data, size=size, seed=seed, count=number, first=first, phantom=phantom)
            first += number
        return sets
    if not 0 <= fold < num_folds:
        raise ValueError(f"fold is {fold} of {num_folds}: expected 0 to {num_folds - 1}")
    whole = load_segmentation(data, size=size, limit=limit, seed=SPLIT_SEED, binarise=binarise, phantom=phantom)
    chosen = folds(data, whole.labels, groups=whole.groups, rule=split, num_folds=num_folds, seed=SPLIT_SEED)[fold]
    if split == "grouped":
        # choice: these lists come sorted by class, batches never reshuffle, and one class after the other would be
        # unlearned; the paper's own list of BUSI is shuffled once too
        chosen = chosen | {"train": np.random.default_rng(SPLIT_SEED).permutation(chosen["train"])}
    return {part: whole.take(_thinned(chosen[part], number)) for part, number in numbers.items()}


@torch.no_grad()
def test_scores(
    net: nn.Module, images: np.ndarray, masks: np.ndarray, *, batch_size: int, device: str
) -> tuple[np.ndarray, float]:
    """Dice of every image, shape (n,), and the IoU of the whole set, as coded, in evaluation mode and float32."""
    dice, confusion = [], Confusion()
    net.eval()
    for image, mask in TensorBatches(torch.from_numpy(images), torch.from_numpy(masks), batch_size=batch_size):
        prob = torch.sigmoid(net(image.to(device))).cpu()
        dice.append(dice_per_image(prob, mask))
        confusion = confusion.plus(prob, mask)
    return torch.cat(dice).numpy(), confusion.iou()


test_scores.__test__ = False  # no test, whatever pytest makes of its name


@torch.no_grad()
def test_excitations(net: UNet, images: np.ndarray, *, batch_size: int, device: str) -> dict[str, np.ndarray]:
    """Channel gates of every image at every depth, ``excitation_1`` and on, each (n, C_l), in evaluation mode.

    Nothing for a network that gates no channels (``unet``, ``multi``).
    """
    if not all(hasattr(level.recalibrate, "excitation") for level in net.encoder):
        return {}
    net.eval()
    batches = torch.from_numpy(images).split(batch_size)
    depths = zip(*(net.excitations(batch.to(device)) for batch in batches), strict=True)
    return {f"excitation_{depth}": torch.cat(parts).cpu().numpy() for depth, parts in enumerate(depths, 1)}


test_excitations.__test__ = False


def per_sample(net: nn.Module) -> nn.Module | None:
    """Copy of a network whose exponents are rescaled per image, or None if it has none."""
    changed = copy.deepcopy(net)
    exponents = [module for module in changed.modules() if isinstance(module, Exponent)]
    for exponent in exponents:
        exponent.minmax = "sample"
    return changed if exponents else None


def train_segmenter(
    data: str,
    model: str,
    preset: str,
    seed: int,
    size: int,
    channels: Sequence[int],
    num_epochs: int,
    batch_size: int = 16,
    lr: float = 1e-4,
    fold: int = 0,
    num_folds: int = 5,
    split: str = "grouped",
    num_train: int | None = None,
    num_val: int | None = None,
    num_test: int | None = None,
    limit: int | None = None,
    binarise: bool = True,
    phantom: Mapping[str, Any] | None = None,
    switches: Mapping[str, Any] | None = None,
    skips: bool = True,
    control: str | None = None,
    shuffle: bool = False,
    precision: str = "32",
    checkpoint_every: int | None = None,
    keep_weights: bool = False,
    device: str = "cpu",
    scratch: Path | None = None,
) -> dict[str, Any]:
    """Train one row of Table 1 on one fold and test it.

    Parameters
    ----------
    data
        Name of a segmentation set, phantom or real.
    model, preset, switches
        ``unet``, ``cse``, ``scse``, ``srm``, ``fca``, ``mono`` or ``multi``; whose reading; keywords that override it.
    skips
        Off: a decoder without skip connections, as in the paper's excitation analysis.
    control
        As in `with_control`.
    seed
        Of initial weights, flips, order and phantoms. All models of one seed share trunk, images, flips and order.
    size
        Side of the images in pixels.
    channels
        Filters of the encoder levels, then of the bottleneck.
    num_epochs, batch_size, lr
        All epochs are run; the paper has 400, 16 and 1e-4.
    fold, num_folds, split, num_train, num_val, num_test, limit, binarise, phantom
        As in `fold_sets`.
    shuffle
        Draw a new order of the training images for every epoch; the paper never does.
    precision
        Of training: ``32``, ``bf16-mixed`` or ``16-mixed``. The test is in float32.
    checkpoint_every
        Epochs between checkpoints in `scratch`, as in `fit`.
    keep_weights
        Return the best weights too.
    device, scratch
        Handed over by the run store.

    Returns
    -------
    dict
        ``metrics``: ``dice`` (mean over test images) and ``iou`` (class 1, whole test set), as the paper's code computes
        them; ``dice_sample``, ``iou_sample`` with per-image rescaling at test time, for mono and multi; ``best_epoch``,
        ``best_val_loss``; ``late_fall`` of the validation loss and ``levelled`` (`late_fall` of eight epochs or more at
        most 0.05, not diverged); ``diverged``; ``parameters`` and the sizes of the three sets. ``history``: a row an
        epoch, with ``train_loss``, ``val_loss``, ``val_dice``. ``arrays``: ``dice`` (and ``dice_sample``) of every test
        image, in the order of the set, and where the network gates channels the gates ``excitation_l`` at depth l = 1, 2,
        3, (n, C_l). ``weights`` where asked for.

    Notes
    -----
    The test batch is 16 for ISIC18 and 32 elsewhere, as in the paper's code: exponents rescaled over the batch make
    scores depend on it. `Dice` during training, at batch 16, may therefore differ from a test on the same images.
    """
    check_device(device)
    net = seeded_unet(
        model, seed=seed, channels=channels, size=size, preset=preset, switches=switches, skips=skips, control=control
    )
    sets = fold_sets(
        data, size=size, seed=seed, fold=fold, num_folds=num_folds, split=split, num_train=num_train, num_val=num_val,
        num_test=num_test, limit=limit, binarise=binarise, phantom=phantom,
    )  # fmt: skip
    tensors = {part: (torch.from_numpy(s.images), torch.from_numpy(s.masks)) for part, s in sets.items()}
    generator = torch.Generator().manual_seed(seed)
    trained = fit(
        net,
        TensorBatches(
            *tensors["train"], batch_size=batch_size, shuffle=shuffle, augment=random_flips, generator=generator
        ),
        TensorBatches(*tensors["val"], batch_size=batch_size),
        loss=segmentation_loss,
        optimiser=partial(KerasAdam, lr=lr),
        num_epochs=num_epochs,
        scores={"dice": lambda logits, mask: dice_per_image(torch.sigmoid(logits), mask)},
        seed=seed,
        device=device,
        precision=precision,
        scratch=scratch,
        checkpoint_every=checkpoint_every,
    )
    test = sets["test"]
    test_batch = 16 if resolve(data).name == "isic18" else 32
    scored = partial(test_scores, images=test.images, masks=test.masks, batch_size=test_batch, device=device)
    dice, iou = scored(net)
    fall = late_fall([row["val_loss"] for row in trained.history if "val_loss" in row])
    metrics = {
        "dice": float(dice.mean()),
        "iou": iou,
        "best_epoch": trained.best_epoch,
        "best_val_loss": trained.best,
        "late_fall": fall,
        "levelled": bool(fall <= LEVELLED) and not trained.diverged,
        "diverged": trained.diverged,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        **{f"num_{part}": len(s) for part, s in sets.items()},
    }
    arrays = {"dice": dice} | test_excitations(net, test.images, batch_size=test_batch, device=device)
    if (changed := per_sample(net)) is not None:
        arrays["dice_sample"], metrics["iou_sample"] = scored(changed)
        metrics["dice_sample"] = float(arrays["dice_sample"].mean())
    weights = {"weights": dict(net.state_dict())} if keep_weights else {}
    return {"metrics": metrics, "history": trained.history, "arrays": arrays, **weights}
