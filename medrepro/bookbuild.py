"""From executed notebooks and prose to the published book: keys, generated pages, the HTML and its checks.

The book is always built from an empty folder, since a second build in a kept folder hides warnings, and swapped in by
rename, so the last good book survives a failure.
"""

import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from medrepro import checks, ledger, paths, sources, staging

#: Parts of MathJax that no page uses: the other output formats and their fonts.
UNUSED_MATHJAX = (
    "tex-svg*.js",
    "mml-*.js",
    "tex-mml-*.js",
    "*-svg*.js",
    "node-main*",
    "latest.js",
    "tex-chtml-full*.js",
    "startup.js",
)


class BookError(RuntimeError):
    """The book could not be built, or the built pages have a fault; the message lists what to mend."""


# -- what the book is made of ----------------------------------------------------------------------------------------


def toc() -> list[str]:
    """Files listed in ``_toc.yml``, without endings, in order."""

    def files(node: Any) -> list[str]:
        if isinstance(node, list):
            return [name for item in node for name in files(item)]
        if isinstance(node, dict):
            own = [node[key] for key in ("root", "file") if key in node]
            return own + [name for key in ("parts", "chapters", "sections") for name in files(node.get(key, []))]
        return []

    return files(yaml.safe_load((paths.root() / "_toc.yml").read_text(encoding="utf-8")))


def pages() -> list[str]:
    """Notebooks that the book lists, as ``paper/NN-topic``; a listed one that does not exist is an error."""
    listed = [name.removeprefix("notebooks/") for name in toc() if name.startswith("notebooks/")]
    for name in listed:
        paths.notebook_file(name)
    return listed


def ledger_papers() -> list[str]:
    """Papers with a ledger."""
    return ledger.papers()


def _named_tests(paper: str) -> list[str]:
    return sorted({test for row in ledger.read(paper).rows for test in row.tests})


def _checks_key(paper: str) -> str:
    files = sorted({test.split("::")[0] for test in _named_tests(paper)} | {"tests/conftest.py"})
    texts = [(paths.root() / file).read_text(encoding="utf-8") for file in files if (paths.root() / file).is_file()]
    followed = sources.imports_of("\n".join(texts)) or ["medrepro"]
    return _sha([_named_tests(paper), texts, sources.source_digest(followed)])


def _book_key(profile: str) -> str:
    root = paths.root()
    files = [root / "_config.yml", root / "_toc.yml", *(root / "book").rglob("*")]
    files += [*paths.PACKAGE.glob("*/*.yaml"), *paths.results().rglob("*.json")]
    digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files) if path.is_file()}
    papers = [f"medrepro.{paper}.experiments" for paper in paths.papers()]
    return _sha([profile, digests, sources.source_digest(["medrepro.bookbuild", *papers])])


def _sha(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_keys(profile: str) -> None:
    """Write the key files of the graph, each only if its digest differs; drop the stamp of a book that is gone."""
    build = paths.build(profile)
    for name in pages():
        planned = [run.digest for run in staging.plan(name, profile)]
        _write_key(build / "keys" / "runs" / name, _sha(planned))
        _write_key(build / "keys" / "notebooks" / name, staging.key(name, profile))
    for paper in ledger_papers():
        _write_key(build / "keys" / "checks" / paper, _checks_key(paper))
    _write_key(build / "keys" / "book", _book_key(profile))
    if not (build / "html" / "index.html").is_file():
        (build / "book.stamp").unlink(missing_ok=True)


def _manifest(notebook: str, profile: str) -> Path:
    return paths.build(profile) / "manifests" / f"{notebook}.json"


def pages_without_runs(profile: str) -> list[str]:
    """Pages whose manifest of runs is missing or older than its key."""
    keys = paths.build(profile) / "keys" / "runs"
    return [name for name in pages() if _is_old(_manifest(name, profile), keys / name)]


def pages_to_execute(profile: str) -> list[str]:
    """Pages with a manifest of runs whose executed copy is missing or older than that or its key."""
    keys, listed = paths.build(profile) / "keys" / "notebooks", set(pages()) - set(pages_without_runs(profile))
    return [
        name
        for name in pages()
        if name in listed and _is_old(staging.staged_file(name, profile), keys / name, _manifest(name, profile))
    ]


def _is_old(file: Path, *sources: Path) -> bool:
    return not file.is_file() or any(file.stat().st_mtime < source.stat().st_mtime for source in sources)


def list_runs(notebook: str, profile: str, results: list[Any]) -> None:
    """Write the manifest of a page: digests of its runs."""
    manifest = _manifest(notebook, profile)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps([result.digest for result in results], indent=1) + "\n", encoding="utf-8")


def _write_key(path: Path, digest: str) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") == digest:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(digest, encoding="utf-8")
    os.replace(part, path)


# -- generated pages -------------------------------------------------------------------------------------------------

BADGE = {
    "reproduced": "good", "supported": "good", "same direction": "fair", "contradicted": "bad", "not reproduced": "bad",
}  # fmt: skip


def _verdict_html(row: ledger.Verdict) -> str:
    """The verdict's word as a badge; a stated reason and what decided stand below it."""
    word, _, reason = row.verdict.partition(" (")
    lines = [reason.removesuffix(")")] if reason else []
    lines += [
        text
        for text in (
            row.note,
            f"data: {row.data}" if row.data else "",
            f"profile: {row.profile}" if row.profile else "",
        )
        if text
    ]
    told = "".join(f"<br><small>{html.escape(line)}</small>" for line in lines)
    return f'<span class="mr-verdict mr-{BADGE.get(word, "open")}">{html.escape(word)}</span>{told}'


def _ledger_row(row: ledger.Verdict) -> str:
    told = f"{html.escape(row.statement)} <small>({html.escape(row.place)})</small>"
    if row.notebook:
        told += f' <a href="../notebooks/{row.notebook}.html">Notebook {html.escape(row.notebook.split("/")[1][:2])} on {html.escape(row.item)}</a>'
    return f'<tr><th scope="row">{html.escape(row.item)}</th><td>{_verdict_html(row)}</td><td>{told}</td></tr>'


def ledger_page(profile: str) -> str:
    """The ledger as a page: one table a paper, every row with its verdict, data and notebook."""
    parts = [
        "# Ledger: what reproduces\n",
        "Every table, figure, equation, part and claim of each paper, with a verdict that is computed from runs or tests.\n",
        "The words are defined in the {doc}`glossary`. A row that has not been tried yet says so.\n",
        'The same rows as JSON: <a href="../data/ledger.json">ledger.json</a>.\n',
    ]
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Item", "Verdict and what decides it", "What it states"))
    for paper in ledger_papers():
        rows = ledger.decide(paper, profile)
        label = f"Ledger: {title(paper)}"
        parts += [
            f"## {title(paper)}\n",
            f"{summary(rows)}\n",
            f'<div class="mr-scroll" tabindex="0" role="region" aria-label="{label}"><table class="mr-table table mr-ledger">'
            f"<caption>{label}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(map(_ledger_row, rows))}</tbody></table></div>\n",
        ]
    if profile != "cpu":
        parts.append(
            f"This is a build at profile `{profile}`: rows that live runs decide show the committed verdicts.\n"
        )
    return "\n".join(parts)


def data_page() -> str:
    """The data sets and packaged images as a page."""
    import pandas as pd

    from medrepro.data import packaged, registry
    from medrepro.plotting import table_html

    sets = [registry.resolve(name) for name in registry.names()]
    real = [
        {"name": s.name, "what": s.title, "images": s.expected_images, "terms": s.terms, "where": s.where}
        for s in sets
        if not s.is_phantom
    ]
    made = [{"name": s.name, "what": s.title} for s in sets if s.is_phantom]
    inside = [packaged.packaged_entry(name) for name in packaged.packaged_names()]
    shipped = [{"name": e.name, "modality": e.modality, "what": e.what, "terms": e.terms} for e in inside]
    parts = (
        "# Data\n",
        "Every notebook takes a parameter `data`: one of these names.\n",
        "## Real sets\n",
        "They are not shipped. Put them, in their published layout, under a folder of `MEDREPRO_DATA` (see {doc}`use`).\n",
        table_html(pd.DataFrame(real), caption="Real image sets with masks") + "\n",
        "## Phantoms\n",
        "Made from a seed, with known truth. Their numbers are never shown as a paper's.\n",
        table_html(pd.DataFrame(made), caption="Phantoms") + "\n",
        "## Images inside packages\n",
        "Real images and volumes that come with the installed packages; nothing is downloaded.\n",
        table_html(pd.DataFrame(shipped), caption="Images and volumes inside packages") + "\n",
    )
    return "\n".join(parts)


def title(paper: str) -> str:
    """Title of a paper, from its published numbers."""
    from medrepro.published import published

    return published(paper).title


def summary(rows: list[ledger.Verdict]) -> str:
    """How many rows have which verdict, in one sentence."""
    counts: dict[str, int] = {}
    for row in rows:
        short = row.verdict.split(" (")[0]
        counts[short] = counts.get(short, 0) + 1
    return f"{len(rows)} rows: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + "."


def status_table(profile: str) -> str:
    """What is reproduced so far, as the Markdown table of the front page and the README."""
    lines = ["| paper | ledger | notebooks |", "| --- | --- | --- |"]
    for paper in ledger_papers():
        count = sum(name.startswith(f"{paper}/") for name in pages())
        lines.append(f"| {title(paper)} | {summary(ledger.decide(paper, profile))} | {count} |")
    return "\n".join(lines) + "\n"


# -- building --------------------------------------------------------------------------------------------------------


def assemble(profile: str, target: Path) -> Path:
    """Lay out the book's sources in an empty folder: configuration, prose, generated pages, executed notebooks."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    root = paths.root()
    shutil.copyfile(root / "_toc.yml", target / "_toc.yml")
    shutil.copytree(root / "book", target / "book")
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    if address := os.environ.get("MEDREPRO_REPOSITORY"):
        config["repository"]["url"] = address
    if not config["repository"]["url"]:  # no address is known: then no button may point to one
        config.pop("launch_buttons", None)
        config["html"] = {key: value for key, value in config["html"].items() if not key.startswith("use_")}
    (target / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    (target / "book" / "ledger.md").write_text(ledger_page(profile), encoding="utf-8")
    (target / "book" / "status.txt").write_text(status_table(profile), encoding="utf-8")
    for name in pages():
        file = target / "notebooks" / f"{name}.ipynb"
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(staging.staged_file(name, profile), file)
    (target / "book" / "data.md").write_text(data_page(), encoding="utf-8")
    extra = target / "extra" / "data"
    extra.mkdir(parents=True)
    rows = [row.public() for paper in ledger_papers() for row in ledger.decide(paper, profile)]
    (extra / "ledger.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if (paths.build(profile) / "tables").is_dir():
        shutil.copytree(paths.build(profile) / "tables", extra / "tables")
    return target


def build_book(profile: str) -> Path:
    """Build the book from an empty folder with warnings as errors, check its pages, and swap it in.

    Returns
    -------
    Path
        ``index.html`` of the new book.

    Raises
    ------
    BookError
        Sphinx warned or failed, or a built page has a fault; the last good book stays.
    """
    build = paths.build(profile)
    for rest in build.glob("book-[0-9]*"):
        shutil.rmtree(rest, ignore_errors=True)  # of a killed build
    work = build / f"book-{os.getpid()}"  # a name of its own: a job that outlives its workflow disturbs nobody
    source, output = assemble(profile, work / "source"), work / "output"
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        str(source),
        "--path-output",
        str(output),
    ]
    command += ["-W", "--keep-going", "-n", "-q"]
    done = subprocess.run(command, capture_output=True, text=True)
    log = build / "logs" / "book.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    site = output / "_build" / "html"
    if done.returncode or not (site / "index.html").is_file():
        told = [line for line in (done.stdout + done.stderr).splitlines() if re.search("WARNING|ERROR|rror:", line)]
        raise BookError(
            "the book has faults, the last good one stays:\n" + "\n".join(told[:20]) + f"\nThe log is {log}"
        )
    polish(site)
    if faults := page_faults(site):
        raise BookError("built pages have faults, the last good book stays:\n" + "\n".join(faults[:20]))
    if (build / "html").exists():
        os.rename(build / "html", work / "old")
    os.rename(site, build / "html")
    shutil.rmtree(work, ignore_errors=True)
    return build / "html" / "index.html"


def polish(site: Path) -> None:
    """Mend in the built pages what the theme does not let us configure, and drop the parts of MathJax nobody loads."""
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        new = re.sub(r'(<div class="citation[^>]*?) role="doc-biblioentry"', r"\1", text)
        new = new.replace(' role="list"', "") if "citation" in new else new
        new = re.sub(
            r"<script>const THEBE_JS_URL[^<]*</script>", "", new
        )  # declared twice by the theme, used by no page
        new = re.sub(r'(<button[^>]*search-button[^>]*?) aria-label="Search"', r'\1 aria-label="Search Ctrl + K"', new)
        new = new.replace(
            '<summary><span class="toctree-toggle"',
            '<summary aria-label="Sections of this chapter"><span class="toctree-toggle"',
        )
        new = re.sub(
            r'<div class="sidebar-primary-item">(\s*<a class="navbar-brand logo")',
            r'<div class="sidebar-primary-item" role="navigation" aria-label="Home page">\1', new,
        )  # fmt: skip
        if new != text:
            path.write_text(new, encoding="utf-8")
    for pattern in UNUSED_MATHJAX:
        for path in site.glob(f"_static/**/{pattern}"):
            if "mathjax" in str(path).lower():
                path.unlink()


class _Page(HTMLParser):
    """Ids, links, pictures and outside addresses of one page."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.faults: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "img":
            alt, source = given.get("alt"), given.get("src") or ""
            if alt is None or (alt and re.search(r"\.(png|svg|jpe?g)$|^\S*/\S*$|^[0-9a-f]{32,}", alt)):
                self.faults.append(f"picture {source[-60:]} has no alt text (alt={alt!r})")
        loaded = given.get("src") if tag in ("script", "img", "iframe") else None
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            loaded = given.get("href")
        if loaded and urlsplit(loaded).netloc:
            self.faults.append(f"<{tag}> loads {loaded} from another host")


def page_faults(site: Path) -> list[str]:
    """Faults of built pages: dead internal links, pictures without alt text, anything loaded from another host."""
    read = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    faults = []
    for path, page in read.items():
        name = path.relative_to(site.resolve()).as_posix()
        faults += [f"{name}: {fault}" for fault in page.faults]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                faults.append(f"{name}: link to {link}, which does not exist")
            elif parts.fragment and target in read and unquote(parts.fragment) not in read[target].ids:
                faults.append(f"{name}: link to {link}, where no such place exists")
    return faults


def run_checks(paper: str, profile: str) -> Path:
    """Run the tests that decide rows of a paper's ledger."""
    return checks.run(paper, profile, _named_tests(paper))
