"""What all benchmarks share: two forms of one computation, compared first and then timed in alternating pairs."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from medrepro import provenance

Form = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Pair:
    """Two forms that are measured against each other; each call does the work once and returns outputs and gradients.

    `plain` is the formulation as a paper writes it, `ours` the one that is used. Where they do not compute the same
    thing, as a network with and without an extra layer, `reference` is what `ours` is compared with. `difference`, where it
    is given, compares them in its own way (in double precision, say) and returns the largest difference.
    """

    plain: Form
    ours: Form
    reference: Form | None = None
    difference: Callable[[], float] | None = None


@dataclass(frozen=True)
class Row:
    """One row of the benchmark: how to make its pair, and what is asked of it.

    Parameters
    ----------
    name
        ``paper/what``.
    make
        Builds inputs and both forms; called when the row's turn comes, so that one row's maps are in memory at a time.
    target
        Smallest ratio, plain over ours; None where the row is only watched.
    note
        What plain and ours are.
    measured
        ``time`` (seconds) or ``memory`` (bytes at the peak of one call).
    output, gradient
        Largest difference allowed, see `compare`.
    threads
        Threads that both forms may use, where the row is not measured with those of the whole benchmark.
    """

    name: str
    make: Callable[[], Pair]
    target: float | None
    note: str
    measured: str = "time"
    output: float = 1e-5
    gradient: float = 1e-3
    threads: int | None = None


@dataclass(frozen=True)
class Result:
    """A measured row, as `bench.json` holds it."""

    name: str
    ratio: float
    plain_s: float | None
    ours_s: float | None
    target: float | None
    threads: int
    device: str
    note: str

    def meets_target(self) -> bool:
        """Whether the ratio reaches its target; always, where there is none."""
        return self.target is None or self.ratio >= self.target

    def as_json(self) -> dict:
        """The row with numbers of four digits."""
        shorten = lambda value: float(f"{value:.4g}") if isinstance(value, float) else value
        return {key: shorten(value) for key, value in asdict(self).items()}


def compare(ours: Sequence[Tensor], plain: Sequence[Tensor], *, output: float, gradient: float) -> tuple[float, float]:
    """How far two forms are apart: largest difference of the output, and distance of the gradients.

    Parameters
    ----------
    ours, plain
        Output first, then gradients.
    output
        Largest difference allowed, as a share of the largest entry.
    gradient
        Largest distance allowed (Euclidean, of each tensor), as a share of the norm of the plain one. A gradient below a
        hundredth of the largest norm is held to that hundredth: it is rounding of larger sums.

    Raises
    ------
    ValueError
        The forms return different shapes, or differ by more than is allowed: a ratio would mean nothing.
    """
    if [tuple(a.shape) for a in ours] != [tuple(b.shape) for b in plain]:
        raise ValueError(f"forms return {[tuple(a.shape) for a in ours]} and {[tuple(b.shape) for b in plain]}")
    apart = ((ours[0] - plain[0]).abs().max() / plain[0].abs().max()).item()
    norms = [b.double().norm().item() for b in plain[1:]]
    distances = [(a.double() - b.double()).norm().item() for a, b in zip(ours[1:], plain[1:], strict=True)]
    floor = max(norms, default=0) / 100
    worst = max((d / max(norm, floor) for d, norm in zip(distances, norms, strict=True)), default=0.0)
    if not (apart <= output and worst <= gradient):
        raise ValueError(
            f"outputs differ by {apart:.2g} ({output:.2g} is allowed), gradients by {worst:.2g} ({gradient:.2g} is allowed)"
        )
    return apart, worst


def seconds(form: Form) -> float:
    """Wall time of one call, the work of an accelerator included."""
    start = time.perf_counter()
    form()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(form: Form) -> int:
    """Most bytes that one call holds beyond what was allocated before it, as PyTorch's own allocator counts them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        form()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def _differences(row: Row, pair: Pair) -> tuple[float, float]:
    """Differences of outputs and of gradients; an error where they are too large."""
    if pair.difference is None:
        return compare(pair.ours(), (pair.reference or pair.plain)(), output=row.output, gradient=row.gradient)
    apart = pair.difference()
    if not apart <= row.output:
        raise ValueError(f"{row.name}: the forms differ by {apart:.2g} ({row.output:.2g} is allowed)")
    return apart, 0.0


def measure(row: Row, *, threads: int, pairs: int) -> Result:
    """Compare the forms of a row, then take medians over alternating pairs.

    Parameters
    ----------
    row
        What to measure.
    threads
        Threads that both forms may use.
    pairs
        Pairs timed after the comparison, which also warms both forms up.

    Returns
    -------
    Result
        `ratio` is the median of the pairs' ratios.

    Raises
    ------
    ValueError
        The forms disagree.
    """
    threads = row.threads or threads
    torch.set_num_threads(threads)
    pair = row.make()
    outputs, gradients = _differences(row, pair)
    note = f"{row.note}; outputs agree to {outputs:.0e}" + (f", gradients to {gradients:.0e}" if gradients else "")
    named = row.name, threads, f"cpu: {provenance.device_name('cpu')}"
    if row.measured == "memory":
        plain, ours = peak_bytes(pair.plain), peak_bytes(pair.ours)
        note += f"; {plain / 2**20:.0f} and {ours / 2**20:.0f} MiB at the peak"
        return Result(named[0], plain / ours, None, None, row.target, *named[1:], note)
    pair.plain(), pair.ours()
    timed = [(seconds(pair.plain), seconds(pair.ours)) for _ in range(pairs)]
    ratio = statistics.median(plain / ours for plain, ours in timed)
    plain, ours = (statistics.median(column) for column in zip(*timed, strict=True))
    return Result(named[0], ratio, plain, ours, row.target, *named[1:], note)
