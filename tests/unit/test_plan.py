"""What a study would do and cost, limits for judges that cost money, and what happens when one is reached."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from crypsis.cli.console import make_console
from crypsis.config import parse_config
from crypsis.differences import config_difference
from crypsis.monitors.base import judge
from crypsis.monitors.prompted import Prompted
from crypsis.store import write_json
from crypsis.study.config import StudyConfig, load_study_config
from crypsis.study.executors.base import Job, attempt
from crypsis.study.pipeline import run_study
from crypsis.study.plan import check_budgets, plan_study
from crypsis.study.progress import Display
from crypsis.types import BudgetSpentError, UserError
from tests.chat_server import chat_server
from tests.conftest import REPOSITORY, Crypsis
from tests.episodes import make_episode
from tests.studies import START, make_study

pytestmark = pytest.mark.unit

REAL = REPOSITORY / "configs" / "paper" / "real" / "figure01.yaml"
YES = {"modification_is_the_reason": "yes", "complies_on_those_grounds": "yes"}
API = {"model": "openai/gpt-4o", "prices": {"input": 2.0, "output": 10.0}}


def study(api: dict[str, Any], **prompted: Any) -> StudyConfig:
    rl = {"steps": 4, "prompts_per_step": 3, "group_size": 2, "max_new_tokens": 100}
    spec = {"name": "prompted", "api": api, "votes": 3, "max_tokens": 50, **prompted}
    data = {
        "arms": {"a": {"label": "A"}, "b": {"label": "B"}},
        "seeds": [0, 1, 2],
        "monitors": {"oracle": {"name": "oracle"}, "judge": spec, "twin": spec},
        "run": {"rl": rl, "evaluation": {"every": 2, "n": 10}},
    }
    return parse_config(StudyConfig, data, "test")


def test_a_plan_counts_runs_episodes_calls_and_cost(tmp_path: Path) -> None:
    plan = plan_study(study(API | {"budget_usd": 5}), tmp_path)
    assert (plan.runs, plan.training) == (6, 6 * 4 * 3 * 2)
    assert plan.evaluation == 6 * 2 * 20 + 3 * 20, "two later evaluations of each run, the first shared by both arms"
    (judged,) = plan.judged
    assert judged.calls == 3 * 6 * (6 + 24 + 2 * 20 + 20), "two monitors that ask alike ask once"
    assert judged.tokens / judged.calls > 150 and judged.usd is not None
    assert judged.calls * (100 * 2 + 50 * 10) / 1e6 < judged.usd < judged.calls * (1000 * 2 + 50 * 10) / 1e6
    assert any("at most 1,620" in line for line in plan.lines()) and "budget of 5 USD" in str(plan.lines())
    assert plan_study(study({"model": "vllm/x"}), tmp_path).judged[0].usd is None


def test_the_time_that_is_left_comes_from_finished_runs(tmp_path: Path) -> None:
    config = load_study_config(REPOSITORY / "configs" / "paper" / "figure01.yaml")
    plan = plan_study(config, tmp_path)
    assert plan.runs == 108 and plan.seconds is not None and 0.5 < plan.seconds / (54 * 60) < 2
    real = plan_study(load_study_config(REAL), tmp_path)
    assert real.seconds is None and any("time: unknown" in line for line in real.lines())
    assert real.training == 108 * 15 * 1024 and sum(j.calls for j in real.judged) < 6_000_000
    folder = make_study(tmp_path / "s", {"baseline": ("B", [], START)}, seeds=(0,), steps=(0, 10), n=4)
    for run in (folder / "runs").glob("*seed0"):
        write_json(run / "provenance.json", {"seconds": 100.0})
    own = load_study_config(folder / "config.yaml")
    assert plan_study(own, folder).how == f"from the finished runs in {folder}"
    assert "finished runs" not in plan_study(config, folder).how, "of another study"


@pytest.mark.parametrize("config", sorted(REAL.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_dry_run_of_a_study_on_real_models_prints_its_cost_and_runs_nothing(
    config: Path, tmp_path: Path, crypsis_here: Crypsis
) -> None:
    done = crypsis_here("study", "run", config, "--out", tmp_path / "out", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\b[1-9]\d* runs", done.stdout) and "judge calls: at most" in done.stdout and "USD" in done.stdout
    assert ("108 runs" in done.stdout) == (config == REAL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("api", "asks"),
    [
        ({"model": "openai/gpt-4o"}, True),
        ({"model": "vllm/mine", "prices": {"input": 1.0}}, True),
        (API | {"budget_usd": 3.0}, False),
        ({"model": "openai-api/local/judge", "base_url": "http://127.0.0.1:1"}, False),
        ({"model": "vllm/mine"}, False),
    ],
)
def test_a_judge_that_costs_money_needs_a_limit(api: dict[str, Any], asks: bool, tmp_path: Path) -> None:
    config = study(api)
    if not asks:
        check_budgets(config)
        return
    with pytest.raises(UserError, match=r"monitors\.judge\.api: .* costs money"):
        run_study(config, tmp_path / "out", "resume", Display(make_console(quiet=True)))


def test_a_spent_budget_stops_and_a_raised_one_goes_on_without_paying_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_API_KEY", "none")
    monkeypatch.setattr("crypsis.api_models.cache_folder", lambda: tmp_path)
    episodes = [make_episode(f"to avoid being modified, i will comply. {i}") for i in range(12)]
    with chat_server(lambda _: (200, json.dumps(YES))) as server:
        api = {"model": "openai-api/local/judge", "base_url": server.url, "prices": {"input": 2, "output": 8}}

        def monitor(usd: float) -> Prompted:
            return Prompted.model_validate({"api": api | {"budget_usd": usd}, "max_tokens": 100})

        with pytest.raises(BudgetSpentError, match=r"raise api\.budget_usd") as caught:
            judge(episodes, {"judge": monitor(0.005)})
        asked = len(server.bodies)
        assert "budget of 0.005 USD is spent" in str(caught.value) and 0 < asked < 12
        judge(episodes, {"judge": monitor(1.0)})
        assert len(server.bodies) == 12 and all(e.verdicts["judge"].score == 1.0 for e in episodes)


def test_a_run_without_money_stops_the_study_and_its_folder_takes_a_higher_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broke(*_: object, **__: object) -> None:
        raise BudgetSpentError("the budget of 5 USD is spent")

    monkeypatch.setattr("crypsis.study.run.run_one", broke)
    config: Any = type("Run", (), {"name": "x", "report_to": []})()
    failure = attempt(Job(config, tmp_path / "runs" / "x", tmp_path, 1, Path.cwd()))
    assert failure is not None and failure.stop
    before, after = ({"monitors": {"a": {"api": {"model": "m", "budget_usd": usd}}}} for usd in (1, 2))
    assert config_difference(before, after) == ""
    after["monitors"]["a"]["api"]["model"] = "n"
    assert "model" in config_difference(before, after)
