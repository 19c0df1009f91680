"""DRAN against its plain form: one grouped convolution a batch, two convolutions a gate, batch norm as its own pass.

The plain form is also the readable reference of the tests.
"""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Pair, Row
from medrepro.dran.network import DRAN

SIZES = ((1, 128), (1, 256), (2, 48), (4, 64), (8, 64))  # batch, side


class PlainDynamicConv(nn.Module):
    """Dynamic convolution by the book: 1 x 1 convolutions on the pooled map, then one group for each sample."""

    def __init__(self, features: int, kernels: int = 4, temperature: float = 34.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(features, features // 4, 1, bias=False)
        self.excite = nn.Conv2d(features // 4, kernels, 1, bias=False)
        self.weight = nn.Parameter(torch.zeros(kernels, features, features, 3, 3))
        self.bias = nn.Parameter(torch.zeros(kernels, features))

    def forward(self, x: Tensor) -> Tensor:
        """Mixed kernels on x, shape (B, C, H, W)."""
        batch, channels, height, width = x.shape
        logits = self.excite(F.relu(self.squeeze(self.pool(x)))).view(batch, -1)
        a = F.softmax(logits / self.temperature, 1)
        weight = torch.mm(a, self.weight.view(len(self.weight), -1)).view(batch * channels, channels, 3, 3)
        bias = torch.mm(a, self.bias).view(-1)
        stacked = x.contiguous().view(1, batch * channels, height, width)
        return F.conv2d(stacked, weight, bias, padding=1, groups=batch).view(batch, channels, height, width)


class PlainGate(nn.Module):
    """Noise gate with two convolutions, the activation on the product."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.feature, self.mask = nn.Conv2d(features, features, 3), nn.Conv2d(features, features, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Gated features."""
        padded = self.pad(x)
        return F.leaky_relu(self.feature(padded) * torch.sigmoid(self.mask(padded)), 0.2)


class PlainDRAN(nn.Module):
    """The network in the order of the paper's figure, weights taken from ours."""

    def __init__(self, ours: DRAN) -> None:
        super().__init__()
        features, kernels = ours.features, ours.kernels
        self.head, self.tail = copy.deepcopy(ours.head), copy.deepcopy(ours.tail)
        self.convs, self.norms, self.gates = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for block in ours.blocks:
            convs = [PlainDynamicConv(features, kernels, ours.temperature) for _ in block]
            for conv, layer in zip(convs, block, strict=True):
                state = layer.conv.state_dict()
                conv.load_state_dict({key: state[key] for key in conv.state_dict()})
            self.convs.append(nn.ModuleList(convs))
            self.norms.append(nn.ModuleList(copy.deepcopy(layer.norms[0]) for layer in block))
        for gate in ours.gates:
            self.gates.append(PlainGate(features))
            self.gates[-1].load_state_dict(gate.state_dict())
        for convolution in (self.head, self.tail):
            convolution.to(memory_format=torch.contiguous_format)

    def forward(self, image: Tensor) -> Tensor:
        """Predicted noise."""
        x = F.relu(self.head(image))
        for d, gate in enumerate(self.gates):
            y = x
            for conv, norm in zip(self.convs[d % len(self.convs)], self.norms[d % len(self.norms)], strict=True):
                y = F.relu(norm(conv(y)))
            x = y + gate(x)
        return torch.tanh(self.tail(x))


def network(preset: str = "authors_code", **options) -> DRAN:
    """Network with running statistics and biases off their start, in eval mode."""
    torch.manual_seed(0)
    net = DRAN(preset, **options).train()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("conv.bias"):
                parameter.uniform_(-0.1, 0.1)
        for _ in range(3):
            net(torch.rand(2, 3, 24, 24) * 2 - 1)
    return net.eval()


def inference(batch: int = 1, side: int = 128, *, preset: str = "authors_code") -> Pair:
    """Forward pass in eval mode, the plain form against `DRAN.fuse`."""
    net = network(preset)
    plain, fused = PlainDRAN(net).eval(), net.fuse()
    image = torch.rand(batch, 3, side, side) * 2 - 1

    def run(model: nn.Module) -> list[Tensor]:
        with torch.inference_mode():
            return [model(image)]

    return Pair(lambda: run(plain), lambda: run(fused))


def training_step(batch: int = 8, side: int = 64, *, preset: str = "authors_code") -> Pair:
    """Forward, L1, backward, Adam.

    Compared are the loss and, by relative norm, every gradient, in double precision: in single precision rounding flips
    ReLUs near zero, and each flip shows in the gradients.
    """
    net = network(preset).train()
    plain = PlainDRAN(net).train()
    image, noise = torch.rand(batch, 3, side, side) * 2 - 1, torch.rand(batch, 3, side, side) * 0.5
    optimisers = {id(model): torch.optim.Adam(model.parameters(), 1e-3, betas=(0.5, 0.99)) for model in (net, plain)}

    def backward(model: nn.Module) -> Tensor:
        optimisers[id(model)].zero_grad()
        loss = F.l1_loss(model(image + noise), noise)
        loss.backward()
        return loss

    def step(model: nn.Module) -> list[Tensor]:
        loss = backward(model)
        optimisers[id(model)].step()
        return [loss.detach()]

    def difference() -> float:
        ours = copy.deepcopy(net).double()
        theirs = PlainDRAN(ours).train().double()
        losses = [F.l1_loss(model((image + noise).double()), noise.double()) for model in (ours, theirs)]
        for loss in losses:
            loss.backward()
        expected = dict(theirs.named_parameters())
        gaps = [
            (expected[_plain_name(key)].grad - p.grad).norm() / (p.grad.norm() + 1e-6)
            for key, p in ours.named_parameters()
        ]
        return float(max(abs(losses[0] - losses[1]), *gaps))

    return Pair(lambda: step(plain), lambda: step(net), difference=difference)


def _plain_name(name: str) -> str:
    """Name in the plain form of a parameter of ours: ``blocks.0.1.conv.bias`` is ``convs.0.1.bias``."""
    if not name.startswith("blocks."):
        return name
    _, block, layer, part, *rest = name.split(".")
    return ".".join(["convs" if part == "conv" else "norms", block, layer, *(rest if part == "conv" else rest[1:])])


INFERENCE = "one grouped convolution a batch, separate passes, over fuse(); eval mode"
ROWS = [
    Row("dran/inference 1x128x128", partial(inference, 1, 128), 1.5, INFERENCE, threads=1),
    Row("dran/training step", training_step, 1.2, "as above; forward, L1, backward, Adam; 8 x 64 x 64", threads=1),
    *(
        Row(f"dran/inference {batch}x{side}x{side}", partial(inference, batch, side), 1.3, INFERENCE, threads=1)
        for batch, side in SIZES[1:]
    ),
]
