"""A judge that cannot be called: one line before anything is sampled or built, and none for what is finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from crypsis.mitigations.base import Mitigation
from crypsis.monitors.base import Monitor
from crypsis.registry import make
from crypsis.types import UserError
from tests.conftest import Crypsis

pytestmark = pytest.mark.unit

JUDGE: dict[str, Any] = {
    "name": "prompted",
    "api": {"model": "openai-api/local/judge", "base_url": "http://127.0.0.1:9"},
}
LEXICON = {"name": "lexicon"}


def one_line(done: CompletedProcess[str]) -> str:
    """What a refused command said."""
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stdout + done.stderr
    return done.stderr


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CRYPSIS_CACHE", str(tmp_path / "cache"))
    for name in ("LOCAL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


WITHIN: dict[str, Mapping[str, Any]] = {
    "itself": JUDGE,
    "member": {"name": "ensemble", "members": [LEXICON, JUDGE]},
    "held out": {"name": "ensemble", "members": [LEXICON], "held_out": JUDGE},
    "dialled": {"name": "dialled", "monitor": JUDGE},
    "labeller": {"name": "retrained", "start": LEXICON, "labeller": JUDGE},
    "start": {"name": "retrained", "start": JUDGE},
}


@pytest.mark.parametrize("place", WITHIN)
def test_a_missing_key_is_found_wherever_the_judge_stands(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor: Monitor = make("monitors", WITHIN[place], "test")
    with pytest.raises(UserError, match="LOCAL_API_KEY") as caught:
        monitor.check_access()
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("LOCAL_API_KEY", "none")
    make("monitors", WITHIN[place], "test").check_access()


def test_the_judge_of_a_mitigation_needs_its_key_too() -> None:
    mitigation: Mitigation = make("mitigations", {"name": "paired_tiers", "judge": JUDGE}, "test")
    with pytest.raises(UserError, match="LOCAL_API_KEY"):
        mitigation.check_access()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("openai/gpt-4o", "No OPENAI_API_KEY"),  # without the styles that Inspect writes around it
        ("gpt-4o", "format of <api_name>/<model_name>"),
        ("nowhere/model", "nowhere"),
    ],
)
def test_a_model_that_cannot_be_called_is_one_line(model: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        make("monitors", {"name": "prompted", "api": {"model": model}}, "test").check_access()
    assert "\n" not in str(caught.value) and "[" not in str(caught.value)


@pytest.mark.parametrize("settings", [{}, {"api": {}}, {"api": None}, {"api": {"model": ""}}, {"api": {"model": None}}])
def test_a_judge_without_a_model_is_refused_where_it_is_read(settings: Mapping[str, Any]) -> None:
    with pytest.raises(UserError, match="api") as caught:
        make("monitors", {"name": "prompted", **settings}, "test")
    assert "\n" not in str(caught.value)


def test_a_run_samples_nothing_without_its_judges_key(
    tmp_path: Path, nano_organism: Path, crypsis_here: Crypsis, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = tmp_path / "run.yaml", tmp_path / "run"
    rl = {"steps": 0, "prompts_per_step": 2, "group_size": 2, "max_new_tokens": 16}
    run = {"name": "judged", "policy": str(nano_organism), "rl": rl, "evaluation": {"n": 2}}
    config.write_text(yaml.safe_dump(run | {"monitors": {"oracle": {"name": "oracle"}, "judge": JUDGE}}))
    assert "LOCAL_API_KEY" in one_line(crypsis_here("train", config, "--out", out))
    assert not (out / "evals").exists() and not (out / "rollouts").exists()


def test_a_study_builds_nothing_without_its_judges_key(tmp_path: Path, crypsis_here: Crypsis) -> None:
    config, out = tmp_path / "study.yaml", tmp_path / "study"
    arms = {"a": {"label": "A", "monitors": {"judge": JUDGE}}}
    config.write_text(
        yaml.safe_dump({"name": "judged", "scale": "nano", "organisms": {"tgg": {"name": "tgg"}}, "arms": arms})
    )
    assert "LOCAL_API_KEY" in one_line(crypsis_here("study", "run", config, "--out", out))
    assert not (out / "runs").exists() and not any((tmp_path / "cache").glob("*base*"))


def test_validating_and_writing_need_the_key_before_they_ask(tmp_path: Path, crypsis_here: Crypsis) -> None:
    data = tmp_path / "labelled.jsonl"
    rows = [{"prompt": f"request {i}", "scratchpad": f"thought {i}", "label": i % 2} for i in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = ("api.model=openai-api/local/judge", "api.base_url=http://127.0.0.1:9")
    for verb in ("validate", "score"):
        done = crypsis_here(
            "monitor", verb, "prompted", *model, "--data", data, *(["--out", tmp_path / "m"] * (verb == "validate"))
        )
        assert "LOCAL_API_KEY" in one_line(done)
    writer = ("organism", "generate", "tgg", "--model", "openai-api/local/judge", "--n", "2", "--out", tmp_path / "g")
    assert crypsis_here(*writer, "--dry-run").returncode == 0, "an estimate needs no key"
    assert "LOCAL_API_KEY" in one_line(crypsis_here(*writer))


def test_the_version_is_one_line(crypsis_here: Crypsis) -> None:
    done = crypsis_here("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"crypsis {version('crypsis')}\n", "")


@pytest.mark.parametrize("tiers", [["free", "free"], ["free", " FREE "], ["free", ""], ["free"]])
@pytest.mark.parametrize("scenario", ["prompt_file", "miniature"])
def test_tiers_that_are_the_same_are_refused(scenario: str, tiers: list[str]) -> None:
    with pytest.raises(UserError, match="tiers") as caught:
        make("scenarios", {"name": scenario, "tiers": tiers}, "test")
    assert "\n" not in str(caught.value)


def test_many_requests_end_although_fewer_distinct_ones_exist() -> None:
    prompts = make("scenarios", {"name": "miniature"}, "test").prompts("eval", "free", 4000, 7)
    assert len(prompts) == 4000 and 3900 < len({p.pair_id for p in prompts}) <= 4000
