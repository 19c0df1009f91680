"""Which reading of the paper: the settings of every recalibration by preset, and what the layers share.

``paper`` follows the equations (Martins, Coimbra, Renna 2025), ``authors_code`` the code behind Table 1
(github.com/miguelmartins/multifractal-recalibration, commit 3b723cd), ``corrected`` repairs what cannot be meant: min-max
per image, so that inference does not depend on batch mates; precisions that cannot die; SRM and FCA as their own papers
define them.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medrepro.multifractal.exponent import SCALES
from medrepro.multifractal.maps import one_of

Preset = Literal["paper", "authors_code", "corrected"]
Combine = Literal["sum", "product", "residual_product"]

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "srm": {
        "paper": {"per_channel": False},  # choice: as coded; the text is not known to define SRM anew
        "authors_code": {"per_channel": False},
        "corrected": {"per_channel": True},
    },
    "fca": {
        "paper": {"fca_mode": "authors"},  # choice: as coded, for the same reason
        "authors_code": {"fca_mode": "authors"},
        "corrected": {"fca_mode": "dct2"},
    },
    "mono": {
        "paper": {"minmax": "batch", "slope": "ols", "alpha_bn": False, "combine": "product"},
        "authors_code": {"minmax": "batch", "slope": "ols", "alpha_bn": True, "combine": "product"},
        # batch norm stays: without it the mean exponent hardly moves between images (standard deviation .002 to .03)
        "corrected": {"minmax": "sample", "slope": "ols", "alpha_bn": True, "combine": "product"},
    },
    "multi": {
        "paper": {
            "minmax": "batch", "slope": "ols", "alpha_bn": False, "precision": "square",
            "phi": "linear", "relu": "after_sum", "combine": "sum", "start": "grid", "form": "table",
        },
        "authors_code": {
            "minmax": "batch", "slope": "weighted", "alpha_bn": True, "precision": "relu",
            "phi": "bn", "relu": "per_q", "combine": "sum", "start": "uniform",
            "form": "literal",  # exact for comparisons with the original: a ReLU on each q puts kinks into a table
        },
        "corrected": {
            "minmax": "sample", "slope": "ols", "alpha_bn": False, "precision": "softplus",
            "phi": "linear", "relu": "after_sum", "combine": "sum", "start": "grid", "form": "table",
        },
    },
}  # fmt: skip


def settings_of(name: str, preset: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Settings of a recalibration in a preset, with the overrides that are given (not None)."""
    one_of("preset", preset, tuple(PRESETS[name]))
    return PRESETS[name][preset] | {key: value for key, value in overrides.items() if value is not None}


def dyadic(scales: Sequence[int], max_scale: int | None) -> tuple[int, ...]:
    """`scales`, or 2, 4, ..., `max_scale` if that is given."""
    if max_scale is None:
        return tuple(scales)
    if max_scale < 4 or max_scale & (max_scale - 1):
        raise ValueError(f"max_scale is a power of two, at least 4, got {max_scale}; use scales for other box sides")
    if tuple(scales) != SCALES:
        raise ValueError(f"give either scales={tuple(scales)} or max_scale={max_scale}, not both")
    return tuple(1 << j for j in range(1, max_scale.bit_length()))


def combined(x: Tensor, response: Tensor, combine: Combine) -> Tensor:
    """One of x + response, x * response and x * (1 + response), in the dtype of `x`."""
    response = response.to(x.dtype)
    if combine == "sum":
        return x + response
    return x * response if combine == "product" else torch.addcmul(x, x, response)


def glorot_(layer: nn.Linear | nn.Conv2d) -> Any:
    """Start a layer with a Glorot uniform kernel and zero biases, and return it."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
