"""DRAN drawn and counted from its own modules: a diagram of the network and of one layer."""

import itertools
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Circle, FancyBboxPatch
from torch import nn

from medrepro import plotting
from medrepro.dran.network import DRAN


def size_of(module: nn.Module) -> int:
    """Number of parameters, each tensor counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _told(conv: nn.Conv2d) -> str:
    side = conv.kernel_size[0]
    return f"{side} x {side} convolution, {conv.in_channels} to {conv.out_channels}, {'no bias' if conv.bias is None else 'bias'}"


def parts(net: DRAN) -> pd.DataFrame:
    """Parts of a network in the order of use, read off its modules; a block that is used again counts once.

    Returns
    -------
    DataFrame
        Columns ``part``, ``operation``, ``parameters`` (of this use) and ``new parameters``, whose sum is the network's.
    """
    rows = [("input", f"{_told(net.head)}, ReLU", size_of(net.head), size_of(net.head))]
    for d, gate in enumerate(net.gates):
        place = d % len(net.blocks)
        block = net.blocks[place]
        count = size_of(block)
        layer = f"{len(block)} x [dynamic convolution of {block[0].conv.kernels} kernels, batch norm, ReLU]"
        again = d >= len(net.blocks)
        rows.append(
            (f"DRAB {d + 1}", f"block {place + 1}{' again' if again else ''}: {layer}", count, 0 if again else count)
        )
        rows.append(
            (
                f"DRAB {d + 1}",
                f"gate {d + 1}: leaky ReLU of U times sigmoid of M, reflected border",
                *[size_of(gate)] * 2,
            )
        )
    rows.append(
        ("output", f"{_told(net.tail)}, {net.out_activation or 'linear'}", size_of(net.tail), size_of(net.tail))
    )
    return pd.DataFrame(rows, columns=["part", "operation", "parameters", "new parameters"])


def layer_parts(net: DRAN) -> dict[str, int]:
    """Parameters of one dynamic layer by role."""
    layer = net.blocks[0][0]
    return {
        "kernels": layer.conv.weight.numel(),
        "biases": layer.conv.bias.numel(),
        "A1": layer.conv.squeeze.weight.numel(),
        "A2": layer.conv.excite.weight.numel(),
        "batch norm": sum(size_of(norm) for norm in layer.norms),
    }


def diagram(networks: Mapping[str, DRAN]) -> tuple[plt.Figure, pd.DataFrame]:
    """The networks drawn from their modules, a row each, and below them one dynamic layer of the first.

    Parameters
    ----------
    networks
        Name -> network; the number of its blocks, layers, gates and parameters is read off.
    """
    height = 2.05 * len(networks) + 2.0
    figure, axis = plt.subplots(figsize=(plotting.WIDTH, height))
    axis.set(xlim=(0, plotting.WIDTH), ylim=(0, height), aspect="equal")
    axis.set_axis_off()
    for row, (name, net) in enumerate(networks.items()):
        _draw_network(axis, name, net, height - 2.05 * (row + 1))
    _draw_layer(axis, next(iter(networks.values())))
    return figure, pd.concat([parts(net).assign(network=name) for name, net in networks.items()], ignore_index=True)


def _box(axis: plt.Axes, x: float, y: float, w: float, h: float, text: str, colour: str = "0.92") -> None:
    box = FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=0.05", facecolor=colour, edgecolor="0.25")
    axis.add_patch(box)
    axis.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=9, linespacing=1.25)


def _arrow(axis: plt.Axes, *points: tuple[float, float]) -> None:
    for start, stop in itertools.pairwise(points[:-1]):
        axis.plot(*zip(start, stop, strict=True), color="0.25", linewidth=1, solid_capstyle="round")
    style = {"arrowstyle": "-|>", "color": "0.25", "linewidth": 1, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    axis.annotate("", points[-1], points[-2], arrowprops=style)


def _knot(axis: plt.Axes, x: float, y: float, sign: str) -> None:
    axis.add_patch(Circle((x, y), 0.09, facecolor="white", edgecolor="0.25"))
    axis.text(x, y - 0.005, sign, ha="center", va="center", fontsize=9)


def _pale(index: int) -> tuple:
    return tuple(1 - 0.35 * (1 - c) for c in plt.matplotlib.colors.to_rgb(plotting.COLOURS[index]))


def _draw_network(axis: plt.Axes, name: str, net: DRAN, bottom: float) -> None:
    """One row: v, input convolution, blocks with their gates, output convolution, minus; counts from the modules."""
    axis.text(0.02, bottom + 1.95, f"{name}: {size_of(net):,} parameters", fontsize=10, fontweight="bold", va="top")
    middle, drabs = bottom + 0.98, len(net.gates)
    side, gap, left = 0.6, 0.13, 0.3
    wide = (plotting.WIDTH - left - 0.55 - 2 * side - gap * (drabs + 3)) / drabs
    axis.text(0.1, middle, "v", ha="center", va="center", style="italic")
    x = left
    _arrow(axis, (0.18, middle), (x, middle))
    _box(axis, x, middle - 0.3, side, 0.6, f"input\n{size_of(net.head):,}")
    x += side
    for d, gate in enumerate(net.gates):
        place = d % len(net.blocks)
        block = net.blocks[place]
        count = "again" if d >= len(net.blocks) else f"{size_of(block):,}"
        _arrow(axis, (x, middle), (x + gap, middle))
        x += gap
        frame = FancyBboxPatch((x, middle - 0.68), wide, 1.36, boxstyle="round,pad=0,rounding_size=0.08", facecolor="0.97", edgecolor="0.6")  # fmt: skip
        axis.add_patch(frame)
        inner, width = x + 0.14, wide - 0.42
        for shift in (0.33, -0.33):
            _arrow(axis, (x, middle), (x + 0.07, middle), (x + 0.07, middle + shift), (inner, middle + shift))
            plus = x + wide - 0.14
            _arrow(
                axis, (inner + width, middle + shift), (plus, middle + shift), (plus, middle + np.sign(shift) * 0.09)
            )
        _box(axis, inner, middle + 0.08, width, 0.5, f"gate {d + 1}\n{size_of(gate):,}", "0.88")
        _box(axis, inner, middle - 0.58, width, 0.5, f"block {place + 1}\n{count}", _pale(place))
        _knot(axis, x + wide - 0.14, middle, "+")
        axis.text(x + wide / 2, middle - 0.72, f"DRAB {d + 1}", ha="center", va="top", fontsize=9)
        x += wide
        axis.plot((x - 0.05, x), (middle, middle), color="0.25", linewidth=1)
    _arrow(axis, (x, middle), (x + gap, middle))
    x += gap
    _box(axis, x, middle - 0.3, side, 0.6, f"output\n{size_of(net.tail):,}")
    x += side
    _arrow(axis, (x, middle), (x + gap, middle))
    minus = x + gap + 0.09
    _knot(axis, minus, middle, "−")
    _arrow(axis, (0.1, middle - 0.12), (0.1, middle - 0.93), (minus, middle - 0.93), (minus, middle - 0.09))
    _arrow(axis, (minus + 0.09, middle), (minus + 0.22, middle))
    axis.text(minus + 0.3, middle, r"$\hat c$", ha="center", va="center")


def _draw_layer(axis: plt.Axes, net: DRAN) -> None:
    """One dynamic layer: attention above, convolution with the mixed kernel below."""
    conv, counts = net.blocks[0][0].conv, layer_parts(net)
    title = f"a block: {net.num_layers} such layers, one after the other"
    axis.text(0.02, 1.85, title, fontsize=10, fontweight="bold", va="top")
    top, low = 1.2, 0.3
    axis.text(0.1, low, "x", ha="center", va="center", style="italic")
    boxes = [
        (0.5, 0.8, "mean over\npixels"),
        (1.45, 0.9, f"A1, ReLU\n{counts['A1']:,}"),
        (2.5, 0.75, f"A2\n{counts['A2']:,}"),
        (3.4, 0.85, f"softmax\nT = {float(conv.temperature):g}"),
    ]
    for x, w, text in boxes:
        _box(axis, x, top - 0.25, w, 0.5, text)
    for (x, w, _), (following, _, _) in itertools.pairwise(boxes):
        _arrow(axis, (x + w, top), (following, top))
    _arrow(axis, (0.3, low), (0.3, top), (0.5, top))
    mixing = f"mix {conv.kernels} kernels\nand biases\n{counts['kernels'] + counts['biases']:,}"
    _box(axis, 4.4, top - 0.33, 1.3, 0.66, mixing, _pale(0))
    _arrow(axis, (4.25, top), (4.4, top))
    _arrow(axis, (5.05, top - 0.33), (5.05, low + 0.22))
    _box(axis, 4.4, low - 0.22, 1.3, 0.44, "convolution")
    _arrow(axis, (0.18, low), (4.4, low))
    _box(axis, 5.85, low - 0.22, 0.95, 0.44, f"norm, ReLU\n{counts['batch norm']:,}")
    _arrow(axis, (5.7, low), (5.85, low))
    _arrow(axis, (6.8, low), (6.97, low))
