"""A notebook's page: which notebook this is, its runs, and everything it shows, each with data, seed and provenance."""

import html
import json
import os
import resource
import shlex
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import yaml

from medrepro import paths, plotting, provenance, recorded, runs, sources


class Page:
    """What a notebook opens in its first cell after the imports.

    Parameters
    ----------
    notebook
        ``paper/NN-topic``.
    profile
        ``smoke``, ``cpu``, ``gpu`` or ``paper``.
    parameters
        The other parameters of the notebook's first cell, handed on to its plan of runs.

    Raises
    ------
    ValueError
        The profile or the data set is unknown; the message lists the known ones.
    """

    def __init__(self, notebook: str, *, profile: str, **parameters: Any):
        self.notebook, self.profile, self.parameters = notebook, profile, parameters
        self.paper = notebook.split("/")[0]
        self.experiments = runs.experiments(notebook)
        known = list(self.experiments.PROFILES)
        if profile not in known:
            raise ValueError(f"unknown profile {profile!r}; choose one of {', '.join(known)}")
        if "data" in parameters:
            from medrepro.data import registry

            self.parameters["data"] = registry.resolve(parameters["data"]).name
            registry.fingerprint(self.parameters["data"])  # says at once what is missing, and where to get it
        self.used: dict[str, Any] = {}
        self.start = time.perf_counter()
        plotting.use_style()
        told = ", ".join(f"{key} {value}" for key, value in self.parameters.items())
        print(f"profile {profile}, {told}, device {self.settings.get('device', 'cpu')}")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of this profile, from the paper's ``experiments.py``."""
        return self.experiments.PROFILES[self.profile]

    def runs(self, **only: Any) -> list[runs.StoredRun]:
        """Results of the runs behind this notebook, computed now where the store lacks them; `only` selects by setting."""
        planned = runs.plan(self.notebook, self.profile, **self.parameters)
        wanted = [run for run in planned if all(run.settings.get(key) == value for key, value in only.items())]
        if not wanted:
            raise ValueError(f"{self.notebook} plans no run with {only}")
        return self._seen(runs.ensure(wanted))

    def recorded(self, **only: Any) -> list[recorded.RecordedRun]:
        """Recorded results of this notebook's long runs, as far as they exist; `only` selects by setting."""
        planned = self.experiments.recorded(self.notebook)
        wanted = [run for run in planned if all(run.settings.get(key) == value for key, value in only.items())]
        return self._seen(recorded.found(wanted))

    def _seen(self, results: Sequence[Any]) -> list:
        self.used.update({result.digest: result for result in results})
        return list(results)

    # -- showing ---------------------------------------------------------------------------------------------------

    def figure(
        self,
        figure: Any,
        *,
        name: str,
        caption: str,
        alt: str,
        table: pd.DataFrame,
        source: str = "live",
        timed: bool = False,
    ) -> None:
        """Show a figure with its caption, the table behind it folded below, and a line of provenance.

        Parameters
        ----------
        name
            ``fig-...``, unique in the book; the table becomes ``<name>.csv`` in the build's folder of tables.
        alt
            One sentence: the point of the picture, with the number.
        source
            Where the numbers come from: ``live``, ``recorded``, or a sentence.
        timed
            The table holds measured times: it goes to the build's timings, since it differs from run to run.
        """
        self._csv(name, table, timed=timed)
        below = plotting.folded(
            "The numbers, and where they come from", self._table(table, caption) + self._line(source)
        )
        plotting.emit_figure(name, plotting.png(figure), caption=caption, alt=alt, below=below)

    def table(self, table: pd.DataFrame, *, name: str, caption: str, source: str = "live", timed: bool = False) -> None:
        """Show a table and keep it as CSV; a `timed` one goes to the build's timings, since it differs from run to run."""
        self._csv(name, table, timed=timed)
        text = plotting.table_html(table, caption=caption)
        text += plotting.folded("Where these numbers come from", self._line(source))
        plotting.emit_html(text, table.to_string(index=False))

    def glue(self, key: str, text: str) -> None:
        """Give prose a finished string: ``{glue:text}`key``` shows it."""
        plotting.glue(key, text)

    def quiz(self) -> None:
        """Show this notebook's questions from the paper's ``quiz.yaml``; answers fold out."""
        path = paths.root() / "notebooks" / self.paper / "quiz.yaml"
        questions = yaml.safe_load(path.read_text(encoding="utf-8"))[self.notebook.split("/")[1]]
        parts = []
        for number, entry in enumerate(questions, 1):
            options = "".join(f"<li>{html.escape(str(option))}</li>" for option in entry["options"])
            answer = f"<p><strong>{html.escape(str(entry['options'][entry['answer']]))}</strong> {html.escape(entry['why'])}</p>"
            parts.append(
                f"<p><strong>Question {number}.</strong> {html.escape(entry['question'])}</p>"
                f'<ol type="A">{options}</ol>{plotting.folded(f"Answer to question {number}", answer)}'
            )
        plain = "\n".join(entry["question"] for entry in questions)
        plotting.emit_html(f'<div class="mr-quiz">{"".join(parts)}</div>', plain)

    def footer(self) -> None:
        """Show what made this page: runs, source, versions, device, seconds, peak memory, the command that repeats it."""
        results = list(self.used.values())
        facts = {
            "command": self._command(),
            "data": self.parameters.get("data", "made in the notebook"),
            "runs": f"{len(results)}: {', '.join(sorted(digest[:8] for digest in self.used)) or 'none'}",
            "source": sources.source_digest(f"medrepro.{self.paper}.experiments")[:12],
            "commit": provenance.commit() or "no checkout",
            "device": "; ".join(sorted({result.provenance["device_name"] for result in results})) or "cpu",
            "seconds": f"{sum(result.provenance['seconds'] for result in results):.1f} in runs, when they were computed; "
            f"{time.perf_counter() - self.start:.1f} on this page",
            "peak memory": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB on this page",
            "versions": ", ".join(f"{name} {number}" for name, number in provenance.all_versions().items() if number),
        }
        table = pd.DataFrame({"what": list(facts), "value": list(facts.values())})
        content = plotting.table_html(table, caption="What made this page")
        plotting.emit_html(plotting.folded("Provenance: what made this page", content), json.dumps(facts, indent=1))

    # -- parts -----------------------------------------------------------------------------------------------------

    def _command(self) -> str:
        told = " ".join(
            f"-p {key} {shlex.quote(str(value))}" for key, value in {"profile": self.profile, **self.parameters}.items()
        )
        return f"papermill notebooks/{self.notebook}.ipynb out.ipynb {told}"

    def _line(self, source: str) -> str:
        digests = ", ".join(sorted(digest[:8] for digest in self.used)[:6]) + (" …" if len(self.used) > 6 else "")
        told = f"Source: {source}. Data: {self.parameters.get('data', 'made here')}. Profile: {self.profile}."
        told += f" Runs: {digests}." if self.used else ""
        return f'<p class="mr-provenance">{html.escape(told)} Repeat: <code>{html.escape(self._command())}</code></p>'

    def _table(self, table: pd.DataFrame, caption: str) -> str:
        short = table.head(60)
        rest = len(table) - len(short)
        note = f"<p>The first {len(short)} rows; {rest} more are in the CSV file.</p>" if rest else ""
        return plotting.table_html(short, caption=f"Numbers behind: {caption}") + note

    def _csv(self, name: str, table: pd.DataFrame, *, timed: bool = False) -> None:
        path = paths.build(self.profile) / ("timings" if timed else "tables") / self.notebook / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")
        os.replace(part, path)
