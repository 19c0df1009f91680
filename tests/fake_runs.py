"""Tiny run functions, to test the store without training anything."""

import os
import time
from pathlib import Path


def empty():
    return {}


def add(a, b):
    return {"metrics": {"sum": a + b}}


def add_otherwise(a, b):
    return {"metrics": {"sum": b + a}}


def needs_parent(parent, factor):
    return {"metrics": {"product": parent.metrics["sum"] * factor}}


def fails(reason):
    raise ValueError(reason)


def sleeps(number, seconds):
    time.sleep(seconds)
    return {"metrics": {"square": number**2}, "history": [{"step": 0, "pid": os.getpid()}]}


def returns_text():
    return "text"


def returns_figure():
    return {"metrics": {}, "figure": 1}


def returns_odd_numbers():
    import numpy as np

    metrics = {"nan": float("nan"), "inf": np.float64("inf"), "single": np.float32(0.5), "whole": np.int64(7)}
    return {"metrics": metrics, "history": [{"step": 0, "loss": np.array([1.0, np.nan])}]}


def threads():
    import torch

    return {"metrics": {"threads": torch.get_num_threads()}}


def trains(seed, size=96, steps=5):
    """A few gradient steps of a linear layer; sums are long enough that the number of threads could show."""
    import torch

    torch.manual_seed(seed)
    model = torch.nn.Linear(size, size)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs = torch.randn(256, size)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = (model(inputs) - inputs).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return {
        "metrics": {"loss": losses[-1]},
        "history": [{"step": step, "loss": loss} for step, loss in enumerate(losses)],
        "arrays": {"output": model(inputs[:4]).detach().numpy(), "count": 3},
        "weights": model.state_dict(),
    }


def uses_scratch(steps, scratch, device, pause=0.0, stop_at=None):
    """Counts up in a file of the scratch folder, so that a second call goes on where the first one stopped."""
    file = Path(scratch) / "step.txt"
    first = int(file.read_text()) if file.is_file() else 0
    for step in range(first, steps):
        if stop_at == step and first < step:
            raise RuntimeError(f"stopped at step {step}")
        time.sleep(pause)
        file.write_text(str(step + 1))
    return {"metrics": {"steps": int(file.read_text()), "resumed_from": first, "cuda": int(device == "cuda")}}
