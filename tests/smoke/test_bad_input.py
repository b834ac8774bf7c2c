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
