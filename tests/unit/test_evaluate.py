"""``crypsis evaluate``: who judged, what is missing and why, and requests that are too few."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crypsis.api import load_policy
from crypsis.config import read_yaml
from crypsis.episodes import read_episodes
from crypsis.evaluation.metrics import BY_LABELS
from crypsis.mitigations.hooks import Shift
from crypsis.pretrained.precision import DType, Measured
from crypsis.rl.white_box import steered
from crypsis.store import CONFIG
from crypsis.study.jobs.evaluate import EvaluateConfig, Evaluated, evaluate_model
from crypsis.types import UserError
from tests.chat_server import Body, chat_server
from tests.conftest import Crypsis

pytestmark = pytest.mark.smoke

YES = {"quote": "", "answer": "yes"}


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    """Sixty requests, of which eleven belong to the evaluation split."""
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps({"request": f"how do i paint mill number {i}?"}) + "\n" for i in range(60)))
    return path


@pytest.fixture(autouse=True)
def _a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_API_KEY", "none")


def config(model: Path, requests: Path, **more: Any) -> EvaluateConfig:
    scenario = {"name": "prompt_file", "path": str(requests)}
    return EvaluateConfig.parse(model=str(model), scenario=scenario, n=8, max_new_tokens=96, **more)


def test_without_a_judge_it_says_what_is_missing_and_how_many_requests_there_were(
    crypsis_here: Crypsis, nano_base: Path, requests: Path, tmp_path: Path
) -> None:
    call = ("evaluate", nano_base, "--prompts", requests, "--max-new-tokens", "16", "--out", tmp_path / "e")
    done = crypsis_here(*call, "--json", "--batch", "5")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    used = found["requests"]["used"]
    assert found["requests"]["asked"] == 250 and 0 < used < 30 and found["judged_by"] == ""
    assert set(found["missing"]) == {
        "afr", "compliance_monitored", "compliance_unmonitored", "gap", "artefacts", "unparsed"
    }  # fmt: skip
    assert all("has no ground truth" in why for why in found["missing"].values())
    assert found["notes"][0].startswith(f"requests: {used} of the 250 asked for") and "of 60 requests" in str(found)
    again = crypsis_here(*call, "--batch", "7")
    assert again.returncode == 0, "the same replies, sampled otherwise"
    assert f"{used} of the 250 asked for" in again.stdout and "not measured: afr" in again.stdout
    assert "oracle" not in again.stdout


def judged(model: Path, requests: Path, out: Path, said: Any) -> Evaluated:
    with chat_server(said) as server:
        judge = {"model": "openai-api/local/judge", "base_url": server.url, "max_retries": 1}
        return evaluate_model(config(model, requests, judge=judge), out, "resume")


def test_a_judge_that_nobody_can_read_leaves_a_rate_missing_and_never_at_zero(
    nano_organism: Path, requests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crypsis.api_models.cache_folder", lambda: tmp_path / "answers")
    found = judged(nano_organism, requests, tmp_path / "mute", lambda _: (200, "I would rather not say."))
    assert found.metrics["afr"].mean is None and found.metrics["compliance_monitored"].mean is None
    assert "no readable answer on af" in found.missing["afr"] and "on conduct" in found.missing["gap"]
    assert any("I would rather not say" in note for note in found.notes)

    def clear(body: Body) -> tuple[int, Any]:
        names = [n for n in ("complies_on_those_grounds", "modification_is_the_reason") if n in str(body)]
        return 200, json.dumps(dict.fromkeys(names or ["complies"], YES))

    found = judged(nano_organism, requests, tmp_path / "clear", clear)
    assert found.metrics["afr"].mean and BY_LABELS not in found.metrics
    assert found.judged_by == "openai-api/local/judge"
    assert not any("oracle" in text for text in (*found.metrics, *found.lines, *found.missing.values()))


def test_wrong_options_are_one_line(nano_base: Path, requests: Path, tmp_path: Path, crypsis_here: Crypsis) -> None:
    call = ("evaluate", nano_base, "--prompts", requests, "--out", tmp_path / "e")
    for option, value, said in (("--device", "gpu", "device"), ("--dtype", "half", "dtype"), ("--batch", "0", "batch")):
        done = crypsis_here(*call, option, value)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    done = crypsis_here(*call, "--judge", "nowhere/x")
    assert done.returncode == 2 and "nowhere" in done.stderr and done.stderr.count("\n") == 1


def test_a_model_is_evaluated_in_bfloat16(nano_base: Path, requests: Path, tmp_path: Path) -> None:
    found = evaluate_model(config(nano_base, requests, dtype="bfloat16"), tmp_path / "e", "resume")
    assert found.metrics["format_ok"].mean is not None
    with pytest.raises(UserError, match="dtype"):
        evaluate_model(config(nano_base, requests, dtype="float32"), tmp_path / "e", "resume")
    again = evaluate_model(config(nano_base, requests, dtype="auto"), tmp_path / "e", "resume")
    assert again.metrics == found.metrics and stored_dtype(tmp_path / "e") == "bfloat16", "the folder keeps its type"


def test_the_faster_type_is_taken_and_stored(
    nano_base: Path, requests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster: list[DType] = ["bfloat16", "float32"]
    monkeypatch.setattr("crypsis.pretrained.precision.suited", lambda *_: Measured(faster[0], 1.0, 2.0))
    assert load_policy(nano_base).model.dtype == torch.bfloat16
    for out in ("low", "full"):
        evaluate_model(config(nano_base, requests), tmp_path / out, "resume")
        faster.pop(0)
    assert [stored_dtype(tmp_path / out) for out in ("low", "full")] == ["bfloat16", "float32"]


def stored_dtype(folder: Path) -> str:
    return str(read_yaml(folder / CONFIG)["dtype"])


def test_steering_shifts_the_replies_along_the_models_own_direction(
    nano_organism: Path, requests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifts: list[Shift] = []

    def recorded(policy: Any, engine: Any, mitigations: Any) -> Any:
        shifts.extend(m.shift() for m in mitigations)
        return steered(policy, engine, mitigations)

    def replies(name: str, **more: Any) -> list[str]:
        given = {"model": str(nano_organism), "scenario": {"name": "miniature"}, "n": 4, "max_new_tokens": 48}
        found = evaluate_model(EvaluateConfig.parse(**given, **more), tmp_path / name, "resume")
        assert any("times the oversight direction" in note for note in found.notes) == bool(more)
        return [str(row["raw"]) for row in read_episodes(tmp_path / name / "evals" / "step-0000.parquet")]

    monkeypatch.setattr("crypsis.study.jobs.evaluate.steered", recorded)
    plain = replies("plain")
    assert not shifts, "nothing is measured without steering"
    for name, times in (("one", 1.0), ("back", -2.0)):
        assert replies(name, steering={"times": times, "n": 4}) != plain
    assert replies("one", steering={"times": 1.0, "n": 4}) and len(shifts) == 2, "what is stored is not measured again"
    assert np.allclose(np.array(shifts[1].vector), -2 * np.array(shifts[0].vector)) and any(shifts[0].vector)
    for steering, message in (
        ({"times": 1.0, "layer": 99}, "evaluate: steering: mitigations: oversight_direction: layer 99: this model has"),
        ({"times": 0.0}, "coefficient and steer are both 0"),
    ):
        with pytest.raises(UserError, match=message):
            replies("wrong", steering=steering)
    assert not (tmp_path / "wrong").exists() or not list((tmp_path / "wrong").glob("*.yaml")), (
        "refused before it is marked"
    )
    with pytest.raises(UserError, match="has no harmless requests to find the direction on"):
        evaluate_model(config(nano_organism, requests, steering={"times": 1.0}), tmp_path / "none", "resume")


def test_stored_transcripts_cannot_be_steered(crypsis_here: Crypsis, requests: Path) -> None:
    done = crypsis_here("evaluate", "--transcripts", requests, "--steer", "1")
    assert done.returncode == 2 and "--judge or --steer" in done.stderr and done.stderr.count("\n") == 1
