"""Looks into the attention functions: their diagrams, what each does to one feature map, and Figure 4 of the paper."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from medrepro import plotting

#: Rows of Table 1 that recalibrate, with the name used in figures.
NAMES = {"cse": "cSE", "scse": "scSE", "srm": "SRM", "fca": "FCA", "mono": "Mono", "multi": "Multi"}
_FACES = {"features": "#34558b", "exponents": "#c44e52", "recalibrated": "#e8a0bf"}  # as the paper colours its blocks


def stages(layer: Any) -> list[str]:
    """Blocks that a recalibration puts between features and recalibrated features, read off its parts.

    Examples
    --------
    >>> from medrepro.multifractal.recalibration import recalibration
    >>> stages(recalibration("mono", 8))
    ['features', 'exponents', 'statistics', 'attention', 'recalibrated']
    """
    from medrepro.multifractal.exponent import Exponent
    from medrepro.multifractal.recalibration import Excitation

    parts = list(layer.children())
    found = ["features"]
    found += ["exponents"] * any(isinstance(part, Exponent) for part in parts)
    found += ["statistics", "attention"] * any(isinstance(part, Excitation) for part in parts)
    return [*found, "recalibrated"]


def diagrams(rows: Mapping[str, list[str]]) -> tuple[plt.Figure, pd.DataFrame]:
    """Block diagrams below each other, one for each named list of `stages`, with equal blocks in equal columns."""
    columns = max(rows.values(), key=len)
    words = {
        "exponents": "map of\nexponents",
        "statistics": "mean of\neach channel",
        "recalibrated": "recalibrated\nfeatures",
    }
    figure, axes = plt.subplots(len(rows), 1, figsize=(plotting.WIDTH, 1.1 * len(rows)), squeeze=False)
    for axis, (title, blocks) in zip(axes.flat, rows.items()):
        places = [columns.index(block) for block in blocks]
        for left, right in pairwise(places):
            axis.annotate("", (right - 0.38, 0), (left + 0.38, 0), arrowprops={"arrowstyle": "-|>", "color": "0.2"})
        for place, block in zip(places, blocks):
            face = _FACES.get(block, "#cfe2f3")
            colour = "white" if block in ("features", "exponents") else "black"
            box = {"boxstyle": "round,pad=0.5", "facecolor": face, "edgecolor": "0.2"}
            axis.text(place, 0, words.get(block, block), ha="center", va="center", fontsize=9, color=colour, bbox=box)
        axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.6, 0.6))
        axis.set_title(title, loc="left")
        axis.set_axis_off()
    table = [{"diagram": title, **{block: block in blocks for block in columns}} for title, blocks in rows.items()]
    return figure, pd.DataFrame(table)


def responses(features: Any, *, seed: int, preset: str) -> dict[str, Any]:
    """What each attention function, freshly started, makes of the same features.

    Parameters
    ----------
    features
        Tensor of shape (B, C, H, W).
    seed
        Of every layer's starting weights.
    preset
        Reading of the layers.

    Returns
    -------
    dict
        Output minus input by the name in `NAMES`, each of the shape of `features`, as in training (batch norms use the
        batch).
    """
    import torch

    from medrepro.multifractal.recalibration import recalibration

    changes = {}
    for name, shown in NAMES.items():
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            changes[shown] = recalibration(name, features.shape[1], preset=preset)(features) - features
    return changes


def change_maps(features: Any, changes: Mapping[str, Any], *, channel: int) -> tuple[plt.Figure, pd.DataFrame]:
    """Change of one channel of the first image by every attention function, and numbers about all channels.

    The table tells for each function how many different gates it used: a product with one gate a channel changes every
    pixel by the same share, which the column ``shares in the channel`` counts (in steps of 0.001, over pixels that are
    not 0).
    """
    shown = {name: change[0, channel].numpy() for name, change in changes.items()}
    limit = max(float(np.abs(change).max()) for change in shown.values())
    figure = plotting.show_maps(
        shown, columns=3, limits=(-limit, limit), cmap="PuOr", label="change of the channel: output - input"
    )
    feature = features[0, channel].numpy()
    inside = feature > 1e-3 * feature.max()
    rows = []
    for name, change in shown.items():
        shares = np.round(change[inside] / feature[inside], 3)
        rows.append({
            "attention": name, "shares in the channel": len(np.unique(shares)),
            "mean change": float(change.mean()), "smallest": float(change.min()), "largest": float(change.max()),
        })  # fmt: skip
    return figure, pd.DataFrame(rows)


def level_sets(layers: Mapping[str, Any], alpha: np.ndarray) -> tuple[plt.Figure, pd.DataFrame]:
    """Memberships of the level sets of Multi layers against the exponent, above, and the response that they add up to.

    Parameters
    ----------
    layers
        Title -> `Multi` with anchors shared by its channels, in evaluation mode.
    alpha
        Exponents at which both are drawn, shape (n,), as each layer sees them (after its own batch norm, if it has one).
    """
    import torch

    figure, axes = plt.subplots(2, len(layers), figsize=(plotting.WIDTH, 4.4), sharex=True, sharey="row", squeeze=False)
    table = {"exponent": alpha}
    for (above, below), (title, layer) in zip(axes.T, layers.items()):
        with torch.no_grad():
            p = layer.memberships(torch.as_tensor(alpha, dtype=torch.float32).view(1, 1, 1, -1))[0, 0, 0]
            response = layer.response(p).numpy()
        colours = plt.get_cmap("viridis")(np.linspace(0, 0.95, p.shape[1]))
        for number, (membership, colour) in enumerate(zip(p.T.numpy(), colours)):
            above.plot(alpha, membership, color=colour, linewidth=1.2, linestyle=plotting.LINES[number % 4])
        below.plot(alpha, response, color=plotting.COLOURS[3])
        above.set_title(title)
        below.set(xlabel="exponent")
        table[f"response, {title}"] = response
    axes[0, 0].set_ylabel("membership")
    axes[1, 0].set_ylabel("response added")
    axes[1, 0].set_ylim(0.48, 1.02)
    return figure, pd.DataFrame(table)


def trained_network(result: Any) -> Any:
    """The network of a stored training that kept its weights, for images of any size, in evaluation mode."""
    from medrepro.multifractal.segmentation_runs import MODELS
    from medrepro.multifractal.segmenter import UNet

    settings = result.settings
    net = UNet(
        settings["channels"],
        recalibration=MODELS[settings["model"]],
        preset=settings["preset"],
        switches=settings.get("switches"),
    )
    net.load_state_dict(result.weights)
    return net.eval()


def depth_maps(net: Any, image: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Features, level map and change of one channel at every depth of a U-Net with Multi.

    Parameters
    ----------
    net
        `UNet` whose recalibration is ``multi``.
    image
        RGB image of shape (3, H, W) in [0, 1].

    Returns
    -------
    list of dict
        For each depth ``features`` (Psi_l), ``level map`` (H~_l) and ``change`` (the absolute difference of Psi_l before
        and after), each (H_l, W_l), and ``channel``: the one whose level map varies most away from the border, where the
        zeros outside the image make the largest exponents of all.
    """
    import torch
    import torch.nn.functional as F

    found, x = [], torch.as_tensor(image, dtype=torch.float32)[None]
    with torch.no_grad():
        for level in net.encoder:
            features = level.convs(x)
            levels, after = level.recalibrate.level_map(features), level.recalibrate(features)
            channel = int(_inner(levels[0]).var((1, 2)).argmax())
            maps = {"features": features, "level map": levels, "change": (features - after).abs()}
            found.append({name: value[0, channel].numpy() for name, value in maps.items()} | {"channel": channel})
            x = F.max_pool2d(after, 2)
    return found


def _inner(maps: Any) -> Any:
    """Maps (..., H, W) without the border that boxes of side 8 reach over, or a quarter of a small map."""
    margin = min(8, min(maps.shape[-2:]) // 4)
    return maps[..., margin:-margin, margin:-margin]


def figure_4(images: Mapping[str, np.ndarray], depths: Mapping[str, list]) -> tuple[plt.Figure, pd.DataFrame]:
    """The paper's Figure 4 from our networks: an image and, depth by depth, features, level map and change.

    Every map is stretched for display, to the 1st and 99th percentile of its inner part (and 0.001 at least, so that
    a flat map looks flat). The table carries the ranges, and the largest difference between
    the level map and the change before stretching.
    """
    first = next(iter(depths.values()))
    names = [name for name in first[0] if name != "channel"]
    figure, axes = plt.subplots(
        len(first) * len(images),
        1 + len(names),
        figsize=(plotting.WIDTH, 1.75 * len(first) * len(images)),
        squeeze=False,
    )
    rows = []
    for block, (title, image) in enumerate(images.items()):
        for depth, maps in enumerate(depths[title]):
            line = axes[block * len(first) + depth]
            line[0].set_axis_off()
            if depth == 0:
                line[0].imshow(image.transpose(1, 2, 0))
                line[0].set_title(title)
            for axis, name in zip(line[1:], names):
                low, high = np.percentile(_inner(maps[name]), (1, 99))
                axis.imshow(maps[name], cmap="viridis", interpolation="nearest", vmin=low, vmax=max(high, low + 1e-3))
                axis.set(xticks=[], yticks=[])
                if depth == 0:
                    axis.set_title(name)
            line[1].set_ylabel(f"depth {depth + 1}")
            levels = maps["level map"]
            rows.append({
                "image": title, "depth": depth + 1, "channel": maps["channel"], "level map, smallest": float(levels.min()),
                "level map, largest": float(levels.max()), "level map minus change": float(np.abs(levels - maps["change"]).max()),
            })  # fmt: skip
    return figure, pd.DataFrame(rows)


def readings(features: Any, *, seed: int) -> pd.DataFrame:
    """Mono and Multi, freshly started, in the three readings, on the features of some images.

    Parameters
    ----------
    features
        Tensor of shape (B, C, H, W), B at least 2.
    seed
        Of the starting weights.

    Returns
    -------
    DataFrame
        Spread of the response between images (gates of Mono) or between the pixels of an image (level map of Multi), as a
        standard deviation, mean over channels, in training and in testing; and the largest change of the first image's
        response in testing when the other images are made four times as bright.
    """
    import torch

    from medrepro.multifractal.recalibration import recalibration

    rows = []
    for name in ("mono", "multi"):
        for reading in ("paper", "authors_code", "corrected"):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(seed)
                layer = recalibration(name, features.shape[1], preset=reading)
                respond = layer.excitation if name == "mono" else layer.level_map
                spread = lambda response: float(response.std(0 if response.ndim == 2 else (2, 3)).mean())
                trained = respond(features)
                layer.eval()
                tested = respond(features)
                mates = respond(torch.cat([features[:1], 4 * features[1:]]))
            rows.append({
                "layer": NAMES[name], "reading": reading, "parameters": sum(p.numel() for p in layer.parameters()),
                "spread in training": spread(trained), "spread in testing": spread(tested),
                "change by brighter batch mates": float((mates[0] - tested[0]).abs().max()),
            })  # fmt: skip
    return pd.DataFrame(rows)
