"""``crypsis init``: a package with one plug-in that works, its test and its entry point."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import jinja2

from crypsis.registry import Kind, names
from crypsis.types import UserError

Plugin = Literal["mitigation", "monitor", "organism", "scenario"]

USE: dict[Plugin, str] = {
    "mitigation": "In a config: `mitigations: [{name: NAME}]`.",
    "monitor": "In a config: `monitors: {mine: {name: NAME}}`.",
    "organism": "`crypsis organism build NAME --scale nano`, or in a study: `organisms: {mine: {name: NAME}}`.",
    "scenario": "In a config: `scenario: {name: NAME}`; it needs a monitor of text, and `preference: {model: …}`.",
}


def scaffold(kind: Plugin, name: str, out: Path | None = None) -> Path:
    """Writes the package and returns its folder.

    Args:
        kind: What to write.
        name: Name of the plug-in, as configs will name it.
        out: Folder of the package; ``./crypsis-NAME`` by default.

    Raises:
        UserError: The name is no identifier or is taken, or the folder exists and is not empty.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", name) or keyword.iskeyword(name):
        raise UserError(f"init: '{name}' cannot name a plug-in; use lower-case letters, digits and underscores")
    group = _group(kind)
    if name in names(group):
        raise UserError(f"init: there is already a plug-in '{name}' among the {group}; choose another name")
    distribution = f"crypsis-{name.replace('_', '-')}"
    folder = out or Path(distribution)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"init: {folder} exists and is not an empty folder; choose another --out")
    package = f"crypsis_{name}"
    words = {
        "kind": kind,
        "name": name,
        "distribution": distribution,
        "package": package,
        "cls": "".join(part.capitalize() for part in name.split("_")),
        "use": USE[kind].replace("NAME", name),
    }
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{kind}.py": f"src/{package}/{kind}.py",
        f"test_{kind}.py": f"tests/test_{name}.py",
    }
    for template, place in files.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_render(template, words), encoding="utf-8")
    (folder / "src" / package / "__init__.py").write_text(f'"""The {kind} {name}."""\n', encoding="utf-8")
    return folder


def plugin_kinds() -> tuple[Plugin, ...]:
    """What can be written."""
    return get_args(Plugin)


def _group(kind: Plugin) -> Kind:
    groups: dict[Plugin, Kind] = {
        "mitigation": "mitigations",
        "monitor": "monitors",
        "organism": "organisms",
        "scenario": "scenarios",
    }
    return groups[kind]


def _render(template: str, words: dict[str, str]) -> str:
    text = resources.files("crypsis").joinpath("scaffold", f"{template}.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=False, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(text).render(words)
