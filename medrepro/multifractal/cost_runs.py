"""Run function behind Table 4's question: what a recalibration costs in time and memory, beside the plain U-Net."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from medrepro.multifractal.literal import with_literal_layers
from medrepro.multifractal.objectives import segmentation_loss
from medrepro.multifractal.optimiser import KerasAdam
from medrepro.multifractal.segmentation_runs import seeded_unet
from medrepro.multifractal.segmenter import UNet

#: Variants by name: model, and whether Mono or Multi is computed as the equations read.
VARIANTS = {
    "unet": ("unet", False), "cse": ("cse", False), "scse": ("scse", False), "srm": ("srm", False), "fca": ("fca", False),
    "mono, literal": ("mono", True), "mono, ours": ("mono", False),
    "multi, literal": ("multi", True), "multi, ours": ("multi", False),
}  # fmt: skip


def training_step(net: UNet, image: Tensor, mask: Tensor) -> Callable[[], None]:
    """A whole training step: forward, loss, backward, update (at rate 0, so that all steps are the same)."""
    optimiser = KerasAdam(net.parameters(), lr=0.0)

    def step() -> None:
        net.train()
        optimiser.zero_grad()
        segmentation_loss(net(image), mask).backward()
        optimiser.step()

    return step


def inference(net: UNet, image: Tensor) -> Callable[[], None]:
    """A forward pass in evaluation mode, without gradients."""

    @torch.no_grad()
    def forward() -> None:
        net.eval()
        net(image)

    return forward


def kept_bytes(net: UNet, image: Tensor, mask: Tensor) -> int:
    """Bytes of distinct tensors that a forward pass keeps for the backward pass, parameters left out."""
    own = {parameter.data_ptr() for parameter in net.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    net.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = segmentation_loss(net(image), mask)
    total = sum(kept.values())
    loss.backward()
    return total


def variant_costs(
    size: int, batch_size: int, channels: Sequence[int], rounds: int, seed: int, preset: str = "authors_code"
) -> dict[str, Any]:
    """Time every variant's training step and inference, in rounds in which each variant has its turn.

    Parameters
    ----------
    size
        Side of the images in pixels; images and masks are noise, which costs what images cost.
    batch_size, channels
        Of all networks.
    rounds
        Rounds timed, after one that warms up.
    seed
        Of weights and noise.
    preset
        Reading of Mono and Multi. ``ours`` takes Multi's level sets from a table.

    Returns
    -------
    dict
        ``history``: a row a variant, kind (``training step``, ``inference``) and round, with ``seconds`` and ``ratio`` to
        the plain U-Net of the same round. ``metrics``: median ratio by variant and kind, and the bytes kept for the backward
        pass by variant and as a ratio. One thread, unless the run says otherwise.
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch_size, 3, size, size, generator=generator)
    mask = (torch.rand(batch_size, 1, size, size, generator=generator) > 0.5).float()
    nets = {}
    for name, (model, literal) in VARIANTS.items():
        table = {"form": "table"} if name == "multi, ours" else None
        net = seeded_unet(model, seed=seed, channels=channels, size=size, preset=preset, switches=table)
        nets[name] = with_literal_layers(net) if literal else net
    kept = {name: kept_bytes(net, image, mask) for name, net in nets.items()}
    work = {
        "training step": {name: training_step(net, image, mask) for name, net in nets.items()},
        "inference": {name: inference(net, image) for name, net in nets.items()},
    }
    rows = []
    for number in range(rounds + 1):
        for kind, calls in work.items():
            seconds = {name: _seconds(call) for name, call in calls.items()}
            if number:  # the first round warms up
                rows += [
                    {"variant": name, "kind": kind, "round": number, "seconds": value, "ratio": value / seconds["unet"]}
                    for name, value in seconds.items()
                ]
    ratios = {
        f"{kind}, {name}": statistics.median(r["ratio"] for r in rows if (r["variant"], r["kind"]) == (name, kind))
        for kind in work
        for name in nets
    }
    memory = {f"kept bytes, {name}": value for name, value in kept.items()}
    return {"metrics": {**ratios, **memory}, "history": rows}


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
