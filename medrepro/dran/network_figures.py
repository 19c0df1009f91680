"""Inside the network: mixing of kernels, gates, blocks, attention, field of view and batch norm, measured on modules.

Parts and counts are read off the modules, so that the diagram is of the network that runs.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle
from torch import Tensor

from medrepro import plotting
from medrepro.dran.denoising_data import LOOKS, clean_test, with_noise
from medrepro.dran.dynamic_convolution import DynamicConv2d
from medrepro.dran.network import DRAN
from medrepro.dran.network_diagram import size_of
from medrepro.dran.noise import at_level
from medrepro.dran.noise_gate import NoiseGate
from medrepro.dran.quality import psnr
from medrepro.dran.winograd import LEAK

LAWS = {"authors_code": "uniform", "paper": "Gaussian"}
TEMPERATURES = (34.0, 10.0, 1.0)
GATE_LEVELS = (0, 15, 25, 50)
#: Statistics of batch norm; the last way also fixes all attentions at 1/K.
BIAS_WAYS = ("running", "of the batch", "of the batch, attention equal")
LEAST_SPREAD = 1e-6  # less is drawn here, on a logarithmic axis
BIAS_SIZES = (0.0, 1e-2, 1.0, 1e2, 1e4, 1e6, 1e8, 1e38)


def fresh(preset: str = "paper", *, seed: int = 0, **settings: Any) -> DRAN:
    """A new network under a seed, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DRAN(preset, **settings).eval()


def phantoms(*, count: int = 1, size: int = 64, looks: Sequence[str] = LOOKS) -> Tensor:
    """Clean test phantoms in [0, 1], shape (count of looks x count, 3, size, size)."""
    return torch.cat([clean_test(look, count, size=size) for look in looks])


def noisy_input(clean: Tensor, level: float, preset: str = "paper", *, seed: int = 0) -> Tensor:
    """What the network gets: phantoms with noise, in [-1, 1] plus noise."""
    return 2 * with_noise(clean, at_level(level, preset), seed=seed) - 1


def one_hot(conv: DynamicConv2d, kernel: int) -> Tensor:
    """Attention (1, K) that gives everything to one kernel."""
    return F.one_hot(torch.tensor([kernel]), conv.kernels).float()


@torch.no_grad()
def most_dynamic(net: DRAN, image: Tensor, *, drabs: int | None = None) -> tuple[DynamicConv2d, Tensor]:
    """The dynamic convolution whose attention to one image departs most from 1/K, and the features that it gets.

    `drabs` limits the search to the first DRABs.
    """
    attention = net.attention(image)[: drabs and drabs * net.num_layers]
    place = int((attention - 1 / net.kernels).abs().amax((1, 2)).argmax())
    block = net.blocks[(place // net.num_layers) % len(net.blocks)]
    return block[place % net.num_layers].conv, net.layer_input(image, attention[:place])


@torch.no_grad()
def mixing_table(conv: DynamicConv2d, x: Tensor) -> pd.DataFrame:
    """What forced attentions make of a dynamic convolution, against a plain one with the kernel that is expected.

    Parameters
    ----------
    conv
        Layer with padding 1 and biases.
    x
        Feature map of one image, shape (1, C, H, W).

    Returns
    -------
    DataFrame
        One row a case: largest difference to the plain convolution, and size of the output for comparison.
    """
    live = conv.attention(x)
    alone = torch.stack([conv(x, one_hot(conv, k)) for k in range(conv.kernels)])
    equal = torch.full((1, conv.kernels), 1 / conv.kernels)
    plain = lambda weight, bias: F.conv2d(x, weight, bias, padding=1)
    cases = {
        "equal": ("mean kernel", conv(x, equal), plain(conv.weight.mean(0), conv.bias.mean(0))),
        **{
            f"kernel {k + 1} alone": (f"kernel {k + 1}", alone[k], plain(conv.weight[k], conv.bias[k]))
            for k in range(conv.kernels)
        },
        "live": ("mixture of the K outputs", conv(x), torch.einsum("bk,kbchw->bchw", live, alone)),
    }
    return pd.DataFrame([
        {"attention": name, "compared with": other, "largest difference": float((y - z).abs().max()), "mean |y|": float(y.abs().mean())}
        for name, (other, y, z) in cases.items()
    ])  # fmt: skip


@torch.no_grad()
def mixing_pictures(conv: DynamicConv2d, x: Tensor) -> dict[str, np.ndarray]:
    """One output channel, that of the largest contrast, under each kernel alone, under equal and under live attention."""
    outputs = {f"kernel {k + 1} alone": conv(x, one_hot(conv, k)) for k in range(conv.kernels)}
    outputs["equal attention"] = conv(x, torch.full((1, conv.kernels), 1 / conv.kernels))
    outputs["live attention"] = conv(x)
    channel = int(outputs["kernel 1 alone"].std((0, 2, 3)).argmax())
    return {name: y[0, channel].numpy() for name, y in outputs.items()}


@torch.no_grad()
def attention_table(
    networks: Mapping[str, tuple[DRAN, Tensor]], *, temperatures: Sequence[float] = TEMPERATURES
) -> pd.DataFrame:
    """Attention of networks at several temperatures, with weights left as they are.

    Parameters
    ----------
    networks
        Name -> network and its input images (B, C, H, W).
    temperatures
        T at which the attention is read off.

    Returns
    -------
    DataFrame
        Columns ``network``, ``T``, ``departure`` (largest |a - 1/K|), ``entropy`` (mean, over ln K),
        ``between images`` (largest range of one weight over the images) and ``exactly equal`` (share of attentions whose
        logits are all 0, since all their hidden units are).
    """
    rows = []
    for name, (net, images) in networks.items():
        for temperature in temperatures:
            probe = copy.deepcopy(net)
            for conv in (module for module in probe.modules() if isinstance(module, DynamicConv2d)):
                conv.set_temperature(temperature)
            a = probe.attention(images)  # (layers, B, K)
            entropy = -(a * a.clamp_min(1e-30).log()).sum(-1).mean() / np.log(net.kernels)
            rows.append({
                "network": name, "T": temperature, "departure": float((a - 1 / net.kernels).abs().max()),
                "entropy": float(entropy), "between images": float((a.amax(1) - a.amin(1)).max()),
                "exactly equal": float((a == a[..., :1]).all(-1).float().mean()),
            })  # fmt: skip
    return pd.DataFrame(rows)


def attention_figure(table: pd.DataFrame, *, kernels: int = 4) -> plt.Figure:
    """Departure from 1/K and range between images by temperature, a line a network, both logarithmic."""
    figure, axes = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.3), sharey=True)
    panels = {"departure": "largest |a - 1/K|", "between images": "largest range over images"}
    for axis, (column, title) in zip(axes, panels.items(), strict=True):
        for place, (name, part) in enumerate(table.groupby("network", sort=False)):
            axis.loglog(part["T"], part[column], label=name, **plotting.look(place))
        axis.set_xticks(sorted(table["T"].unique()), [f"{value:g}" for value in sorted(table["T"].unique())])
        axis.minorticks_off()
        axis.set(title=title, xlabel="temperature T")
    axes[0].axhline(1 - 1 / kernels, color="0.5", linewidth=1)
    axes[0].annotate(
        "one kernel takes all", (34, 1 - 1 / kernels), (0, 3), textcoords="offset points", ha="right", fontsize=9
    )
    axes[0].set_ylabel("weight")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@torch.no_grad()
def attention_worth(net: DRAN, clean: Tensor, level: float, preset: str) -> pd.DataFrame:
    """PSNR in dB of a network with its live attention, with equal attention, and with each image's neighbour's."""
    noisy = noisy_input(clean, level, preset)
    live = net.attention(noisy)
    ways = {"live": live, "equal, 1/K": torch.full_like(live, 1 / net.kernels), "of another image": live.roll(1, 1)}
    rows = []
    for name, attention in ways.items():
        quality = psnr((net.denoise(noisy, attention=attention) + 1) / 2, clean)
        rows.append({"attention": name, "PSNR (dB)": float(quality.mean())})
    table = pd.DataFrame(rows)
    return table.assign(**{"change (dB)": table["PSNR (dB)"] - table["PSNR (dB)"].iloc[0]})


@torch.no_grad()
def bias_table(
    sizes: Sequence[float] = BIAS_SIZES, *, features: int = 16, layers: int = 5, count: int = 1, seed: int = 0
) -> pd.DataFrame:
    """Output of fresh networks whose dynamic biases are uniform on (-size, size), by the statistics of batch norm.

    Returns
    -------
    DataFrame
        Columns ``size``, ``statistics`` (one of `BIAS_WAYS`), ``mean |F|`` over finite outputs, ``at the end``
        (share of finite outputs with |F| > 0.99), ``detail`` (standard deviation over the pixels of an image, border left
        out) and ``not finite`` (share of all outputs).
    """
    images = noisy_input(phantoms(size=32)[:4], 25)
    rows = []
    middle = (..., slice(8, 24), slice(8, 24))
    for size in sizes:
        for way in BIAS_WAYS:
            found = []
            for number in range(count):
                net = fresh("authors_code", seed=seed + number, features=features, layers=layers)
                source = torch.Generator().manual_seed(seed + number)
                for layer in net.blocks[0]:
                    draw = 2 * torch.rand(layer.conv.bias.shape, generator=source) - 1
                    layer.conv.bias.copy_(size * draw)
                equal = torch.full((net.num_attentions, 1, net.kernels), 1 / net.kernels)
                attention = equal if way.endswith("equal") else None
                found.append(net.train(way != "running")(images, attention=attention))
            output = torch.cat(found)
            kept = output[torch.isfinite(output)].abs()
            rows.append({
                "size": size, "statistics": way, "mean |F|": float(kept.mean()) if len(kept) else np.nan,
                "at the end": float((kept > 0.99).float().mean()) if len(kept) else np.nan,
                "detail": float(output[middle].std((2, 3)).mean()), "not finite": 1 - len(kept) / output.numel(),
            })  # fmt: skip
    return pd.DataFrame(rows)


def bias_figure(table: pd.DataFrame) -> plt.Figure:
    """Mean size of the output, and its spread over the pixels of an image, against the size of the biases."""
    figure, axes = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.1), sharex=True)
    drawn = table[(table["size"] > 0) & (table["not finite"] == 0)]
    for axis, column in zip(axes, ("mean |F|", "detail"), strict=True):
        for place, (name, part) in enumerate(drawn.groupby("statistics", sort=False)):
            axis.loglog(part["size"], part[column].clip(lower=LEAST_SPREAD), label=name, **plotting.look(place))
        axis.set_xticks([1e-2, 1, 1e2, 1e4, 1e6, 1e8])
        axis.minorticks_off()
        axis.set_xlabel("largest bias")
    axes[0].set_title("mean |F| (tanh ends at 1)")
    axes[1].set_title("spread of F over the pixels")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, title="statistics of batch norm"
    )
    return figure


# -- gates and blocks ----------------------------------------------------------------------------------------------


@torch.no_grad()
def terms(net: DRAN, images: Tensor) -> list[dict[str, Tensor]]:
    """For each block on the way: its ``input``, its ``layers`` and ``gate`` terms, and the gate's ``openness``."""
    kept: dict[str, list[Tensor]] = {"input": [], "layers": [], "gate": []}
    hooks = [block[-1].register_forward_hook(lambda _, __, y: kept["layers"].append(y.clone())) for block in net.blocks]
    for gate in net.gates:
        hooks.append(gate.register_forward_pre_hook(lambda _, given: kept["input"].append(given[0].clone())))
        # a clone, since the network adds the layers to the gate's output in place
        hooks.append(gate.register_forward_hook(lambda _, __, y: kept["gate"].append(y.clone())))
    try:
        net(images)
    finally:
        for hook in hooks:
            hook.remove()
    found = [dict(zip(kept, parts, strict=True)) for parts in zip(*kept.values(), strict=True)]
    for gate, part in zip(net.gates, found, strict=True):
        part["openness"] = gate.openness(part["input"])
    return found


def block_table(net: DRAN, images: Tensor) -> pd.DataFrame:
    """The two terms of every block: root mean square, and share of entries below 0."""
    rows = []
    for number, part in enumerate(terms(net, images), 1):
        row: dict[str, Any] = {"DRAB": number}
        for name in ("layers", "gate"):
            row[f"{name}, root mean square"] = float(part[name].square().mean().sqrt())
            row[f"{name}, share below 0"] = float((part[name] < 0).float().mean())
        rows.append(row)
    return pd.DataFrame(rows)


def openness_maps(net: DRAN, image: Tensor) -> dict[str, np.ndarray]:
    """Openness of every gate for one image, mean over channels, by name of its DRAB."""
    return {f"gate {n}": part["openness"][0].mean(0).numpy() for n, part in enumerate(terms(net, image), 1)}


def openness_figure(clean: Tensor, networks: Mapping[str, DRAN], *, level: float) -> tuple[plt.Figure, pd.DataFrame]:
    """Noisy image and openness maps of every gate, a row a law of noise.

    Parameters
    ----------
    clean
        One image (1, 3, H, W).
    networks
        Law of the noise (``authors_code`` or ``paper``) -> network trained on it.
    """
    maps, inputs = {}, {}
    for law, net in networks.items():
        image = noisy_input(clean, level, law)
        inputs[law], maps[law] = (image[0].mean(0).numpy() + 1) / 2, openness_maps(net, image)
    low = min(float(a.min()) for row in maps.values() for a in row.values())
    high = max(float(a.max()) for row in maps.values() for a in row.values())
    columns = 1 + max(len(row) for row in maps.values())
    figure, axes = plt.subplots(len(maps), columns, figsize=(plotting.WIDTH, 1.85 * len(maps) + 0.1), squeeze=False)
    for row, law in zip(axes, maps, strict=True):
        grey = row[0].imshow(inputs[law], vmin=0, vmax=1, cmap="gray")
        row[0].set_title(f"{LAWS[law]} noise")
        for axis, (name, a) in zip(row[1:], maps[law].items(), strict=True):
            drawn = axis.imshow(a, vmin=low, vmax=high, cmap="cividis")
            axis.set_title(name)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(drawn, ax=axes[:, -1], shrink=0.8, label="mean openness")
    figure.colorbar(grey, ax=axes[:, 0], shrink=0.8, location="left", label="intensity")
    table = pd.DataFrame([
        {"noise": LAWS[law], "gate": name, "lowest": float(a.min()), "mean": float(a.mean()), "highest": float(a.max())}
        for law, row in maps.items() for name, a in row.items()
    ])  # fmt: skip
    return figure, table


def gate_shares(
    networks: Mapping[str, DRAN], clean: Tensor, *, levels: Sequence[float] = GATE_LEVELS
) -> tuple[plt.Figure, pd.DataFrame]:
    """Share of gates above 0.5 over pixels, channels and images, by level and DRAB, a panel a law."""
    rows = []
    for law, net in networks.items():
        for level in levels:
            images = noisy_input(clean, level, law) if level else 2 * clean - 1
            rows += [
                {"noise": LAWS[law], "level": level, "DRAB": n, "share open": float((part["openness"] > 0.5).float().mean()),
                 "mean openness": float(part["openness"].mean())}
                for n, part in enumerate(terms(net, images), 1)
            ]  # fmt: skip
    table = pd.DataFrame(rows)
    figure, axes = plt.subplots(1, len(networks), figsize=(plotting.WIDTH, 3.0), sharey=True, squeeze=False)
    for axis, (name, part) in zip(axes[0], table.groupby("noise", sort=False), strict=True):
        for n, line in part.groupby("DRAB"):
            axis.plot(line["level"], line["share open"], label=f"gate {n}", **plotting.look(n - 1))
        axis.axhline(0.5, color="0.6", linewidth=1)
        axis.set(title=f"{name} noise", xlabel="level", ylim=(0, 1.04), xticks=list(levels))
    axes[0, 0].set_ylabel("share of gates above 0.5")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(table["DRAB"].unique())
    )
    return figure, table


@torch.no_grad()
def zero_bordered(gate: NoiseGate, x: Tensor) -> tuple[Tensor, Tensor]:
    """A gate's output and openness with zeros outside the map instead of its reflection."""
    u, m = (F.conv2d(x, conv.weight, conv.bias, padding=1) for conv in (gate.feature, gate.mask))
    return F.leaky_relu(u, LEAK) * torch.sigmoid(m), torch.sigmoid(m)


@torch.no_grad()
def border_figure(gate: NoiseGate, x: Tensor) -> tuple[plt.Figure, pd.DataFrame]:
    """A gate on a constant map and on features, with either border.

    Parameters
    ----------
    gate
        The gate.
    x
        Features (1, C, H, W); the constant map holds the mean of each channel.

    Returns
    -------
    Figure, DataFrame
        Openness of the constant map, one channel, with either border. Mean |reflected - zeros| of the gate's output in
        the outermost ring of pixels and inside, relative to the mean |output|, and spread over the pixels.
    """
    constant = x.mean((2, 3), keepdim=True).expand_as(x).contiguous()
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    rows = []
    for name, given in (("constant", constant), ("a phantom's features", x)):
        reflected, zeros = gate(given), zero_bordered(gate, given)[0]
        gap, scale = (reflected - zeros).abs(), float(reflected.abs().mean())
        ring = gap.numel() - gap[inside].numel()
        rows.append({
            "map": name, "change in the outer ring": float((gap.sum() - gap[inside].sum()) / ring) / scale,
            "change inside": float(gap[inside].max()) / scale,
            "spread, reflected": float(reflected.std((2, 3)).mean()) / scale,
            "spread, zeros": float(zeros.std((2, 3)).mean()) / scale,
        })  # fmt: skip
    maps = {"reflected border": gate.openness(constant), "zeros outside": zero_bordered(gate, constant)[1]}
    channel = int((maps["zeros outside"] - maps["reflected border"]).abs().amax((0, 2, 3)).argmax())
    side = 12  # pixels: a corner of the map, so that single pixels are seen
    shown = {name: a[0, channel, :side, :side].numpy() for name, a in maps.items()}
    figure = plotting.show_maps(shown, label="openness of one channel", cmap="cividis", width=0.8 * plotting.WIDTH)
    return figure, pd.DataFrame(rows)


# -- the whole network ---------------------------------------------------------------------------------------------


def parameter_table(**settings: Any) -> pd.DataFrame:
    """Parameters that act and that are stored: three distinct blocks, one used again, and that with two blocks unused."""
    paper, shared = fresh("paper", **settings), fresh("authors_code", **settings)
    acting, block = size_of(shared), size_of(shared.blocks)
    unused = (len(shared.gates) - 1) * block
    rows = [
        ("three distinct blocks (text)", size_of(paper), size_of(paper)),
        ("one block used three times", acting, acting),
        ("the same, as the authors' code stores it", acting, acting + unused),
    ]
    table = pd.DataFrame(rows, columns=["network", "acting", "stored"])
    return table.assign(**{"share that acts": table["acting"] / table["stored"]})


def without_gradient(**settings: Any) -> tuple[int, int]:
    """Tensors, and parameters, that get no gradient if a network with three blocks uses the first one alone.

    The forward pass is that of a shared network whose parts are those of the network with three blocks.
    """
    stored, acting = fresh("paper", **settings).train(), fresh("authors_code", **settings).train()
    acting.head, acting.gates, acting.tail, acting.blocks = stored.head, stored.gates, stored.tail, stored.blocks[:1]
    acting(noisy_input(phantoms(size=32)[:, :, :8, :8], 25)).abs().mean().backward()
    dead = [parameter.numel() for parameter in stored.parameters() if parameter.grad is None]
    return len(dead), sum(dead)


@torch.no_grad()
def birth_table(*, widths: Sequence[int] = (16, 64), seeds: int = 1) -> pd.DataFrame:
    """Mean |F| of new networks by width, with running statistics and with those of the batch."""
    images = noisy_input(phantoms(size=32)[:4], 25)
    rows = []
    for features in widths:
        sizes = [
            [float(fresh("authors_code", seed=seed, features=features).train(way)(images).abs().mean()) for way in (False, True)]
            for seed in range(seeds)
        ]  # fmt: skip
        running, batch = np.mean(sizes, 0)
        rows.append(
            {
                "features": features,
                "running statistics": running,
                "statistics of the batch": batch,
                "ratio": batch / running,
            }
        )
    return pd.DataFrame(rows)


# -- field of view -------------------------------------------------------------------------------------------------


@torch.no_grad()
def footprint(net: DRAN, image: Tensor, *, live: bool, step: float = 0.1) -> np.ndarray:
    """Change of the output, largest over channels, where the central pixel of the image is changed; shape (H, W).

    Parameters
    ----------
    net
        The network; a copy computes in double precision, so that no change is 0 only where nothing arrives.
    image
        One image (1, C, H, W).
    live
        Let the attention see the changed image; else it stays that of the unchanged one.
    step
        Added to all channels of the pixel.
    """
    net, image = copy.deepcopy(net).double(), image.double()
    row, column = (side // 2 for side in image.shape[-2:])
    changed = image.clone()
    changed[..., row, column] += step
    before = net.attention(image)
    after = net.attention(changed) if live else before
    return (net(changed, attention=after) - net(image, attention=before))[0].abs().amax(0).numpy()


def extent(change: np.ndarray) -> tuple[int, int]:
    """Rows and columns of the smallest box around all entries that are not 0."""
    rows, columns = (np.flatnonzero(change.any(axis)) for axis in (1, 0))
    return tuple(int(places[-1] - places[0] + 1) if len(places) else 0 for places in (rows, columns))


def footprint_figure(net: DRAN, image: Tensor) -> tuple[plt.Figure, pd.DataFrame]:
    """Where the change of one pixel arrives, with frozen and with live attention, as decimal logarithms."""
    changes = {
        "attention frozen": footprint(net, image, live=False),
        "attention live": footprint(net, image, live=True),
    }
    least = np.log10(min(change[change > 0].min() for change in changes.values()))
    maps, rows = {}, []
    for name, change in changes.items():
        height, width = extent(change)
        with np.errstate(divide="ignore"):
            maps[f"{name}: {height} x {width} of {change.shape[0]} x {change.shape[1]}"] = np.where(
                change > 0, np.log10(change), np.nan
            )
        outer = np.ones_like(change, dtype=bool)
        middle = [slice(side // 2 - net.radius, side // 2 + net.radius + 1) for side in change.shape]
        outer[tuple(middle)] = False
        rows.append({
            "attention": name.split()[1], "rows": height, "columns": width, "largest change": change.max(),
            "largest change outside the field": change[outer].max() if outer.any() else np.nan,
        })  # fmt: skip
    most = np.log10(max(change.max() for change in changes.values()))
    figure = plotting.show_maps(
        maps, label="log10 of the change; white: none", limits=(float(least), float(most)), cmap="viridis"
    )
    field = 2 * net.radius + 1
    for axis in figure.axes[: len(maps)]:
        axis.set_axis_on()
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(True)
        corner = tuple(side // 2 - net.radius - 0.5 for side in change.shape[::-1])
        axis.add_patch(Rectangle(corner, field, field, fill=False, edgecolor="black", linestyle="--"))
    return figure, pd.DataFrame(rows)


# -- batch norm ----------------------------------------------------------------------------------------------------


def settled_weights(uses: int, momentum: float = 0.1) -> np.ndarray:
    """Weights of the means of every use in the running mean of a shared batch norm, after many equal steps."""
    kept = momentum * (1 - momentum) ** np.arange(uses)[::-1]
    return kept / kept.sum()


@torch.no_grad()
def norm_table(
    *, bn: str = "shared", steps: int = 100, features: int = 16, layers: int = 1, seed: int = 0
) -> pd.DataFrame:
    """Running statistics of the first batch norm of a shared block, after one batch was shown over and over.

    Parameters
    ----------
    bn
        ``shared``: one set for all uses; ``per_use``: a set each.

    Returns
    -------
    DataFrame
        One row a use of the block: updates of its set a step, distance of the running mean from the batch's, in
        deviations of the batch, and running deviation over the batch's (both means over channels).
        `attrs["off"]` is the largest distance of the running mean of a shared set from the mixture by `settled_weights`.
    """
    net = fresh("authors_code", seed=seed, bn=bn, features=features, layers=layers).train()
    images = noisy_input(phantoms(size=32)[:4, :, 8:24, 8:24], 25)
    layer, seen = net.blocks[0][0], []
    for _ in range(steps - 1):
        net(images)
    hook = layer.conv.register_forward_hook(lambda _, __, y: seen.append((y.mean((0, 2, 3)), y.std((0, 2, 3)))))
    net(images)
    hook.remove()
    rows = []
    for use, (mean, sd) in enumerate(seen):
        norm = layer.norms[use % len(layer.norms)]
        rows.append({
            "batch norm": bn, "use": use + 1, "updates a step": int(norm.num_batches_tracked) // steps,
            "distance of the means": float(((norm.running_mean - mean).abs() / sd).mean()),
            "ratio of deviations": float((norm.running_var.sqrt() / sd).mean()),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    mixture = sum(float(w) * mean for w, (mean, _) in zip(settled_weights(len(seen)), seen, strict=True))
    table.attrs["off"] = float((layer.norms[0].running_mean - mixture).abs().max())
    return table
