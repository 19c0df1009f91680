"""Benchmarks of the multifractal chapter: exponent, Multi, Mono, and a training step of the whole network.

The plain forms are the equations as they read: three all-ones depthwise convolutions, three logarithms, a stack, a slope;
for Multi a last axis of Q level sets.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import Form, Pair, Row
from medrepro.multifractal.exponent import literal_exponent, local_exponent, rescale
from medrepro.multifractal.literal import Literal, literal_rescale, with_literal_layers
from medrepro.multifractal.objectives import segmentation_loss
from medrepro.multifractal.optimiser import KerasAdam
from medrepro.multifractal.recalibration import recalibration
from medrepro.multifractal.segmenter import UNet

SHAPE = (4, 32, 224, 224)  # maps of the first encoder level at the paper's size
SMALL = [(4, 8, 40, 40), (4, 16, 20, 20), (4, 32, 10, 10)]  # the three levels of the book's live trainings
AUTHORS = {"preset": "authors_code"}
TABLE = AUTHORS | {"form": "table"}


def _maps(shape: Sequence[int], seed: int = 0) -> Tensor:
    """Rectified noise, as after a ReLU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).relu()


def _no_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Form:
    @torch.no_grad()
    def call() -> Sequence[Tensor]:
        return [function(x)]

    return call


def _with_gradient(function: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Tensor] = ()) -> Form:
    leaf, upstream = x.clone().requires_grad_(), _maps(x.shape, seed=1) - 0.4

    def call() -> Sequence[Tensor]:
        out = function(leaf)
        return [out.detach(), *torch.autograd.grad(out, (leaf, *parameters), upstream)]

    return call


def _exponent(how: Callable[[Callable, Tensor], Form], shape: Sequence[int] = SHAPE, *, rescaled: bool = False) -> Pair:
    x = _maps(shape)
    if rescaled:
        return Pair(
            how(lambda x: literal_exponent(literal_rescale(x)), x), how(lambda x: local_exponent(rescale(x)), x)
        )
    measure = rescale(x)
    return Pair(how(literal_exponent, measure), how(local_exponent, measure))


def _layer(name: str, shape: Sequence[int] = SHAPE, *, evaluated: bool = False, **switches: object) -> Pair:
    """A whole layer, its literal form against its own: a training step, or inference if `evaluated`."""
    torch.manual_seed(0)
    ours = recalibration(name, shape[1], **switches)
    plain, x = Literal(copy.deepcopy(ours)), _maps(shape)
    if evaluated:
        return Pair(_no_gradient(plain.eval(), x), _no_gradient(ours.eval(), x))
    return Pair(*(_with_gradient(layer, x, list(layer.parameters())) for layer in (plain, ours)))


def _step(net: nn.Module, image: Tensor, mask: Tensor) -> Form:
    """A training step; returns loss and gradients."""
    optimiser = KerasAdam(net.parameters(), lr=0.0)  # the work of an update, while both forms keep their weights

    def call() -> Sequence[Tensor]:
        optimiser.zero_grad()
        loss = segmentation_loss(net(image), mask)
        loss.backward()
        optimiser.step()
        return [loss.detach(), *(parameter.grad for parameter in net.parameters())]

    return call


def _network(name: str, *, size: int = 112, channels: Sequence[int] = (32, 64, 128, 256), **switches: object) -> Pair:
    """The plain U-Net against the one with recalibration, which is compared with its own literal form."""
    preset = switches.pop("preset", "paper")
    build = partial(UNet, channels, preset=preset)
    torch.manual_seed(0)
    plain, ours = build(), build(recalibration=name, switches=switches)
    literal = with_literal_layers(copy.deepcopy(ours))
    image = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    mask = (image.mean(1, keepdim=True) > 0.5).float()
    return Pair(*(_step(net, image, mask) for net in (plain, ours, literal)))


LITERAL = "literal exponent (three all-ones convolutions, logs, stack, slope)"
Q_AXIS = "literal Multi (Q = 16 level sets of every pixel, exponent by convolutions)"
# a table has no kink where a ReLU on a level has one: pixels beside it get the slope of the other side
KINKED = {"output": 1e-4, "gradient": 0.1}
STEP = "plain U-Net over ours: forward, loss, backward, Adam; batch 4"

ROWS = [
    Row("multifractal/exponent forward", partial(_exponent, _no_gradient), 20, f"{LITERAL} over ours"),
    Row("multifractal/exponent forward+backward", partial(_exponent, _with_gradient), 10, f"{LITERAL} over ours"),
    Row("multifractal/multi forward+backward", partial(_layer, "multi"), 30, f"{Q_AXIS} over table; preset paper"),
    Row(
        "multifractal/multi memory", partial(_layer, "multi"), 8,
        f"{Q_AXIS} over table, forward and backward; preset paper", measured="memory",
    ),
    Row("multifractal/unet+multi step", partial(_network, "multi"), 0.67, f"{STEP}, 112 x 112, preset paper"),
    Row("multifractal/unet+mono step", partial(_network, "mono"), 0.8, f"{STEP}, 112 x 112, preset paper"),
    # watched
    Row(
        "multifractal/exponent with rescaling forward+backward", partial(_exponent, _with_gradient, rescaled=True), None,
        f"{LITERAL} over ours, both with min-max rescaling",
    ),
    *(
        Row(
            f"multifractal/exponent forward+backward {side}x{side}",
            partial(_exponent, _with_gradient, (4, channels, side, side)), None, f"{LITERAL} over ours",
        )
        for side, channels in ((112, 64), (56, 128), (40, 8))
    ),
    Row("multifractal/multi inference", partial(_layer, "multi", evaluated=True), None, f"{Q_AXIS}; preset paper"),
    Row(
        "multifractal/multi forward+backward authors_code", partial(_layer, "multi", **TABLE), None,
        f"{Q_AXIS} over table", **KINKED,
    ),
    Row("multifractal/mono forward+backward", partial(_layer, "mono"), None, "literal Mono; preset paper"),
    Row("multifractal/mono forward+backward authors_code", partial(_layer, "mono", **AUTHORS), None, "literal Mono"),
    *(
        Row(
            f"multifractal/multi forward+backward {shape[1]}x{shape[2]}x{shape[3]}",
            partial(_layer, "multi", shape, **TABLE), None, f"{Q_AXIS}, small maps, authors_code",
        )
        for shape in SMALL
    ),
    *(
        Row(
            f"multifractal/unet+{name} step authors_code", partial(_network, name, **switches), None,
            f"{STEP}, 112 x 112", **KINKED,
        )
        for name, switches in (("multi", TABLE), ("mono", AUTHORS))
    ),
    *(
        Row(
            f"multifractal/unet+{name} step 40x40",
            partial(_network, name, size=40, channels=(8, 16, 32, 64), **switches), None,
            f"{STEP}, channels 8-16-32-64, authors_code",
        )
        for name, switches in (("multi", TABLE), ("mono", AUTHORS))
    ),
]  # fmt: skip
