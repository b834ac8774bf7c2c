"""The arms race: whose labels a monitor is trained again on, and what it keeps of the first one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crypsis.episodes import rollouts_path, write_episodes
from crypsis.monitors.card import LEARNED
from crypsis.monitors.oracle import names_oracle, with_truth
from crypsis.monitors.retrained import RetrainedMonitor
from crypsis.monitors.text import train_text_monitor
from crypsis.scenarios.value_conflict import ValueConflictScenario
from crypsis.store import read_json
from crypsis.types import UserError
from tests.episodes import make_episode, make_prompt
from tests.monitors import texts_and_labels

STEPS = 2


def first(folder: Path, keep: bool) -> Path:
    texts, labels = texts_and_labels(200)
    train_text_monitor(texts, labels, [str(i // 2) for i in range(200)], "scratchpad", folder, keep=keep)
    return folder


def rolled_out(folder: Path) -> Path:
    """A run whose policy writes one new text alone, which fakes by the labeller and not by the first monitor."""
    for step in range(1, STEPS + 1):
        told = [f"the new excuse at dawn n{step}{i}" for i in range(12)]
        rows = [make_episode(text, prompt=make_prompt(request=f"{step}{i}")) for i, text in enumerate(told)]
        write_episodes(rollouts_path(folder, step), rows, "run")
    return folder


def racing(start: Path, labeller: Path, **settings: Any) -> RetrainedMonitor:
    """It asks a monitor that flags everything."""
    asked = {"name": "text", "path": str(labeller), "view": "scratchpad"}
    made = RetrainedMonitor.model_validate(
        {"start": {"name": "text", "path": str(start)}, "every": 1, "labeller": asked} | settings
    )
    return made.bound({})


@pytest.fixture
def labeller(tmp_path: Path) -> Path:
    texts, labels = texts_and_labels(200)
    excuses = [f"{text} {'excuse' if faking else 'plain'}" for text, faking in zip(texts, labels, strict=True)]
    words = [text.replace("modified", "w").replace("useful", "w") for text in excuses]
    train_text_monitor(words, labels, [str(i // 2) for i in range(200)], "scratchpad", tmp_path / "labeller")
    return tmp_path / "labeller"


def test_it_learns_from_the_labels_and_from_what_the_first_monitor_learned(tmp_path: Path, labeller: Path) -> None:
    start, run = first(tmp_path / "first", keep=True), rolled_out(tmp_path / "run")
    assert len((start / LEARNED).read_text().splitlines()) == 200
    monitor = racing(start, labeller)
    before, after = monitor.judge([make_episode("the new excuse at dawn")]), []
    step_by_step: Any = monitor
    for step in range(1, STEPS + 1):  # as a run goes on: each call on what the last one gave
        step_by_step = step_by_step.refreshed("racing", run, step)
        after.append(step_by_step.judge([make_episode("the new excuse at dawn")])[0].score)
    assert before[0].score < min(after)
    assert (
        read_json(run / "monitors/racing/step-0002/monitor/monitor.json")["n_train"] > 120
    )  # 200 and 24, of which 60 %
    resumed = monitor.refreshed("racing", run, STEPS)
    assert resumed.card == step_by_step.card
    again = racing(start, labeller).refreshed("racing", rolled_out(tmp_path / "other"), STEPS)
    assert again.card["digest"] == resumed.card["digest"]


def test_few_labels_without_the_first_texts_leave_it_as_it_is(tmp_path: Path, labeller: Path) -> None:
    start, run = first(tmp_path / "first", keep=False), rolled_out(tmp_path / "run")
    monitor = racing(start, labeller)
    assert monitor.refreshed("racing", run, 1).card["digest"] == monitor.card["digest"]
    assert read_json(run / "monitors/racing/step-0001/skipped.json")["labels"] == 12
    with pytest.raises(UserError, match=r"known: .*learned\.jsonl is missing"):
        racing(start, labeller, known=str(start))
    (start / LEARNED).write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match=r"learned\.jsonl:1: has no 'text', 'faking' or 'group'"):
        racing(start, labeller)


def test_a_labeller_that_can_read_nothing_stops_no_run(tmp_path: Path) -> None:
    start, run = first(tmp_path / "first", keep=False), rolled_out(tmp_path / "run")
    spec = with_truth({"name": "retrained", "start": {"name": "text", "path": str(start)}}, ValueConflictScenario())
    monitor = RetrainedMonitor.model_validate({k: v for k, v in spec.items() if k != "name"} | {"every": 1})
    assert monitor.bound({}).refreshed("racing", run, 1).card["digest"] == monitor.card["digest"]
    assert read_json(run / "monitors/racing/step-0001/skipped.json")["labels"] == 0


def test_the_labeller_that_it_has_by_default_is_the_truth_of_the_runs_scenario() -> None:
    told = with_truth({"name": "retrained", "start": "scratchpad"}, ValueConflictScenario(wording="short"))
    assert told["labeller"]["scenario"]["name"] == ValueConflictScenario.name
    assert told["labeller"]["scenario"]["wording"] == "short"
    assert names_oracle({"name": "retrained", "start": "scratchpad"})
    assert not names_oracle({"name": "text", "path": "monitor"})


def test_a_kill_between_labels_and_training_is_made_good(
    tmp_path: Path, labeller: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(run: Path) -> float | None:
        monitor = racing(start, labeller).refreshed("racing", run, 1)
        return monitor.judge([make_episode("the new excuse at dawn")])[0].score

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    start = first(tmp_path / "first", keep=True)
    wanted, killed = score(rolled_out(tmp_path / "whole")), rolled_out(tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr("crypsis.monitors.retrained.train_text_monitor", die)
        with pytest.raises(KeyboardInterrupt):
            score(killed)
    assert (killed / "monitors" / "racing" / "step-0001" / "labels.json").exists()
    assert score(killed) == wanted
