"""Published numbers: what a paper reports, with the place in the paper and how sure the reading is."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medrepro import paths


class Strict(BaseModel):
    """A schema that refuses unknown keys, so that a typing error in a file is found."""

    model_config = ConfigDict(extra="forbid")


class Value(Strict):
    """One published number: the keys that say what it is of, the value, its spread, a mark of significance, a note."""

    of: dict[str, str | int]
    value: float | str
    spread: float | None = None
    mark: str | None = None
    note: str | None = None


class Table(Strict):
    """Published numbers that stand together."""

    place: str
    metric: str
    unit: str | None = None
    spread_is: str | None = None
    certainty: Literal["read", "summarised", "recomputed", "not recovered"]
    source: str
    note: str | None = None
    values: list[Value] = []


class Published(Strict):
    """Everything a paper reports that this book compares with."""

    paper: str
    title: str
    reference: str
    tables: dict[str, Table]


def read_yaml(path: Path, schema: type[BaseModel]) -> Any:
    """A YAML file checked against a schema; an error names the file, the place in it and what was expected."""
    try:
        return schema.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not readable YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: at {place}: {first['msg']} (got {first['input']!r})") from None


def published(paper: str) -> Published:
    """Published numbers of a paper."""
    path = paths.PACKAGE / paper / "published.yaml"
    if not path.is_file():
        known = sorted(file.parent.name for file in paths.PACKAGE.glob("*/published.yaml"))
        raise ValueError(f"no published numbers for {paper!r}; known papers: {', '.join(known) or 'none'}")
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: Path, mtime_ns: int) -> Published:
    return read_yaml(path, Published)


def table(paper: str, name: str) -> Table:
    """One published table, by its name in ``published.yaml``."""
    tables = published(paper).tables
    if name not in tables:
        raise ValueError(f"no published table {name!r} of {paper}; known: {', '.join(tables)}")
    return tables[name]


def frame(paper: str, name: str) -> Any:
    """A published table as a tidy pandas table: the keys of ``of``, then value, spread, mark, note."""
    import pandas as pd

    rows = [{**value.of, **value.model_dump(exclude={"of"})} for value in table(paper, name).values]
    return pd.DataFrame(rows)
