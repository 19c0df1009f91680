"""The network of a stored training."""

from typing import Any

from torch import nn

from medrepro.dran.denoising_runs import build


def trained_network(result: Any) -> nn.Module:
    """The network of a training that kept its weights, in evaluation mode."""
    settings = result.settings
    skip = settings.get("skip", "gate")
    net = build(settings["model"], seed=settings["seed"], network=settings.get("network"), skip=skip)
    net.load_state_dict(result.weights)
    return net.eval()
