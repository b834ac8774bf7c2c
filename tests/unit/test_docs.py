"""What README and docs name exists: modules, files of the package, commands and their options."""

from __future__ import annotations

import ast
import functools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from docs.tables import pages

from crypsis.cli import app
from tests.conftest import REPOSITORY

SOURCE = REPOSITORY / "src" / "crypsis"
PAGES = [page for page in pages() if page.parent.name != "decisions"]
"""All but those that tell of files as they were."""
PLACES = (REPOSITORY, SOURCE, REPOSITORY / "docs")
"""Folders that paths in the docs are relative to."""
CODE = tuple(REPOSITORY / folder for folder in ("src", "tests", "examples", "benchmarks"))
OURS = {p.name for p in SOURCE.iterdir() if p.is_dir()} | {"src/crypsis", "tests", "examples", "benchmarks", "configs"}


def missing_modules(text: str) -> list[str]:
    """Dotted names below ``crypsis`` that are neither a module nor defined in one."""
    named = re.findall(r"(?<![\w./-])crypsis((?:\.[A-Za-z_]\w*)+)", text)
    return [f"crypsis{name}" for name in named if not _is_module(name[1:].split("."))]


def missing_files(text: str) -> list[str]:
    """Paths of our rooms and folders that do not exist, and files of Python that nothing has."""
    paths = re.findall(r"(?<![\w./<-])((?:[\w-]+/)+[\w-]+\.(?:py|yaml|txt))\b", text)
    ours = [p for p in paths if any(p.startswith(f"{room}/") for room in OURS) and "NAME" not in p]
    missing = [p for p in ours if not any((place / p).exists() for place in PLACES)]
    alone = re.findall(r"`(\w+\.py)`", text)
    return missing + [name for name in alone if not any(any(place.rglob(name)) for place in CODE)]


def missing_names(text: str) -> list[str]:
    """Names that stand beside a file and that the file does not define."""
    pairs = re.findall(r"`((?:\w+/)+\w+\.py)`,? `(\w+)`", text)
    found = [(SOURCE / path, name) for path, name in pairs if (SOURCE / path).exists()]
    return [f"{path}: {name}" for path, name in found if name not in _defined(path, nested=True)]


def wrong_commands(text: str) -> list[str]:
    """Command lines whose verb or options the command line does not have."""
    return [line for line in _command_lines(text) if not _is_command(line.split())]


def broken_links(text: str, page: Path) -> list[str]:
    """Links to files that do not exist, or to headings that their page does not have."""
    prose = re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)
    found = []
    for path, anchor in re.findall(r"\]\(([^)#\s:]*)(?:#([^)\s]+))?\)", prose):
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            found.append(f"{path}#{anchor}" if anchor else path)
    return found


@functools.cache
def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as the site makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    plain = [unicodedata.normalize("NFKD", head) for head in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    words = [re.sub(r"[^\w\s-]", "", head.encode("ascii", "ignore").decode()).strip().lower() for head in plain]
    return {re.sub(r"[-\s]+", "-", head) for head in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert missing_modules(text) == []
    assert missing_files(text) == []
    assert missing_names(text) == []
    assert wrong_commands(text) == []
    assert broken_links(text, page) == []


def test_broken_links_are_found() -> None:
    page = REPOSITORY / "docs" / "mitigations.md"
    links = "[a](monitors.md) [b](monitors.md#on-real-text) [c](#which-to-choose) [d](https://example.org/x#y)"
    wrong = "[a](no.md) [b](monitors.md#none) [c](#none)"
    assert broken_links(links, page) == [] and broken_links(wrong, page) == ["no.md", "monitors.md#none", "#none"]


def test_what_does_not_exist_is_found() -> None:
    assert missing_modules("`crypsis.rl.loop`, `crypsis.rl.grpo`, `crypsis.rl.loop.Nothing`") == [
        "crypsis.rl.grpo",
        "crypsis.rl.loop.Nothing",
    ]
    assert missing_files("`rl/loop.py` `rl/grpo.py` `cascade.py` configs/none.yaml `data/requests.yaml`") == [
        "rl/grpo.py",
        "configs/none.yaml",
        "cascade.py",
    ]
    assert missing_names("`rl/context.py` `sample_step`; `rl/context.py` `_sample`") == [
        f"{SOURCE / 'rl/context.py'}: _sample"
    ]


def test_commands_that_do_not_exist_are_found() -> None:
    text = "`crypsis demo --scale nano`, `crypsis monitor\ntrain --data FILE`, `crypsis monitor`, `crypsis moniter`"
    fenced = "```sh\ncrypsis study go x.yaml\ntorchrun -m crypsis train run.yaml \\\n    --backend trl --outt runs\n```"
    assert wrong_commands(f"{text}\n{fenced}\nThe package crypsis trains.") == [
        "study go x.yaml",
        "train run.yaml --backend trl --outt runs",
        "moniter",
    ]


def _is_module(parts: list[str]) -> bool:
    place = SOURCE
    for index, part in enumerate(parts):
        if (place / part).is_dir():
            place = place / part
            continue
        if (place / f"{part}.py").exists():
            rest = parts[index + 1 :]
            return not rest or rest[0] in _defined(place / f"{part}.py")
        return part in _defined(place / "__init__.py")
    return True


def _defined(file: Path, nested: bool = False) -> set[str]:
    """Names that a module defines or imports; with ``nested`` also those within its classes and functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names: set[str] = set()
    inside = [part for node in tree.body if isinstance(node, ast.If) for part in node.body]  # as under TYPE_CHECKING
    for node in ast.walk(tree) if nested else [*tree.body, *inside]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def _command_lines(text: str) -> Iterator[str]:
    """What follows ``crypsis`` in fenced blocks and then in inline code."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield from _arguments(line.partition("#")[0].strip())
    for span in re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        yield from _arguments(span, r"^")


def _arguments(line: str, before: str = r"(?:^|\$ |-m )") -> list[str]:
    """The arguments of a call of ours, with single spaces."""
    call = re.search(rf"{before}crypsis\s+([a-z].*)", line, re.DOTALL)
    return [" ".join(call[1].split())] if call else []


@functools.cache
def _commands() -> Any:
    return typer.main.get_command(app)


def _is_command(words: list[str]) -> bool:
    command = _commands()
    while hasattr(command, "commands"):
        if not words or not re.fullmatch(r"[a-z]+", words[0]):
            return True  # a group by itself, or followed by a placeholder
        if words[0] not in command.commands:
            return False
        command, words = command.commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    return {word for word in words if re.fullmatch(r"--[a-z-]+", word)} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_setting_says_what_it_means(page: Path) -> None:
    column: int | None = None
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
        if not line.startswith("|"):
            column = None
        elif cells[1] == "setting":
            column = cells.index("meaning") if "meaning" in cells else None
        elif column is not None:
            assert cells[column], line
