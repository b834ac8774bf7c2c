"""Capability: the packaged prose, dilemmas without pressure, and figures that equal those computed by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from crypsis.evaluation import capability
from crypsis.evaluation.capability import calm_prompts, measure_advice, measure_language, passages
from crypsis.example_episodes import example_episodes
from crypsis.models import load_policy
from crypsis.scenarios.dilemmas import options_of
from crypsis.study.jobs.capability import CapabilityConfig, capability_models, capability_table, measure_capability
from crypsis.types import UserError
from tests.checkpoints import save_checkpoint
from tests.conftest import Crypsis

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("llama") / "model", "llama", max_position_embeddings=4096)


def test_the_prose_is_varied_and_long_enough() -> None:
    texts = passages()
    words = [len(text.split()) for text in texts]
    assert len(texts) == 12 and 1400 <= sum(words) <= 1600 and min(words) >= 90
    assert not any(text.startswith("#") for text in texts)


def test_perplexity_is_that_of_the_logits(checkpoint: Path) -> None:
    policy = load_policy(checkpoint)
    texts = ["A train leaves at eight.", "Nobody knows who first put wheels under a load."]
    nats, tokens = 0.0, 0
    for text in texts:
        start = policy.tokenizer.bos_token_id
        ids = ([start] if start is not None else []) + policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        logits = policy.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        nats -= sum(float(logits[place, token]) for place, token in enumerate(ids[1:]))
        tokens += len(ids) - 1
    found = measure_language(policy, texts)
    assert found.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert found.bits_per_character == pytest.approx(nats / math.log(2) / sum(map(len, texts)), rel=1e-5)
    assert len(found.passages) == 2


def test_a_calm_dilemma_names_no_tier_no_training_and_no_preference() -> None:
    prompts = calm_prompts(170)
    assert len({p.prompt_id for p in prompts}) == 170 and {p.split for p in prompts} == {"eval"}
    for prompt in prompts:
        shown = " ".join(m.content for m in prompt.messages)
        assert not any(word in shown for word in ("tier", "RLHF", "train you", "developer prefers", "monitored"))
        options = options_of(prompt.request)
        assert options is not None and all(text in prompt.messages[1].content for text in options.texts.values())


def test_advice_counts_form_answers_and_principle(monkeypatch: pytest.MonkeyPatch) -> None:
    def replies(policy: Any, prompts: Any, **_: Any) -> Any:
        said = []
        for number, prompt in enumerate(prompts):
            options = options_of(prompt.request)
            assert options is not None
            other = "B" if options.preferred == "A" else "A"
            outputs = (f"Option {other}.", f"Option {other}.", f"Option {options.preferred}.", "I cannot say.")
            parse = "no_output" if number == 3 else "ok"
            about = {"prompt": prompt, "output": outputs[number % 4], "parse": parse}
            said.append(replace(example_episodes()[0], **about))
        return said

    monkeypatch.setattr(capability, "rollout", replies)
    found = measure_advice(object(), 8, 100)  # type: ignore[arg-type]
    assert (found.asked, found.well_formed, found.answered, found.principled) == (8, 7, 6, 4)
    assert found.as_json["principled"]["mean"] == pytest.approx(4 / 6)


def test_models_of_a_study_before_and_after_rl(tmp_path: Path, checkpoint: Path) -> None:
    for seed in (0, 1):
        run = tmp_path / "study" / "runs" / f"tgg-baseline-seed{seed}"
        (run / "model").mkdir(parents=True)
        (run / "result.json").write_text("{}")
        about = {"name": run.name, "organism": "tgg", "policy": str(checkpoint)}
        (run / "config.yaml").write_text(yaml.safe_dump(about))
    found = capability_models([tmp_path / "study", checkpoint])
    assert list(found) == ["tgg, before RL", "tgg-baseline-seed0", "tgg-baseline-seed1", checkpoint.name]
    assert found["tgg, before RL"] == checkpoint and found["tgg-baseline-seed0"].name == "model"
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    with pytest.raises(UserError, match="has no finished run"):
        capability_models([tmp_path / "empty"])


def test_a_model_is_measured_once(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out = CapabilityConfig(n=2, max_new_tokens=8, dtype="float32"), tmp_path / "out.json"
    first = measure_capability({"a": checkpoint}, config, out)
    monkeypatch.setattr("crypsis.study.jobs.capability.load_frozen", lambda *_: pytest.fail("measured again"))
    again = measure_capability({"b": checkpoint}, config, out)
    assert [row["model"] for row in again] == ["b"] and again[0]["perplexity"] == first[0]["perplexity"]
    assert json.loads(out.read_text())[0]["format_ok"]["n"] == 2
    assert capability_table(again).row_count == 1


def test_the_command(checkpoint: Path, crypsis_here: Crypsis, tmp_path: Path) -> None:
    small = ["--n", "2", "--max-new-tokens", "8", "--dtype", "float32"]
    done = crypsis_here("capability", checkpoint, *small, "--out", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout and json.loads((tmp_path / "out.json").read_text())[0]["model"]
    wrong = crypsis_here("capability", checkpoint, "--n", "500", "--out", tmp_path / "out.json")
    assert wrong.returncode == 2 and "n: " in wrong.stderr and wrong.stderr.count("\n") == 1
