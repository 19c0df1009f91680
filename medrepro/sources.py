"""Which source a run depends on: medrepro modules are followed statically, and hashed without comments or docstrings.

A run is computed again when the code behind it changes, and only then. The code behind it is the module of its function
and every module of the same package (and of medrepro) that is imported from there, directly or not, at the top of a
file or inside a function.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

#: Modules that a run function must never reach: settings, pictures and verdicts may change without training again.
NOT_FOR_RUNS = (
    "bookbuild", "checks", "cli", "experiments", "ledger", "page", "plotting", "provenance", "published", "recorded", "runs",
    "staging",
)  # fmt: skip


@lru_cache(maxsize=64)
def _package_folder(top: str) -> Path | None:
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def module_file(module: str) -> Path | None:
    """Source file of a module given by its dotted name, or None if there is no such module."""
    top, *rest = module.split(".")
    folder = _package_folder(top)
    if folder is None:
        return None
    path = folder.joinpath(*rest)
    package = path / "__init__.py"
    if package.is_file() and (rest or folder.name == top):
        return package
    plain = path.with_suffix(".py") if rest else folder / f"{top}.py"
    return plain if plain.is_file() else None


def _imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that may be modules, from every import statement of a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*parts, base] if base else parts)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = body[1:]
    return tree


#: What is known of a file as it was at a time of change and of a size: its digest and the names it imports. A process may
#: hand it on to another.
PARSED: dict[tuple[Path, str, int, int], tuple[str, tuple[str, ...]]] = {}


def _parsed(path: Path, module: str, mtime_ns: int, size: int) -> tuple[str, tuple[str, ...]]:
    """Digest of one file and the names it imports; remembered until the file changes."""
    known = path, module, mtime_ns, size
    if known not in PARSED:
        PARSED[known] = _read(path, module)
    return PARSED[known]


def _read(path: Path, module: str) -> tuple[str, tuple[str, ...]]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise SyntaxError(f"{path}: line {error.lineno}: {error.msg}; mend it, then run again") from None
    names = tuple(sorted(set(_imports(tree, module, path.name == "__init__.py"))))
    return hashlib.sha256(ast.dump(_without_docstrings(tree)).encode()).hexdigest(), names


def _parse(module: str) -> tuple[str, tuple[str, ...]] | None:
    path = module_file(module)
    if path is None:
        return None
    stat = path.stat()
    return _parsed(path, module, stat.st_mtime_ns, stat.st_size)


def _parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))


def followed(modules: str | Iterable[str]) -> list[str]:
    """Modules of medrepro, and of the starting modules' own packages, reached by imports; the start included, sorted."""
    start = [modules] if isinstance(modules, str) else list(modules)
    tops = {"medrepro", *(name.split(".")[0] for name in start)}
    seen: set[str] = set()
    if unknown := [name for name in start if module_file(name) is None]:
        raise ModuleNotFoundError(
            f"no module {unknown[0]!r}: a run's function is written 'module:function', from a module "
            "that can be imported"
        )
    todo = [parent for name in start for parent in _parents(name)]
    while todo:
        module = todo.pop()
        if module in seen or module.split(".")[0] not in tops:
            continue
        parsed = _parse(module)
        if parsed is None:
            continue
        seen.add(module)
        todo += [parent for name in parsed[1] if name.split(".")[0] in tops for parent in _parents(name)]
    return sorted(seen)


def libraries(modules: str | Iterable[str]) -> list[str]:
    """What the modules found by `followed` import from elsewhere, inside functions too: modules, and names in them."""
    found = {name for module in followed(modules) for name in _parse(module)[1]}
    return sorted(name for name in found if not name.startswith("medrepro"))


#: What was found for modules, and their files and folders as they were then.
_DIGESTS: dict[tuple[str, ...], tuple[dict[Path, tuple[int, int]], str]] = {}


def source_digest(modules: str | Iterable[str]) -> str:
    """SHA-256 over the code of all modules that `followed` finds (comments and docstrings do not count)."""
    start = (modules,) if isinstance(modules, str) else tuple(modules)
    files, digest = _DIGESTS.get(start, ({}, ""))
    if not files or any(_stamp(path) != stamp for path, stamp in files.items()):
        names = followed(start)
        total = hashlib.sha256()
        for module in names:
            total.update(f"{module}:{_parse(module)[0]}\n".encode())
        files, digest = {}, total.hexdigest()
        for path in map(module_file, names):
            files |= {path: _stamp(path), path.parent: _stamp(path.parent)}  # a folder's changes when a module is added
        _DIGESTS[start] = files, digest
    return digest


def _stamp(path: Path) -> tuple[int, int] | None:
    """Time of change and size of a file, None where it is gone."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def imports_of(code: str) -> list[str]:
    """Medrepro modules that a piece of code (a notebook's cells, say) imports directly."""
    names = _imports(ast.parse(code), "__main__", False)
    return sorted({name for name in names if name.split(".")[0] == "medrepro" and module_file(name)})
