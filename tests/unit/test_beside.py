"""Parts of a report that are made in a process of their own are the same, and their errors too."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytest

from crypsis.analysis.beside import beside
from crypsis.analysis.report.html import write_report
from crypsis.types import UserError
from tests.studies import make_study

pytestmark = pytest.mark.unit
HERE = os.getpid()


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """No torch for the time being: nothing below uses it after the fork."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


def where(name: str) -> tuple[str, int]:
    return name, os.getpid()


def only_here() -> str:
    if os.getpid() != HERE:
        os._exit(9)
    return "done"


def failing() -> str:
    raise UserError(f"told {'here' if os.getpid() == HERE else 'there'}")


@pytest.mark.usefixtures("forking")
def test_tasks_run_in_order_in_another_process() -> None:
    with beside(lambda: where("a"), lambda: where("b")) as waiting:
        (first, one), (second, two) = waiting()
    assert (first, second) == ("a", "b") and one == two != HERE


@pytest.mark.usefixtures("forking")
def test_what_dies_or_raises_there_is_done_here() -> None:
    with beside(only_here) as waiting:
        assert waiting() == ["done"]
    with beside(failing) as waiting, pytest.raises(UserError, match="told here"):
        waiting()


def test_with_torch_or_one_core_nothing_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    with beside(lambda: where("a")) as waiting:
        assert waiting() == [("a", HERE)]
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with beside(lambda: where("a")) as waiting:
        assert waiting() == [("a", HERE)]


def test_a_report_made_by_several_processes_is_the_same(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    study = make_study(tmp_path / "s", seeds=(0,), steps=(0, 5), n=10)
    alone = files(write_report(study).parent)
    request.getfixturevalue("forking")
    assert files(write_report(study).parent) == alone


def files(study: Path) -> dict[str, bytes]:
    made = [
        study / "report.html",
        study / "summary.json",
        *(study / "figures").iterdir(),
        *(study / "tables").iterdir(),
    ]
    return {str(path): path.read_bytes() for path in made}
