"""Defaults in the tables of docs/running.md are those of the code."""

from __future__ import annotations

import re

import pytest

from crypsis.run_config import RunConfig
from crypsis.settings import settings_of
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.unit

ROW = re.compile(r"^\| `([a-z_]+(?:\.[a-z_]+)*)` +\| ([^|]*?) +\|", re.MULTILINE)


def wrong_defaults(page: str) -> list[str]:
    """Rows of settings of a run whose default is another than the code's; that of the miniature stands in brackets."""
    code = {setting.name: setting.default for setting in settings_of(RunConfig)}
    preset = {s.name: s.default for s in settings_of(RunConfig)} | {
        f"rl.{key}": f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in RunConfig(name="x", policy=".").rl.model_dump().items()  # type: ignore[arg-type]
    }
    found = []
    for name, said in ROW.findall(page):
        if name in code:
            plain, _, own = said.replace("−", "-").replace("–", "none").partition(" (")
            if plain != code[name] or (own and own.rstrip(")") != preset[name]):
                found.append(f"{name}: {said} there, {code[name]} ({preset[name]}) in the code")
    return found


def test_the_defaults_of_a_run_are_those_of_the_code() -> None:
    page = (REPOSITORY / "docs" / "running.md").read_text(encoding="utf-8")
    assert sum(name.startswith("rl.") for name, _ in ROW.findall(page)) >= 8
    assert wrong_defaults(page) == []


def test_a_wrong_default_is_found() -> None:
    assert wrong_defaults("| `rl.micro_batch` | 32 | x |\n| `rl.steps`  | 15 (20) | x |\n") == []
    assert len(wrong_defaults("| `rl.micro_batch` | 33 | x |\n| `rl.steps` | 15 (21) | x |\n")) == 2
