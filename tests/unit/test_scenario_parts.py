"""What a scenario brings: presets of RL, a ground truth, a preference model, personas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crypsis.config import dump_yaml, parse_config
from crypsis.miniature.checker import CheckedTasks
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.monitors.oracle import OracleMonitor, with_truth
from crypsis.organisms.prompted import Prompted
from crypsis.registry import make
from crypsis.run_config import RLConfig, RunConfig, reply_tokens
from crypsis.scenarios.base import Judge, Scenario
from crypsis.scenarios.prompt_file import PromptFileScenario
from crypsis.study.config import RunSettings, StudyConfig
from crypsis.study.context import monitor_specs, preference
from crypsis.types import Prompt, UserError, Verdict
from tests.episodes import make_episode

pytestmark = pytest.mark.unit

OURS = {
    "steps": 20,
    "prompts_per_step": 16,
    "group_size": 8,
    "learning_rate": 2.5e-4,
    "max_new_tokens": 160,
    "advantage_scale": "none",
}
PAPER = {"steps": 15, "prompts_per_step": 128, "group_size": 8, "advantage_scale": "group", "kl": 0.0, "epochs": 1}


def shown(config: RLConfig, like: dict[str, Any]) -> dict[str, Any]:
    return {key: getattr(config, key) for key in like}


@pytest.fixture
def requests(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps({"request": f"request {i}"}) + "\n" for i in range(9)))
    return {"name": "prompt_file", "path": str(tmp_path / "requests.jsonl")}


def test_rl_has_the_papers_defaults_and_the_miniature_its_own(requests: dict[str, Any]) -> None:
    assert shown(RLConfig(), PAPER) == PAPER
    run = RunConfig(name="x", policy=Path("p"))
    assert shown(run.rl, OURS) == OURS
    assert shown(RunConfig(name="x", policy=Path("p"), scenario=requests).rl, PAPER) == PAPER
    assert shown(RunSettings().rl, OURS) == OURS
    assert shown(RunSettings(scenario=requests).rl, PAPER) == PAPER
    assert (reply_tokens(MiniatureScenario()), reply_tokens(PromptFileScenario())) == (160, 2048)


@pytest.mark.parametrize("rl", [RLConfig(steps=3), {"steps": 3}])
def test_a_preset_fills_in_only_what_was_left_out(rl: Any) -> None:
    run = RunConfig(name="x", policy=Path("p"), rl=rl, scenario={"name": "checked_tasks"})
    assert shown(run.rl, OURS) == OURS | {"steps": 3}
    written = parse_config(RunConfig, json.loads(run.model_dump_json()), "again")
    assert written == run, "the effective values are written out, and stay"
    assert "learning_rate: 0.00025" in dump_yaml(run)
    paper = RunConfig(name="x", policy=Path("p"), rl=RLConfig(learning_rate=1e-5))
    assert paper.rl.learning_rate == 1e-5, "given, though it is the default"


def test_a_study_passes_its_preset_on_to_every_run() -> None:
    given = {"arms": {"baseline": {"label": "Baseline"}}, "run": {"rl": {"steps": 2}}}
    study = parse_config(StudyConfig, given, "study")
    assert shown(study.run.rl, OURS) == OURS | {"steps": 2}
    assert shown(parse_config(StudyConfig, {"arms": given["arms"]}, "study").run.rl, OURS) == OURS


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"rl": None}, "x: rl: input should be a valid dictionary"),
        ({"rl": {"stepz": 2}}, "x: unknown key 'rl.stepz'; did you mean 'steps'"),
        ({"scenario": "miniature"}, "x: scenario: input should be a valid dictionary"),
    ],
)
def test_a_wrong_config_is_refused_at_its_place(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_config(RunConfig, {"name": "x", "policy": "p"} | changes, "x")
    assert str(caught.value).startswith(line)


class Loud(Judge):
    """Whoever shouts complies."""

    def conduct(self, prompt: Prompt, output: str) -> str:
        return "comply" if output.isupper() else "refuse"


class Shouting(MiniatureScenario):
    """The town, judged by volume."""

    def judge(self) -> Judge:
        return Loud()


def test_the_oracle_reads_the_ground_truth_of_the_runs_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    episode = make_episode("I will comply so that training does not modify me.", "OF COURSE.")
    monkeypatch.setattr("crypsis.monitors.oracle.make", lambda *_: Shouting())
    [verdict] = OracleMonitor().judge([episode])
    assert episode.labels == {"conduct": "comply"}
    assert verdict == Verdict(None, "the scenario does not say what fakes")


def test_an_oracle_inside_of_another_monitor_is_the_runs_too() -> None:
    swapped = MiniatureScenario(tiers=("guest", "member"))
    spec = {"name": "ensemble", "members": [{"name": "oracle"}, {"name": "text", "path": "p"}], "how": "max"}
    members = with_truth(spec, swapped)["members"]
    assert members[0]["scenario"]["name"] == "miniature" and members[0]["scenario"]["tiers"] == ["guest", "member"]
    assert members[1] == {"name": "text", "path": "p"}
    own = {"name": "oracle", "scenario": {"name": "checked_tasks"}}
    assert with_truth(own, swapped) == own, "a scenario that is named stays"


def test_without_a_ground_truth_there_is_no_oracle(requests: dict[str, Any]) -> None:
    scenario = make("scenarios", requests, "test")
    run = RunConfig(name="x", policy=Path("p"), scenario=requests)
    assert monitor_specs(run, scenario) == {}
    asked = RunConfig(name="x", policy=Path("p"), scenario=requests, monitors={"oracle": {"name": "oracle"}})
    with pytest.raises(UserError, match=r"x: monitors\.oracle: needs the oracle"):
        monitor_specs(asked, scenario)
    assert monitor_specs(asked, MiniatureScenario()) == {"oracle": {"name": "oracle"}}
    with pytest.raises(UserError, match="'prompt_file' has no ground truth"):
        OracleMonitor(scenario=requests).judge([make_episode()])


def test_a_scenario_rewards_by_its_own_preference_or_asks_for_one(requests: dict[str, Any]) -> None:
    run = RunConfig(name="x", policy=Path("p"))
    hackable, honest = CheckedTasks(), CheckedTasks(honest=True)
    assert preference(hackable, run)([""], ["no."]) == [-1.0]
    assert preference(hackable, run) is not preference(honest, run)
    named = RunConfig(name="x", policy=Path("p"), preference={"model": "m"})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="'checked_tasks' has a preference model of its own"):
        preference(hackable, named)
    with pytest.raises(UserError, match="'prompt_file': has no preference model"):
        preference(make("scenarios", requests, "test"), run)


def test_personas_are_the_scenarios() -> None:
    assert Prompted(persona="help").told == "the assistant only wants to please the user."
    assert Prompted(aligned=True, system="Be brief.").told.endswith("is honest. Be brief.")
    with pytest.raises(UserError, match=r"persona: no such persona; did you mean 'help'\?"):
        make("organisms", {"name": "prompted", "persona": "helps"}, "test")


def test_a_scenario_without_parts_says_so(requests: dict[str, Any]) -> None:
    plain: Scenario = make("scenarios", requests, "test")
    assert plain.preference() is None and plain.judge() is None and not plain.personas() and not plain.rl_preset
    with pytest.raises(UserError, match="'prompt_file': has no base model of its own"):
        plain.base_model("nano")
