"""Strip outputs from source notebooks; cells tagged ``nbval-check-output`` keep output and count, which nbval compares."""

import sys
from pathlib import Path

import nbformat

KEPT = "nbval-check-output"


def strip(content: nbformat.NotebookNode) -> bool:
    """Strip a notebook in place; returns whether anything changed."""
    before = nbformat.writes(content)
    for cell in content.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code" and KEPT not in cell.metadata.get("tags", []):
            cell.outputs, cell.execution_count = [], None
    content.metadata.pop("papermill", None)
    content.metadata["language_info"] = {"name": "python"}
    return nbformat.writes(content) != before


def main(files: list[str]) -> int:
    """Strip files; exit status 1 where one was changed, as hooks expect."""
    changed = 0
    for file in files:
        content = nbformat.read(file, as_version=4)
        if strip(content):
            Path(file).write_text(nbformat.writes(content) + "\n", encoding="utf-8")
            changed = 1
    return changed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
