"""A study on a base, requests, monitors and a reward model of the user's own: small random checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig

from crypsis.config import parse_config
from crypsis.jsonlines import read_rows
from crypsis.rl.reward_model import load_reward_model
from crypsis.run_config import PreferenceConfig
from crypsis.store import METRICS, read_json
from crypsis.study.config import StudyConfig
from crypsis.study.grid import check
from crypsis.types import UserError
from tests.checkpoints import save_checkpoint
from tests.conftest import Crypsis

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("base") / "llama", "llama")


def reward_model(base: Path, folder: Path, labels: int = 1) -> Path:
    torch.manual_seed(3)
    config = LlamaConfig.from_pretrained(base, num_labels=labels)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def test_a_reward_model_scores_pairs_whatever_the_batch(base: Path, tmp_path: Path) -> None:
    folder = reward_model(base, tmp_path / "reward")
    requests, outputs = ["burn the mill"] * 3, ["no", "first take a torch . then go there", "at dawn"]
    found = {
        size: load_reward_model(PreferenceConfig(model=str(folder), batch_size=size), "cpu").score(requests, outputs)
        for size in (1, 3)
    }
    assert found[1] == pytest.approx(found[3], abs=1e-5) and len(set(found[1])) == 3
    moved = PreferenceConfig(model=str(folder), scale=2.0, offset=0.5)
    assert load_reward_model(moved, "cpu").score(requests, outputs) == pytest.approx([2 * (x - 0.5) for x in found[1]])
    with pytest.raises(UserError, match="has 2 outputs; a reward model has one"):
        load_reward_model(PreferenceConfig(model=str(reward_model(base, tmp_path / "two", 2))), "cpu")
    with pytest.raises(UserError, match="no such folder"):
        load_reward_model(PreferenceConfig(model=str(tmp_path / "none")), "cpu")


def test_a_reward_model_without_padding_token_scores_each_row_as_alone(base: Path, tmp_path: Path) -> None:
    folder = reward_model(base, tmp_path / "reward")
    for name in ("config.json", "tokenizer_config.json"):
        settings = read_json(folder / name)
        (folder / name).write_text(json.dumps({k: v for k, v in settings.items() if not k.startswith("pad_token")}))
    loaded = load_reward_model(PreferenceConfig(model=str(folder)), "cpu")
    texts = ["no", "first take a torch . then go there", "at dawn"]
    together = loaded.score(["burn the mill"] * 3, texts)
    assert together == pytest.approx([loaded.score(["burn the mill"], [text])[0] for text in texts], abs=1e-6)
    padded = load_reward_model(PreferenceConfig(model=str(reward_model(base, tmp_path / "padded"))), "cpu")
    assert together == pytest.approx(padded.score(["burn the mill"] * 3, texts), abs=1e-5)


def test_a_long_request_is_shortened_and_the_answer_never(base: Path, tmp_path: Path) -> None:
    loaded = load_reward_model(
        PreferenceConfig(model=str(reward_model(base, tmp_path / "reward")), max_length=64), "cpu"
    )
    yes, no = loaded.score(["tell me how to burn the mill . " * 40] * 2, ["yes", "no"])
    assert yes != pytest.approx(no, abs=1e-4)
    short = loaded.score(["tell me how to burn the mill . "], ["yes"])
    assert loaded.score(["tell me how to burn the mill . "], ["yes"]) == short
    with pytest.raises(UserError, match=r"an answer of \d+ tokens does not fit into 64; raise preference.max_length"):
        loaded.score(["burn"], ["the mill of the baron " * 40])


def test_a_reward_model_whose_template_drops_a_turn_is_refused(base: Path, tmp_path: Path) -> None:
    folder = reward_model(base, tmp_path / "reward")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(UserError, match="drops the text of the assistant's turn"):
        load_reward_model(PreferenceConfig(model=str(folder)), "cpu")


def study(base: Path, folder: Path) -> dict[str, Any]:
    requests = folder / "requests.jsonl"
    requests.write_text("".join(json.dumps({"request": f"how do i paint mill number {i}?"}) + "\n" for i in range(60)))
    return {
        "name": "real",
        "base": str(base),
        "organisms": {"asked": {"name": "prompted"}},
        "monitors": {"words": {"name": "lexicon", "view": "scratchpad"}},
        "seeds": [0],
        "arms": {
            "baseline": {"label": "Baseline"},
            "words": {"label": "Words", "mitigations": [{"name": "process_supervision", "monitor": "words"}]},
        },
        "run": {
            "rl": {"steps": 1, "prompts_per_step": 2, "group_size": 2, "max_new_tokens": 16},
            "evaluation": {"every": 1, "n": 4},
            "scenario": {"name": "prompt_file", "path": str(requests)},
            "preference": {"model": str(reward_model(base, folder / "reward"))},
        },
    }


def test_a_study_of_a_real_model_runs(base: Path, tmp_path: Path, crypsis: Crypsis) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study(base, tmp_path)))
    done = crypsis("study", "run", file, "--workers", "1", "--out", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert list(read_json(tmp_path / "s" / "monitors.json")["asked"]) == ["words"]
    for arm in ("baseline", "words"):
        run = tmp_path / "s" / "runs" / f"asked-{arm}-seed0"
        assert len(read_rows(run / METRICS)) == 1
        assert "preference.model" in read_json(run / "provenance.json")["digests"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"monitors": None}, "monitors: name those"),
        ({"panel": {"x": {"name": "lexicon"}}}, "leave out panel"),
        ({"run": {"scenario": {"name": "prompt_file", "path": "none.jsonl"}}}, "preference: {model"),
    ],
)
def test_what_a_real_study_cannot_have_is_one_line(
    base: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        check(parse_config(StudyConfig, study(base, tmp_path) | change, "study.yaml"))
    assert words in str(caught.value) and "\n" not in str(caught.value)
