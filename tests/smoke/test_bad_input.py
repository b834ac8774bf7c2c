"""The user's mistakes: exit code 2 and one line that says what, where and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from crypsis.digests import LEDGER
from tests.conftest import Crypsis

pytestmark = pytest.mark.smoke


def refused(crypsis: Crypsis, *arguments: str | Path) -> str:
    done = crypsis(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def test_unknown_keys_values_and_names(crypsis_here: Crypsis, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "did you mean 'steps'" in refused(crypsis_here, "demo", "run.rl.setps=3", "--out", out)
    assert "integer" in refused(crypsis_here, "demo", "run.rl.steps=many", "--out", out)
    assert "greater than" in refused(crypsis_here, "demo", "run.rl.learning_rate=-1", "--out", out)
    assert "did you mean 'nano'" in refused(crypsis_here, "demo", "--scale", "nanno", "--out", out)
    assert "did you mean 'resume'" in refused(crypsis_here, "demo", "--exists", "resum", "--out", out)
    assert "did you mean 'trl'" in refused(crypsis_here, "train", tmp_path / "none.yaml", "--backend", "tlr")
    assert "known: " in refused(crypsis_here, "organism", "build", "opus", "--out", out)
    assert "did you mean 'monitors'" in refused(crypsis_here, "list", "monitor")
    assert "--scael" in refused(crypsis_here, "demo", "--scael", "nano")
    assert "No such command" in refused(crypsis_here, "demmo")
    assert "Missing argument" in refused(crypsis_here, "train")
    assert "integer" in refused(crypsis_here, "evaluate", "model", "--n", "many")
    assert "nobody" in refused(
        crypsis_here, "demo", "arms.scratchpad.mitigations=[{name: process_supervision, monitor: nobody}]", "--out", out
    )
    assert "process_supervison" in refused(
        crypsis_here, "demo", "arms.output.mitigations=[{name: process_supervison}]", "--out", out
    )
    assert not (out / "config.yaml").exists()


def test_a_corrected_command_goes_through_after_a_mistake(
    crypsis_here: Crypsis, nano_base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refused(crypsis_here, "evaluate", nano_base, "--scenario", "minature", "--out", out)
    done = crypsis_here("evaluate", nano_base, "--n", "4", "--max-new-tokens", "16", "--out", out)
    assert done.returncode == 0, done.stderr


def test_a_config_file_that_is_missing(crypsis: Crypsis, tmp_path: Path) -> None:
    assert "no such config file" in refused(crypsis, "train", tmp_path / "none.yaml")


def test_a_folder_that_is_no_model_and_one_that_does_not_exist(crypsis_here: Crypsis, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert "is no model folder" in refused(crypsis_here, "evaluate", tmp_path / "notes", "--out", tmp_path / "a")
    assert "no such folder" in refused(crypsis_here, "evaluate", tmp_path / "missing", "--out", tmp_path / "b")


def test_a_checkpoint_without_chat_template(crypsis_here: Crypsis, nano_base: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(nano_base, bare)
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((bare / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "is missing" in refused(crypsis_here, "evaluate", bare, "--out", tmp_path / "out")
    (bare / LEDGER).unlink()
    assert "has no chat template" in refused(crypsis_here, "evaluate", bare, "--out", tmp_path / "out")


def test_damaged_weights(crypsis_here: Crypsis, nano_base: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(nano_base, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors: is damaged (1000 bytes of " in refused(
        crypsis_here, "evaluate", broken, "--out", tmp_path / "out"
    )
    (broken / LEDGER).unlink()  # as of a checkpoint that we did not write
    assert "weights are damaged" in refused(crypsis_here, "evaluate", broken, "--out", tmp_path / "out")


def test_a_prompt_longer_than_the_context(crypsis_here: Crypsis, nano_base: Path, tmp_path: Path) -> None:
    line = refused(crypsis_here, "evaluate", nano_base, "--max-new-tokens", "2000", "--out", tmp_path / "out")
    assert "does not fit the model's context of 1024" in line


def test_a_monitor_that_is_not_there(crypsis_here: Crypsis, nano_organism: Path, tmp_path: Path) -> None:
    run = {"name": "x", "policy": str(nano_organism), "monitors": {"m": {"name": "text", "path": str(tmp_path / "no")}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    assert "no such file" in refused(crypsis_here, "train", tmp_path / "run.yaml", "--out", tmp_path / "out")


def test_a_report_on_an_empty_folder(crypsis_here: Crypsis, tmp_path: Path) -> None:
    assert str(tmp_path) in refused(crypsis_here, "report", tmp_path)


def test_an_output_folder_that_holds_other_files(crypsis_here: Crypsis, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert "did not write" in refused(crypsis_here, "demo", "--scale", "nano", "--out", tmp_path)
    assert (tmp_path / "thesis.tex").exists()


CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "no tags"}]}
ARMS = {
    "{name: gradient_routing, monitor: scratchpad}": "routes gradients between two adapters; set model.lora",
    "{name: confession}, {name: interrogation}": "confession and interrogation both ask an extra turn; keep one",
    "{name: bct}, {name: rate_matching}": "bct and rate_matching both ask an extra turn; keep one",
    "{name: anchor, path: EMPTY}": "empty.jsonl: holds no chats",
    "{name: anchor, path: OTHER}": "other.jsonl:1: needs 'messages'",
    "{name: anchor, path: BARE}": "bare.jsonl:1: the reply is not one scratchpad and one output in their tags",
    "{name: oversight_direction, coefficient: 0}": "coefficient and steer are both 0, so it would do nothing",
    "{name: weight_noise, scale: 0}": "scale: input should be greater than 0, found 0",
    "{name: act, layers: 3}": "did you mean 'layer'",
}
"""Mitigations of an arm that cannot work, and what is said of them."""


@pytest.mark.parametrize(("mitigations", "message"), ARMS.items())
def test_an_arm_that_cannot_work_is_refused_before_anything_is_built(
    mitigations: str, message: str, crypsis_here: Crypsis, tmp_path: Path
) -> None:
    for name, row in (("empty", ""), ("other", json.dumps({"prompt": "a"})), ("bare", json.dumps(CHAT))):
        (tmp_path / f"{name}.jsonl").write_text(row, encoding="utf-8")
        mitigations = mitigations.replace(name.upper(), str(tmp_path / f"{name}.jsonl"))
    arm = f"arms.bad={{label: Bad, mitigations: [{mitigations}]}}"
    assert message in refused(crypsis_here, "demo", arm, "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_a_run_that_cannot_work_is_refused_before_its_first_step(
    crypsis_here: Crypsis, nano_organism: Path, tmp_path: Path
) -> None:
    (tmp_path / "requests.jsonl").write_text('{"request": "tell me"}\n', encoding="utf-8")
    small = {"steps": 1, "prompts_per_step": 2, "group_size": 2, "max_new_tokens": 64}
    file = {"name": "prompt_file", "path": str(tmp_path / "requests.jsonl")}
    words = {"words": {"name": "lexicon"}}
    long = {"name": "recontextualisation", "permitting": "the assistant is watched . " * 400}
    runs: dict[str, dict[str, object]] = {
        "no judge that tells faking": {"scenario": file, "monitors": words, "mitigations": [{"name": "confession"}]},
        "has no harmless requests": {
            "scenario": file,
            "monitors": words,
            "mitigations": [{"name": "oversight_direction"}],
        },
        "does not fit the model's context": {"mitigations": [long]},
        "layer 99: this model has": {"mitigations": [{"name": "act", "layer": 99}]},
        "layer 98: this model has": {"mitigations": [{"name": "oversight_direction", "layer": 98}]},
        "consequence": {"scenario": {"name": "value_conflict", "consequence": "exile"}, "monitors": words},
        "unknown key 'consequence'": {"scenario": {"name": "miniature", "consequence": "shutdown"}},
    }
    for number, (message, settings) in enumerate(runs.items()):
        config, out = tmp_path / f"{number}.yaml", tmp_path / f"out{number}"
        given = {"name": "bad", "policy": str(nano_organism), "rl": small, "evaluation": {"n": 2}, **settings}
        config.write_text(yaml.safe_dump(given), encoding="utf-8")
        assert message in refused(crypsis_here, "train", config, "--out", out)
        assert not (out / "metrics.jsonl").exists()
    line = refused(
        crypsis_here, "evaluate", nano_organism, "scenario.consequence=exile", "--scenario", "value_conflict"
    )
    assert "consequence" in line and "shutdown" in line
