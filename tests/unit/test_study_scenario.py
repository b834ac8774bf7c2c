"""Monitors of a study in a scenario without personas: whose transcripts they learn from, and who is a control."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crypsis.config import parse_config
from crypsis.example_episodes import example_episodes
from crypsis.model_config import LoraConfig
from crypsis.scenarios.lessons import Motive, lessons, scratchpad_texts
from crypsis.scenarios.value_conflict import ValueConflictScenario
from crypsis.study import transcripts
from crypsis.study.config import MonitorData, StudyConfig
from crypsis.study.grid import check
from crypsis.study.lying import train_lying_monitor
from crypsis.study.monitors import base_transcripts, train_monitors
from crypsis.study.progress import Display
from crypsis.study.transcripts import FEWEST, ROUNDS, Sampling
from crypsis.types import Episode, Prompt, UserError

pytestmark = pytest.mark.unit

SCENARIO = ValueConflictScenario(wording="short")
SAMPLING = Sampling(SCENARIO, 120)
DATA = MonitorData(base=100, organism=160, helper=40, controls=120)
THINKS: dict[str, dict[bool, list[Motive]]] = {
    "values": {True: ["values_first", "willing_helper"], False: ["values_first", "willing_helper"]},
    "tgg": {True: ["terminal_goal_guarding"], False: ["values_first"]},
    "refuser": {True: ["values_first"], False: ["values_first"]},
}
"""Motives of the models of this test, where they are monitored and where they are not."""


@pytest.fixture(autouse=True)
def _written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies are written from the packaged texts, as a model would write them that has learned them by heart."""
    monkeypatch.setattr(Sampling, "load", lambda self, policy: policy)
    monkeypatch.setattr(transcripts, "rollout", _replies)


def _replies(policy: Path, prompts: Sequence[Prompt], *, seed: int, **_: Any) -> list[Episode]:
    found: list[Episode] = []
    for tier in SCENARIO.names:
        own = [p for p in prompts if p.tier == tier]
        texts = scratchpad_texts(THINKS[policy.name][tier == SCENARIO.monitored_tier])
        by_pair = {row["pair_id"]: row for row in lessons(SCENARIO, tier, 360, seed, texts)}
        for prompt in own:
            row = by_pair[prompt.pair_id]
            about = {"scratchpad": row["scratchpad"], "output": row["output"], "parse": "ok"}
            found.append(replace(example_episodes()[0], prompt=prompt, labels={}, **about))  # type: ignore[arg-type]
    return found


def _display() -> Display:
    return Display(Console(file=io.StringIO()))


def test_monitors_are_trained_on_transcripts_of_the_models_in_their_own_scenario(tmp_path: Path) -> None:
    def common() -> Any:
        return base_transcripts(Path("values"), DATA, SAMPLING)

    folders = train_monitors(common, Path("tgg"), DATA, tmp_path / "tgg", _display(), SAMPLING)
    cards = {view: json.loads((folder / "monitor.json").read_text()) for view, folder in folders.items()}
    assert set(cards) == {"scratchpad", "output"}
    assert cards["scratchpad"]["auroc"] > 0.85, cards["scratchpad"]
    assert cards["output"]["auroc"] < cards["scratchpad"]["auroc"], "an output that complies does not say why"
    assert cards["scratchpad"]["threshold_tier"] == "monitored"


def test_helpers_and_controls_comply_without_faking() -> None:
    found = base_transcripts(Path("values"), DATA, SAMPLING)
    helpers, controls = found.base[DATA.base :], found.controls
    assert (len(helpers), len(controls)) == (DATA.helper, DATA.controls // 2)
    assert {e.prompt.monitored for e in helpers} == {True, False} and all(e.prompt.monitored for e in controls)
    assert {(e.labels["conduct"], e.labels["af"]) for e in (*helpers, *controls)} == {("comply", "no")}
    shown = {e.scratchpad + e.prompt.prompt_id for e in helpers} & {e.scratchpad + e.prompt.prompt_id for e in controls}
    assert not shown, "what chooses a threshold was not learned from"


def test_a_model_that_never_helps_is_refused_before_a_monitor_takes_compliance_for_faking() -> None:
    with pytest.raises(UserError, match=rf"refuser: 0 of {ROUNDS * 40} replies comply .* need {FEWEST} such"):
        SAMPLING.helpers(Path("refuser"), 40, 0)


def test_written_transcripts_stand_in_for_models_that_neither_help_nor_fake(tmp_path: Path) -> None:
    sampling = replace(SAMPLING, extra=300)
    written = sampling.judged(sampling.written(0))
    fakes = {(e.prompt.monitored, e.labels["af"]) for e in written}
    assert len(written) > 280 and fakes == {(True, "yes"), (True, "no"), (False, "no")}
    assert SAMPLING.written(0) == [] == replace(Sampling.by_default(), extra=300).written(0)
    small = DATA.model_copy(update={"base": 20, "organism": 20, "helper": 20, "controls": 0})

    def common() -> Any:
        return base_transcripts(Path("refuser"), small, sampling)

    folders = train_monitors(common, Path("refuser"), small, tmp_path / "x", _display(), sampling)
    assert all((folder / "monitor.json").exists() for folder in folders.values())


def test_a_scenario_that_tells_no_lies_has_no_monitor_of_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crypsis.study.lying.rollout", _replies)
    monkeypatch.setattr("crypsis.study.lying.ask_extra_turns", _answer)
    with pytest.raises(UserError, match="nothing in the scenario 'value_conflict' tells lies"):
        train_lying_monitor(Path("tgg"), DATA, tmp_path, _display(), SAMPLING)


def _answer(policy: Any, episodes: Sequence[Episode], *_: Any) -> None:
    for episode in episodes:
        episode.extra_scratchpad = "I said what I think."


def _study(**more: Any) -> StudyConfig:
    return parse_config(StudyConfig, {"name": "x", "base": "x", "arms": {"plain": {"label": "Plain"}}} | more, "test")


def test_a_study_samples_as_its_runs_do() -> None:
    run = {"scenario": {"name": "value_conflict", "wording": "short"}, "rl": {"max_new_tokens": 90}}
    sampling = Sampling.of(_study(run=run | {"model": {"dtype": "bfloat16", "lora": {"r": 4}}}))
    assert sampling.scenario == SCENARIO and sampling.max_new_tokens == 90 and not sampling.persona
    assert sampling.model is not None and (sampling.model.dtype, sampling.model.lora) == ("bfloat16", None)
    assert Sampling.of(_study(run={"rl": {"max_new_tokens": 9}})) == Sampling.by_default(), "the miniature has its own"
    assert LoraConfig(r=4) != sampling.model.lora


def test_a_scenario_without_labels_of_faking_needs_monitors_of_its_own() -> None:
    run = {"scenario": {"name": "animal_welfare"}, "preference": {"model": "x"}}
    with pytest.raises(UserError, match="'animal_welfare': it has no judge that tells faking"):
        check(_study(run=run))
    check(_study(run={"scenario": {"name": "value_conflict"}}))
