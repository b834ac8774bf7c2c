"""Every field of every config, with wrong types and extremes: a config, or one line for the user, and nothing else."""

from __future__ import annotations

import datetime
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

import crypsis
from crypsis.config import Config, parse_config
from crypsis.registry import BUILT_IN, find
from crypsis.study.config import StudyConfig
from crypsis.study.grid import check
from crypsis.types import UserError, visible

pytestmark = pytest.mark.unit

EXTREMES: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 10**12, 10**5000, -(10**30), 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *("", "x", "a/b", "../x", "\0", "\ud800", "\x1b[31m", "x" * 10_000, "[/x]", b"x", datetime.date(2024, 1, 1)),
    *([], [1], [None], [[]], ["x", "x"], [{}], [{"name": 5}], [{"name": "nobody"}], {}, {"a": 1}, {1: 2}, {"": {}}),
    *({"name": 5}, {"name": None}, {"name": "nobody"}, {"name": ["x"]}, {"name": {"name": "x"}}, {"a/b": {}}),
    *({"a": {"name": 5}}, {"a": {"name": "nobody", "x": [[[[1]]]]}}, {"a": None}, {"a": [1]}, object()),
]
STUDY: dict[str, Any] = {"arms": {"a": {"label": "A"}}}
REQUIRED: dict[str, dict[str, Any]] = {
    "RunConfig": {"name": "x", "policy": "somewhere"},
    "StudyConfig": STUDY,
    "ArmConfig": {"label": "A"},
}
ARM = ("mitigations", "monitors", "rl", "scenario", "organisms")


def configs() -> list[type[Config]]:
    """All configs of the package, those of its plug-ins included."""
    for module in pkgutil.walk_packages(crypsis.__path__, "crypsis."):
        if not module.name.startswith(("crypsis.rl.trl", "crypsis.cli", "crypsis.__main__", "crypsis.testing")):
            importlib.import_module(module.name)
    for kind, plugins in BUILT_IN.items():
        for name in plugins:
            find(kind, name)
    found: dict[str, type[Config]] = {}
    waiting: list[type[Config]] = [Config]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            if cls.__module__.startswith("crypsis.") and not inspect.isabstract(cls):
                found[f"{cls.__module__}.{cls.__qualname__}"] = cls
            waiting.append(cls)
    return [found[name] for name in sorted(found)]


def attempt(cls: type[BaseModel], data: dict[str, Any], where: str) -> BaseModel | None:
    """The config, or nothing if the user is told in one line of text."""
    try:
        return parse_config(cls, data, where)
    except UserError as error:
        said = str(error)
        assert len(said.splitlines()) == 1 and visible(said) == said and len(said) < 1000, said
        assert said.startswith(where), said
    return None


def explode(call: Callable[[], object], about: str) -> list[str]:
    """What a call raises that is not for the user, with what it was given."""
    try:
        call()
    except UserError as error:
        return [] if len(str(error).splitlines()) == 1 else [f"{about}: several lines: {error}"]
    except Exception as error:
        return [f"{about}: {type(error).__name__}: {str(error)[:200]}"]
    return []


def shown(value: object) -> str:
    return "10**5000" if value == 10**5000 else ascii(value)[:60]


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.stress), 4])
def test_every_field_takes_a_value_or_refuses_it_in_one_line(stride: int) -> None:
    faults, fields, values, known = [], 0, 0, configs()
    for cls in known:
        for name in cls.model_fields:
            fields += 1
            for value in EXTREMES[fields % stride :: stride]:
                values += 1
                data, about = REQUIRED.get(cls.__name__, {}) | {name: value}, f"{cls.__name__}.{name}={shown(value)}"
                faults += explode(lambda c=cls, d=data: attempt(c, d, "x.yaml"), about)  # type: ignore[misc]
    print(f"{fields} fields of {len(known)} configs, {values} values")
    assert not faults, "\n".join(faults)
    assert fields > 200


@pytest.mark.parametrize("part", ["arm", "study"])
def test_a_study_of_odd_values_is_checked_or_refused_in_one_line(part: str) -> None:
    def checked(data: dict[str, Any]) -> None:
        config = attempt(StudyConfig, data, "x.yaml")
        if isinstance(config, StudyConfig):
            check(config)

    faults = []
    for place, name in enumerate(ARM if part == "arm" else StudyConfig.model_fields):
        for value in EXTREMES[place % 2 :: 2]:
            data = {"arms": {"a": {"label": "A", name: value}}} if part == "arm" else STUDY | {name: value}
            faults += explode(lambda d=data: checked(d), f"{name}={shown(value)}")  # type: ignore[misc]
    assert not faults, "\n".join(faults)
