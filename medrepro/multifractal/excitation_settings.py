"""Which trainings of Table 1 the excitation analysis reads, and the networks without skip connections that it adds."""

from collections.abc import Sequence

from medrepro.runs import Run

#: Rows of Table 1 in the analysis: the plain network, for gains, and the four whose gates the paper's figures show.
MODELS = ("unet", "cse", "srm", "fca", "mono")


def with_and_without_skips(table_runs: Sequence[Run]) -> list[Run]:
    """The very runs of Table 1 that the analysis reads, then for each of cSE the same one without skip connections."""
    shared = [run for run in table_runs if run.settings["model"] in MODELS]
    cse = [run for run in shared if run.settings["model"] == "cse"]
    return shared + [Run(run.function, {**run.settings, "skips": False}, run.device, run.threads) for run in cse]
