"""Digests of the code that a result depends on: the modules that one reaches by import, with their data files.

The imports are read from the source, those within functions too, and followed within crypsis and the packages of the
modules asked for. What is named at run time counts as well: ``{"name": "oracle"}`` in the source reaches the plug-in of
that name, and ``DEFAULT_SCENARIO`` the default scenario. In crypsis itself comments, docstrings and layout do not
count.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from crypsis.registry import BUILT_IN, DEFAULT_SCENARIO
from crypsis.store import cache_folder, write_atomic
from crypsis.types import UserError

OWN = "crypsis"
DATA = frozenset({".yaml", ".yml", ".txt", ".json", ".jinja"})
"""Suffixes of the data files that count, those in the folders of the modules."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is read from one module.

    Attributes:
        digest: Digest of the source.
        imports: Level (dots), module and names of every import.
        plugins: Names of plug-ins in ``{"name": …}``.
    """

    digest: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]
    plugins: tuple[str, ...]


def code_parts(*modules: str) -> dict[str, str]:
    """Digest of each module and data file that some modules reach, themselves included.

    Args:
        modules: Dotted names.

    Raises:
        UserError: A module has no source file, as in an interactive session.
    """
    tops = {OWN, *(module.partition(".")[0] for module in modules)}
    memory = _Memory()
    found: dict[str, str] = {}
    waiting, seen = list(modules), set(modules)
    packages: dict[Path, str] = {}
    while waiting:
        module = waiting.pop()
        file = _file(module)
        if file is None:
            if module in modules:
                raise UserError(f"{module}: has no source file, so a change of it could not be noticed; put it in one")
            continue
        source = memory.source(file, plain=module.partition(".")[0] == OWN)
        found[module] = source.digest
        is_package = file.name == "__init__.py"
        if is_package or "." in module:
            packages[file.parent] = module if is_package else module.rpartition(".")[0]
        reached = {*_parents(module), *_imported(source, module, file), *_plugins(source)}
        new = {name for name in reached if name.partition(".")[0] in tops} - seen
        seen |= new
        waiting += new
    memory.keep()
    for folder, package in packages.items():
        for file in _data(folder):
            name = f"{package}/{file.relative_to(folder).as_posix()}"
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return dict(sorted(found.items()))


def plugin_modules(name: str) -> set[str]:
    """Modules of all plug-ins that have a name, whatever their kind."""
    return set(_registered().get(name, ()))


@functools.cache
def _registered() -> dict[str, set[str]]:
    """The modules that each plug-in name, built in or installed, can stand for."""
    found: dict[str, set[str]] = {}
    for kind, built_in in BUILT_IN.items():
        for name, target in built_in.items():
            found.setdefault(name, set()).add(target.partition(":")[0])
        for entry in importlib.metadata.entry_points(group=f"crypsis.{kind}"):
            found.setdefault(entry.name, set()).add(entry.module)
    return found


def _parents(module: str) -> Iterator[str]:
    """The packages that importing a module also runs."""
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def _imported(source: Source, module: str, file: Path) -> Iterator[str]:
    """Modules that a module imports; a name imported from a package may be a module too."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for level, name, names in source.imports:
        base = ".".join(package.split(".")[: len(package.split(".")) - level + 1]) if level else ""
        whole = ".".join(filter(None, (base, name)))
        yield whole
        yield from (f"{whole}.{inner}" for inner in names if inner != "*")


def _plugins(source: Source) -> Iterator[str]:
    for name in source.plugins:
        yield from plugin_modules(name)


def _file(module: str) -> Path | None:
    """The source file of a module, found without importing it; None if there is none."""
    top, *rest = module.split(".")
    if not rest:
        loaded = getattr(sys.modules.get(top), "__file__", None)
        if loaded and loaded.endswith(".py"):
            return Path(loaded)
    for root in _roots(top):
        place = root.joinpath(*rest)
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                return file
    return None


@functools.cache
def _roots(top: str) -> tuple[Path, ...]:
    """Folders of a top-level package, or the place of a single module without its suffix."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return ()
    if spec is None:
        return ()
    if spec.submodule_search_locations is not None:
        return tuple(map(Path, spec.submodule_search_locations))
    return (Path(spec.origin).with_suffix(""),) if spec.origin else ()


def _data(folder: Path) -> Iterator[Path]:
    """Data files of a package's folder, and of the folders below it that hold no code."""
    for entry in folder.iterdir():
        if entry.is_file() and entry.suffix in DATA:
            yield entry
        elif entry.is_dir() and not entry.name.startswith((".", "__")) and not any(entry.glob("*.py")):
            yield from _data(entry)


class _Memory:
    """What was read from sources before, by their bytes, so that each is parsed once."""

    def __init__(self) -> None:
        self._file = cache_folder() / "code" / f"{sys.version_info.major}.{sys.version_info.minor}.json"
        self._new = False
        try:
            self._known = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def source(self, file: Path, plain: bool) -> Source:
        """What a file holds; ``plain`` leaves comments, docstrings and layout out of its digest."""
        content = file.read_bytes()
        key = f"{hashlib.sha256(content).hexdigest()}{'' if plain else ':bytes'}"
        if key not in self._known:
            self._known[key], self._new = asdict(_parsed(content, plain)), True
        known = self._known[key]
        imports = tuple((level, name, tuple(names)) for level, name, names in known["imports"])
        return Source(known["digest"], imports, tuple(known["plugins"]))

    def keep(self) -> None:
        """Stores what is new."""
        if self._new:
            with contextlib.suppress(UserError):  # a cache that cannot be written only costs time
                write_atomic(self._file, json.dumps(self._known))


def _parsed(content: bytes, plain: bool) -> Source:
    tree = ast.parse(content)
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    plugins: list[str] = []
    for node in _run_time(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Dict):
            values = zip(map(_text, node.keys), map(_text, node.values), strict=True)
            plugins += [value for key, value in values if key == "name" and value]
        elif isinstance(node, ast.Name) and node.id == "DEFAULT_SCENARIO":
            plugins.append(DEFAULT_SCENARIO)
    text = ast.dump(_without_docstrings(tree)).encode() if plain else content
    return Source(hashlib.sha256(text).hexdigest(), tuple(imports), tuple(plugins))


def _run_time(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers read."""
    yield node
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and "TYPE_CHECKING" in (getattr(node.test, key, "") for key in ("id", "attr")):
        children = iter(node.orelse)
    for child in children:
        yield from _run_time(child)


def _text(node: ast.expr | None) -> str:
    """The value of a text constant, empty for other nodes."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            lines = getattr(node, field, None)
            if isinstance(lines, list):
                setattr(node, field, [line for line in lines if not _is_docstring(line)])
    return tree


def _is_docstring(line: ast.AST) -> bool:
    value = line.value if isinstance(line, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
