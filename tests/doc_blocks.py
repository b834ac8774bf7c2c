"""Fenced blocks of README and docs, and the configs that their YAML stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from docs.tables import pages

from crypsis.config import parse_config
from crypsis.study.config import RESERVED, StudyConfig
from tests.conftest import REPOSITORY


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Where it stands, relative to the repository.
        line: Line of its fence, from 1.
        language: What its fence names; empty if nothing.
        text: What it holds.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> Iterator[Block]:
    """The fenced blocks of all pages in some languages."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^( *)```([\w]*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
            if match[2] in languages:
                name = page.relative_to(REPOSITORY).as_posix()
                yield Block(name, text.count("\n", 0, match.start()) + 1, match[2], match[3])


def study_of(text: str) -> StudyConfig:
    """The study that a block of YAML is a part of: one arm with its mitigations and monitors, or its own arms."""
    data: Mapping[str, Any] = yaml.safe_load(text)
    if "arms" in data and "name" in data:
        return parse_config(StudyConfig, data, "block")
    own = {key: data[key] for key in ("base", "organisms", "monitors_from", "panel", "run", "seeds") if key in data}
    own |= {"monitors": data["monitors"]} if "base" in data and "monitors" in data else {}
    arm = {key: data[key] for key in ("mitigations", "model", "scenario") if key in data}
    monitors = {name: spec for name, spec in data.get("monitors", {}).items() if name not in RESERVED}
    arms = data.get("arms", {"arm": {"label": "an arm", "monitors": monitors, **arm}})
    return parse_config(StudyConfig, {"name": "page", **own, "arms": arms}, "block")


def one_line(path: Path) -> str:
    """A page's text with all white space as single spaces."""
    return " ".join(path.read_text(encoding="utf-8").split())
