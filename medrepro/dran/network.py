"""Deep dynamic residual attention network, DRAN (Sharif, Naqvi, Biswas, Mathematics 8, 2020, 2192).

The network predicts the noise of an image in [-1, 1]. Preset ``paper`` has three distinct blocks, as the text says;
``authors_code`` applies one block three times, as their public code does (sharif-apu/MID-DRAN, commit 0ace2d3, which
also stores two more blocks without use).
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrepro.dran.dynamic_convolution import COOLING, DynamicConv2d
from medrepro.dran.noise_gate import NoiseGate
from medrepro.dran.winograd import conv3x3

PRESETS = {"paper": "independent", "authors_code": "shared"}  # what each says about the blocks


class DynamicLayer(nn.Module):
    """Dynamic convolution, batch norm, ReLU; one set of batch norm for each use of the layer where asked for."""

    def __init__(self, features: int, *, kernels: int, temperature: float, norms: int = 1) -> None:
        super().__init__()
        self.conv = DynamicConv2d(features, features, padding=1, kernels=kernels, temperature=temperature)
        self.norms = nn.ModuleList(nn.BatchNorm2d(features) for _ in range(norms))

    def attention(self, x: Tensor) -> Tensor:
        """Attention of the convolution, shape (B, K)."""
        return self.conv.attention(x)

    def forward(self, x: Tensor, attention: Tensor | None = None, use: int = 0) -> Tensor:
        """Maps after the ReLU; `use` counts the applications of a shared block."""
        return F.relu_(self.norms[use % len(self.norms)](self.conv(x, attention)))


class FusedLayer(nn.Module):
    """A `DynamicLayer` for inference: batch norm folded into every kernel and bias, which mixing leaves exact.

    Kernels are stored taps first, as `conv3x3` transforms them, so that a mixed kernel needs no copy.
    """

    def __init__(self, layer: DynamicLayer, use: int = 0) -> None:
        super().__init__()
        conv, norm = layer.conv, layer.norms[use % len(layer.norms)]
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)  # (out,)
        kernels = conv.weight * scale[:, None, None, None]
        bias = (conv.bias - norm.running_mean) * scale + norm.bias
        self.shape = (3, 3, conv.in_channels, conv.out_channels)
        for name, tensor in {
            "kernels": kernels.permute(0, 3, 4, 2, 1).flatten(1),
            "bias": bias,
            "squeeze": conv.squeeze.weight.flatten(1),
            "excite": conv.excite.weight.flatten(1) / conv.temperature,
        }.items():
            self.register_buffer(name, tensor.detach().clone(memory_format=torch.contiguous_format))

    def attention(self, x: Tensor) -> Tensor:
        """Attention of the convolution, shape (B, K)."""
        return F.softmax(F.linear(F.relu(F.linear(x.mean((2, 3)), self.squeeze)), self.excite), -1)

    def forward(self, x: Tensor, attention: Tensor, use: int = 0) -> Tensor:
        """Maps after the ReLU."""
        weight = (attention @ self.kernels).unflatten(1, self.shape).permute(0, 4, 3, 1, 2)
        return conv3x3(x, weight, attention @ self.bias, after="relu")


class FusedGate(nn.Module):
    """A `NoiseGate` for inference: one stored convolution for features and mask."""

    def __init__(self, gate: NoiseGate) -> None:
        super().__init__()
        self.register_buffer("weight", torch.cat([gate.feature.weight, gate.mask.weight]).detach())
        self.register_buffer("bias", torch.cat([gate.feature.bias, gate.mask.bias]).detach())

    def forward(self, x: Tensor) -> Tensor:
        """Gated features."""
        return conv3x3(x, self.weight[None], self.bias[None], reflect=True, after="gate")


class DRAN(nn.Module):
    r"""Noise predictor: input convolution, dynamic residual attention blocks, output convolution, tanh.

    Every block adds a gated skip to its dynamic layers, :math:`x \leftarrow \mathrm{layers}(x) + g(x)`, without an
    identity path. The denoised image is :math:`v - F(v)`.

    Parameters
    ----------
    preset
        ``paper`` (distinct blocks) or ``authors_code`` (one block, used again with a gate of its own each time).
    blocks
        ``independent`` or ``shared``; the preset decides if not given.
    bn
        Batch norm of a shared block: ``shared`` (one set, updated by every use) or ``per_use``. Independent blocks have
        one set for each use in any case.
    features
        Channels between the first and the last convolution.
    layers
        Dynamic convolutions of a block.
    drabs
        Number of blocks, or of uses of the shared one.
    kernels
        Kernels K of a dynamic convolution.
    temperature
        T of the attention's softmax; `cool` lowers it, one call an epoch.
    in_channels
        Channels of the image: 3, or 1 for grey.
    out_activation
        ``tanh`` or None.

    Shape
    -----
    Image in [-1, 1] plus noise (B, in_channels, H, W) -> noise of the same shape, any H and W from 2 on.

    Parameters at the default setting: 2,458,944 (``paper``), 969,664 (``authors_code``).

    Raises
    ------
    ValueError
        Unknown preset or option; an image with other channels, or with a side below 2 (the gate's reflection).

    Notes
    -----
    The text leaves the number of layers, K and T open: 5, 4 and 34 are those of the code. With a fixed attention a
    pixel sees `radius` pixels each way, 17 at the default; the attention itself sees the whole image.

    Examples
    --------
    >>> net = DRAN("authors_code", features=8, layers=2)
    >>> net(torch.zeros(1, 3, 17, 33)).shape
    torch.Size([1, 3, 17, 33])
    """

    def __init__(
        self,
        preset: str = "paper",
        *,
        blocks: str | None = None,
        bn: str = "shared",
        features: int = 64,
        layers: int = 5,
        drabs: int = 3,
        kernels: int = 4,
        temperature: float = 34.0,
        in_channels: int = 3,
        out_activation: str | None = "tanh",
    ) -> None:
        super().__init__()
        _among("preset", preset, tuple(PRESETS))
        blocks = PRESETS[preset] if blocks is None else blocks
        _among("blocks", blocks, ("independent", "shared"))
        _among("bn", bn, ("shared", "per_use"))
        _among("out_activation", out_activation, ("tanh", None))
        self.preset, self.block_kind, self.bn = preset, blocks, bn
        self.in_channels, self.features, self.num_layers = in_channels, features, layers
        self.kernels, self.out_activation = kernels, out_activation
        norms = drabs if blocks == "shared" and bn == "per_use" else 1
        new_layer = lambda: DynamicLayer(features, kernels=kernels, temperature=temperature, norms=norms)
        distinct = drabs if blocks == "independent" else 1
        self.head = nn.Conv2d(in_channels, features, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(nn.ModuleList(new_layer() for _ in range(layers)) for _ in range(distinct))
        self.gates = nn.ModuleList(NoiseGate(features) for _ in range(drabs))
        self.tail = nn.Conv2d(features, in_channels, 3, padding=1, bias=False)

    @property
    def config(self) -> dict[str, Any]:
        """Keywords that build this network again, with the temperature as it is now."""
        return {
            "preset": self.preset,
            "blocks": self.block_kind,
            "bn": self.bn,
            "features": self.features,
            "layers": self.num_layers,
            "drabs": len(self.gates),
            "kernels": self.kernels,
            "temperature": self.temperature,
            "in_channels": self.in_channels,
            "out_activation": self.out_activation,
        }

    @property
    def temperature(self) -> float:
        """T of the attentions."""
        return float(self._dynamic()[0].temperature)

    def cool(self, step: float = COOLING) -> float:
        """Lower T of every attention by a step, but not below 1; returns the new T."""
        for conv in self._dynamic():
            conv.cool(step)
        return self.temperature

    @property
    def radius(self) -> int:
        """Pixels that the output depends on each way, with a fixed attention."""
        return 2 + len(self.gates) * max(1, self.num_layers)

    @property
    def num_attentions(self) -> int:
        """Dynamic convolutions on the way of an image, a shared one counted at every use."""
        return len(self.gates) * self.num_layers

    def forward(self, image: Tensor, *, attention: Tensor | None = None) -> Tensor:
        """Predicted noise; `attention`, shape (num_attentions, B or 1, K), replaces the live one."""
        noise = self.tail(self._walk(image, attention)[0])
        return torch.tanh(noise) if self.out_activation else noise

    def denoise(self, image: Tensor, *, attention: Tensor | None = None) -> Tensor:
        """The image minus its predicted noise, not clipped."""
        return image - self(image, attention=attention)

    def attention(self, image: Tensor) -> Tensor:
        """Attention of every dynamic convolution in forward order, shape (num_attentions, B, K)."""
        return torch.stack(self._walk(image, None)[1])

    def layer_input(self, image: Tensor, attention: Tensor) -> Tensor:
        """Map entering dynamic convolution n, where `attention`, shape (n, B or 1, K), is that of all before it."""
        return self._walk(image, attention, stop=len(attention))[0]

    def fuse(self) -> "DRAN":
        """A copy for inference with running statistics: same output up to rounding, faster; it cannot be trained."""
        fused = copy.deepcopy(self).eval().requires_grad_(False)
        distinct = len(self.gates) if self.block_kind == "independent" or self.bn == "per_use" else 1
        used = [self.blocks[d % len(self.blocks)] for d in range(distinct)]
        fused.blocks = nn.ModuleList(
            nn.ModuleList(FusedLayer(layer, d) for layer in block) for d, block in enumerate(used)
        )
        fused.gates = nn.ModuleList(FusedGate(gate) for gate in self.gates)
        return fused

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in `torch.nn.Module`, but weights with another number of distinct blocks are refused in a sentence."""
        given = {key.split(".")[1] for key in state_dict if key.startswith("blocks.")}
        if given and len(given) != len(self.blocks):
            raise ValueError(
                f"the weights hold {len(given)} distinct block(s), this network has {len(self.blocks)} "
                f"(blocks={self.block_kind!r}): build it with blocks={'shared' if len(given) == 1 else 'independent'!r}"
            )
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _dynamic(self) -> list[DynamicConv2d]:
        found = [module for module in self.modules() if isinstance(module, DynamicConv2d)]
        if not found:
            raise ValueError("a fused network has its temperature folded in: ask the network that it came from")
        return found

    def _walk(self, image: Tensor, attention: Tensor | None, stop: int | None = None) -> tuple[Tensor, list[Tensor]]:
        """Features before the last convolution, or entering dynamic convolution `stop`, and the attentions used."""
        self._check(image)
        used: list[Tensor] = []
        x = F.relu(self.head(image.contiguous()))
        for d, gate in enumerate(self.gates):
            y = x
            for layer in self.blocks[d % len(self.blocks)]:
                if len(used) == stop:
                    return y, used
                used.append(layer.attention(y) if attention is None else attention[len(used)].expand(len(y), -1))
                y = layer(y, used[-1], d)
            x = gate(x).add_(y)
        return x, used

    def _check(self, image: Tensor) -> None:
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise ValueError(
                f"the network takes images of shape (B, {self.in_channels}, H, W), got {tuple(image.shape)}: "
                f"build it with in_channels equal to the image's channels"
            )
        if min(image.shape[-2:]) < 2:
            raise ValueError(
                f"an image of {image.shape[-2]} x {image.shape[-1]} is too small: the minimum of each side is 2, since "
                "the gates reflect the border"
            )


def save_network(network: DRAN, path: Path | str) -> None:
    """Write weights and settings of a network as one safetensors file."""
    from safetensors.torch import save_file

    tensors = {key: tensor.detach().contiguous() for key, tensor in network.state_dict().items()}
    save_file(tensors, str(path), metadata={"dran": json.dumps(network.config)})


def load_network(path: Path | str) -> DRAN:
    """Network with the settings and weights of a file of `save_network`, in eval mode.

    Raises
    ------
    ValueError
        The file holds no settings of a DRAN.
    """
    from safetensors import safe_open

    with safe_open(str(path), "pt") as opened:
        settings = (opened.metadata() or {}).get("dran")
        if settings is None:
            raise ValueError(f"{path} holds no settings of a DRAN: write it with save_network")
        state = {key: opened.get_tensor(key) for key in opened.keys()}
    network = DRAN(**json.loads(settings))
    network.load_state_dict(state)
    return network.eval()


def _among(name: str, value: Any, known: tuple) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(map(str, known))}")
