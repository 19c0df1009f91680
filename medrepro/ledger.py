"""The ledger: every table, figure, equation, part and claim of a paper, with a verdict that is computed, never typed.

``ledger.yaml`` of a paper says what there is to decide and how: by named tests, or by a function of the paper's slice that
reads runs and returns `Evidence`. The rules that turn evidence into a verdict are here, the same for all papers.
"""

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from medrepro import checks, paths
from medrepro.metrics import Interval, interval
from medrepro.published import Strict, read_yaml

#: What may decide, best first.
SOURCES = ("recorded, paper's data", "recorded, real data", "recorded, phantoms", "live, phantoms")
REPRODUCED, SAME, NOT_REPRODUCED = "reproduced", "same direction", "not reproduced"
SUPPORTED, CONTRADICTED, NOT_SEEN = "supported", "contradicted", "not seen at this scale"
CONDITIONAL = "supported with conditions"
#: Reasons why a row is decided without a run, as written in the ledger's file -> as printed.
REASONS = {
    "not_reproducible": "not reproducible",
    "not_attempted": "not attempted",
    "not_testable": "not testable here",
}


@dataclass(frozen=True)
class Evidence:
    """Runs of one source that speak to one condition of a row.

    Parameters
    ----------
    source
        One of `SOURCES`.
    data, profile
        What the runs ran on, and how big.
    effects
        Paired differences, one a seed or fold, with the claimed side positive.
    condition
        Which of the row's conditions they speak to.
    overlap
        Test over training cases where the effects come from folds (see `medrepro.metrics.interval`).
    pairs
        For tables and figures: (published value, our interval).
    note
        What a reader must know, with the runs' digests or the recorded files.
    """

    source: str
    data: str
    profile: str
    effects: Sequence[float] = ()
    condition: str = "all"
    overlap: float = 0.0
    pairs: Sequence[tuple[float, Interval]] = ()
    note: str = ""

    def __post_init__(self):
        if self.source not in SOURCES:
            raise ValueError(f"evidence comes from one of {SOURCES}, got {self.source!r}")


class Condition(Strict):
    """One stated condition of a claim, or one difference that a table or figure stresses."""

    name: str = "all"
    metric: str
    claimed: str
    smallest: float = 0.0
    reason: str = ""
    not_attempted: str | None = None  # why no run speaks to this condition; it then never counts as supported


class Row(Strict):
    """One item of a paper."""

    item: str
    kind: Literal["table", "figure", "equation", "part", "claim"]
    place: str
    statement: str
    notebook: str | None = None
    tests: list[str] = []
    evidence: str | None = None
    given: dict[str, str] = {}  # further arguments of the evidence function
    conditions: list[Condition] = []
    not_reproducible: str | None = None
    not_attempted: str | None = None
    not_testable: str | None = None

    @model_validator(mode="after")
    def _decided_in_one_way(self) -> "Row":
        ways = [bool(self.tests), bool(self.evidence), *(bool(getattr(self, name)) for name in REASONS)]
        if sum(ways) != 1:
            raise ValueError(
                f"{self.item}: a row is decided by tests, by evidence or by one stated reason, exactly one of them"
            )
        if self.kind == "claim" and self.evidence and not self.conditions:
            raise ValueError(f"{self.item}: a claim decided by runs names metric, claimed side and smallest effect")
        if self.kind == "claim" and any(c.smallest <= 0 or not c.reason for c in self.conditions):
            raise ValueError(f"{self.item}: a claim's smallest effect of interest is positive and has a reason")
        if self.kind in ("equation", "part") and self.evidence:
            raise ValueError(f"{self.item}: an {self.kind} is decided by named tests")
        return self


class Ledger(Strict):
    """All rows of a paper."""

    paper: str
    rows: list[Row]


@dataclass
class Verdict:
    """A decided row."""

    paper: str
    item: str
    kind: str
    verdict: str
    data: str | None = None
    profile: str | None = None
    notebook: str | None = None
    note: str = ""
    place: str = field(default="", repr=False)
    statement: str = field(default="", repr=False)

    def public(self) -> dict[str, Any]:
        """The keys that ``medrepro ledger --json`` prints."""
        names = ("paper", "item", "kind", "verdict", "data", "profile", "notebook", "note")
        return {name: getattr(self, name) for name in names}


# -- rules -----------------------------------------------------------------------------------------------------------


def deciding(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Best evidence for each condition, by the order of `SOURCES`."""
    best: dict[str, Evidence] = {}
    for one in sorted(evidence, key=lambda one: SOURCES.index(one.source)):
        best.setdefault(one.condition, one)
    return list(best.values())


def condition_verdict(effect: Interval, smallest: float) -> str:
    """Verdict on one condition of a claim from the interval of its effect, claimed side positive."""
    if effect.low > 0 and effect.mean >= smallest:
        return SUPPORTED
    if effect.high < 0 and effect.mean <= -smallest:
        return CONTRADICTED
    return NOT_SEEN


def claim_verdict(verdicts: Sequence[str]) -> str:
    """Verdict on a claim from the verdicts on its conditions."""
    if all(verdict == SUPPORTED for verdict in verdicts):
        return SUPPORTED
    if SUPPORTED in verdicts:
        return CONDITIONAL
    return CONTRADICTED if CONTRADICTED in verdicts else NOT_SEEN


def shown_verdict(evidence: Sequence[Evidence]) -> str:
    """Verdict on a table or figure: its numbers on the paper's data, else the sign of every stressed difference."""
    if all(one.source == SOURCES[0] and one.pairs for one in evidence):
        if all(ours.n >= 2 and ours.low <= value <= ours.high for one in evidence for value, ours in one.pairs):
            return REPRODUCED
    stressed = [interval(one.effects, overlap=one.overlap) for one in evidence if len(one.effects)]
    return SAME if stressed and all(effect.low > 0 for effect in stressed) else NOT_REPRODUCED


# -- deciding --------------------------------------------------------------------------------------------------------


def read(paper: str) -> Ledger:
    """Rows of a paper's ledger; an unknown notebook or test is an error that names it."""
    path = paths.PACKAGE / paper / "ledger.yaml"
    if not path.is_file():
        raise ValueError(f"no ledger for {paper!r}; known papers: {', '.join(papers()) or 'none'}")
    ledger = read_yaml(path, Ledger)
    items = [row.item for row in ledger.rows]
    if twice := sorted({item for item in items if items.count(item) > 1}):
        raise ValueError(f"{path}: items stand twice: {', '.join(twice)}")
    for row in ledger.rows:
        if row.notebook and f"{paper}/{row.notebook}" not in paths.notebooks(paper):
            raise ValueError(f"{path}: {row.item} points to the notebook {row.notebook!r}, which does not exist")
        for test in row.tests:
            if (paths.root() / "tests").is_dir() and not checks.exists(test):
                raise ValueError(f"{path}: {row.item} names the test {test!r}, which does not exist")
    return ledger


def papers() -> list[str]:
    """Papers that have a ledger."""
    return sorted(path.parent.name for path in paths.PACKAGE.glob("*/ledger.yaml"))


def decide(paper: str, profile: str = "cpu") -> list[Verdict]:
    """Verdicts on all rows of a paper.

    Live phantom runs decide at profile ``cpu`` alone; a row that this build cannot decide prints the committed verdict.

    Raises
    ------
    ValueError
        A row can be decided neither from this build nor from the committed verdicts.
    """
    outcomes, committed = checks.outcomes(paper, profile), _committed(paper)
    decided = []
    for row in read(paper).rows:
        verdict = _decide(paper, row, profile, outcomes)
        if verdict is None:
            kept = committed.get(row.item)
            if kept is None:
                raise ValueError(
                    f"{paper}, {row.item}: no verdict. Build the book at profile cpu (make book), which runs "
                    "what decides it, then commit it with 'medrepro ledger --commit'"
                )
            verdict = Verdict(**kept)
        verdict.place, verdict.statement = row.place, row.statement
        verdict.notebook = f"{paper}/{row.notebook}" if row.notebook else None
        decided.append(verdict)
    return decided


def _decide(paper: str, row: Row, profile: str, outcomes: dict[str, str]) -> Verdict | None:
    def verdict(text: str, **more: Any) -> Verdict:
        return Verdict(paper, row.item, row.kind, text, **more)

    for name, words in REASONS.items():
        if reason := getattr(row, name):
            return verdict(f"{words} ({reason})")
    if row.tests:
        if any(test not in outcomes for test in row.tests):
            return None
        failed = [test for test in row.tests if outcomes[test] != "passed"]
        names = ", ".join(test.split("::")[-1] for test in failed or row.tests)
        return verdict(
            NOT_REPRODUCED if failed else REPRODUCED,
            data="analytic",
            note=f"{'failed' if failed else 'passed'}: {names}",
        )
    module, function = row.evidence.split(":")
    given = getattr(importlib.import_module(module), function)(live=profile == "cpu", **row.given)
    used = deciding(given)
    untried = {c.name: c.not_attempted for c in row.conditions if c.not_attempted}
    used = [one for one in used if one.condition not in untried]
    missing = {c.name for c in row.conditions} - {one.condition for one in used} - set(untried)
    if not used or missing:
        return None
    note = _told(used, row)
    told = {"data": "; ".join(dict.fromkeys(one.data for one in used)), "profile": used[0].profile, "note": note}
    if untried:
        told["note"] += "".join(f" | {name}: not attempted ({reason})" for name, reason in untried.items())
    if row.kind != "claim":
        text = shown_verdict(used)
        alone = f" ({', '.join(one.condition for one in used)} alone)" if untried and text != NOT_REPRODUCED else ""
        return verdict((SAME if untried and text == REPRODUCED else text) + alone, **told)
    smallest = {c.name: c.smallest for c in row.conditions}
    if unknown := [one.condition for one in used if one.condition not in smallest]:
        raise ValueError(
            f"{paper}, {row.item}: evidence speaks to {unknown[0]!r}, the row states {', '.join(smallest)}"
        )
    each = {
        one.condition: condition_verdict(interval(one.effects, overlap=one.overlap), smallest[one.condition])
        for one in used
    }
    text = claim_verdict([*each.values(), *(NOT_SEEN for _ in untried)])
    if text == CONDITIONAL:
        text += f" ({', '.join(name for name, one in each.items() if one == SUPPORTED)})"
    return verdict(text, **told)


def _told(used: Sequence[Evidence], row: Row) -> str:
    """Effects and sources in one line."""
    smallest = {c.name: c.smallest for c in row.conditions}
    parts = []
    for one in used:
        stand_in = " (phantoms stand in for it)" if "phantoms" in one.source else ""
        text = f"{one.condition}{stand_in}: " if one.condition != "all" else ""
        if len(one.effects):
            text += f"effect {interval(one.effects, overlap=one.overlap):.3g}, n = {len(one.effects)}"
            text += f", smallest of interest {smallest[one.condition]:g}" if smallest.get(one.condition) else ""
            text += "; "
        parts.append(f"{text}{one.source}" + (f"; {one.note}" if one.note else ""))
    return " | ".join(parts)


def _file(paper: str) -> Path:
    return paths.results() / paper / "verdicts.json"


def _committed(paper: str) -> dict[str, dict[str, Any]]:
    path = _file(paper)
    if not path.is_file():
        return {}
    return {row["item"]: row for row in json.loads(path.read_text(encoding="utf-8"))}


def commit(paper: str) -> Path:
    """Write the verdicts of the ``cpu`` build to ``results/<paper>/verdicts.json``, to be reviewed and committed."""
    path = _file(paper)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [verdict.public() for verdict in decide(paper, "cpu")]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
