"""Folders, resumption and overrides in places where a kill, a repair or an odd value once went unnoticed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from crypsis.config import apply_overrides, parse_config
from crypsis.disk import remove
from crypsis.locks import locked
from crypsis.store import finish_folder, is_complete, prepare_folder
from crypsis.study.config import StudyConfig, widen
from crypsis.study.nano import nano
from crypsis.study.pipeline import _learn_revisions
from crypsis.study.status import RunStatus, Status
from crypsis.transcripts.base import ReadOptions
from crypsis.types import UserError
from tests.conftest import Crypsis
from tests.monitors import write_rows

pytestmark = pytest.mark.unit

STUDY: dict[str, Any] = {
    "name": "s",
    "organisms": {"tgg": {"name": "tgg"}},
    "arms": {"baseline": {"label": "B"}},
    "seeds": [0],
}


def done(folder: Path) -> ReadOptions:
    """A finished folder with a file that a repair may make again, and its config."""
    config = ReadOptions()
    prepare_folder(folder, config, "resume", inputs={})
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text("w")
    finish_folder(folder, {"steps": 1}, {})
    return config


def test_a_folder_whose_repair_was_killed_is_not_done(tmp_path: Path) -> None:
    config = done(tmp_path / "run")
    assert is_complete(tmp_path / "run")
    remove(tmp_path / "run" / "model")
    assert not prepare_folder(tmp_path / "run", config, "resume", inputs={}, repairs=("model",))
    assert not is_complete(tmp_path / "run"), "killed here, it must not look done"
    assert not prepare_folder(tmp_path / "run", config, "resume", inputs={}, repairs=("model",))


def test_a_model_of_the_hub_that_the_study_itself_downloads_is_the_same_one(tmp_path: Path) -> None:
    recorded = {"base": {"hub": "someone/model", "revision": ""}, "other": {"hub": "a/b", "revision": "1"}}
    (tmp_path / "inputs.json").write_text(json.dumps(recorded))
    now = {"base": {"hub": "someone/model", "revision": "aaaa"}, "other": {"hub": "a/b", "revision": "2"}}
    _learn_revisions(tmp_path, now)
    assert json.loads((tmp_path / "inputs.json").read_text()) == {**recorded, "base": now["base"]}
    _learn_revisions(tmp_path, {"base": {"hub": "another/model", "revision": "bbbb"}})
    assert json.loads((tmp_path / "inputs.json").read_text())["base"] == now["base"]


def test_a_study_takes_code_of_added_plugins_and_no_added_files(tmp_path: Path) -> None:
    config = parse_config(StudyConfig, STUDY, "s")
    inputs = {"code": {"crypsis.a": "1"}, "base": {"model.safetensors": "1"}}
    prepare_folder(tmp_path, config, "resume", inputs=inputs)
    grown = config.model_copy(update={"seeds": [0, 1]})
    for changed in ({"base": {"model.safetensors": "1", "chat_template.jinja": "2"}}, {"code": {"crypsis.a": "2"}}):
        widen(tmp_path, grown, {**inputs, **changed})
        assert json.loads((tmp_path / "inputs.json").read_text()) == inputs
    widen(tmp_path, grown, {**inputs, "code": {"crypsis.a": "1", "crypsis.b": "1"}})
    assert json.loads((tmp_path / "inputs.json").read_text())["code"] == {"crypsis.a": "1", "crypsis.b": "1"}


def test_nothing_is_overwritten_below_a_process_at_work(tmp_path: Path) -> None:
    config = done(tmp_path / "s")
    busy = tmp_path / "s" / "runs" / "tgg-a-seed0"
    pid, (reading, writing) = 0, os.pipe()
    pid = os.fork()
    if pid == 0:  # another process; it ends when the pipe is closed
        os.close(writing)
        with locked(busy):
            (busy / "ready").touch()
            os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    try:
        until = time.monotonic() + 30
        while not (busy / "ready").exists() and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(UserError, match="tgg-a-seed0: another crypsis process is at work here"):
            prepare_folder(tmp_path / "s", config, "overwrite", inputs={})
        assert (busy / "ready").exists()
    finally:
        os.close(writing)
        os.waitpid(pid, 0)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "s" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert not prepare_folder(tmp_path / "s", config, "overwrite", inputs={})
    assert not busy.exists() and not (tmp_path / "s" / "link").exists() and (tmp_path / "elsewhere").exists()


def test_figures_of_transcripts_do_not_replace_another_result(tmp_path: Path, crypsis_here: Crypsis) -> None:
    rows = [
        {"prompt_id": i, "tier": tier, "complied": tier == "free", "output": "x"}
        for tier in ("free", "paid")
        for i in range(6)
    ]
    data = write_rows(tmp_path / "t.jsonl", rows)
    done(tmp_path / "run")
    before = (tmp_path / "run" / "result.json").read_text()
    for exists in ("resume", "error"):
        run = crypsis_here("evaluate", "--transcripts", data, "--out", tmp_path / "run", "--exists", exists)
        assert run.returncode == 2 and (tmp_path / "run" / "result.json").read_text() == before
    for _ in range(2):
        assert crypsis_here("evaluate", "--transcripts", data, "--out", tmp_path / "new").returncode == 0
    assert json.loads((tmp_path / "new" / "result.json").read_text())["models"]
    run = crypsis_here("evaluate", "--transcripts", data, "--judge", "openai/gpt-4o")
    assert run.returncode == 2 and "takes no settings" in run.stderr


def test_the_time_left_is_not_less_than_that_of_the_longest_run() -> None:
    runs = (
        RunStatus("tgg", "a", 0, "done", 10, 10, 600.0),
        RunStatus("tgg", "a", 1, "running", 5, 10),
        RunStatus("tgg", "a", 2, "waiting", 0, 10),
    )
    status = Status(Path("s"), "s", runs, 4, True)
    assert status.seconds_left == 600.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arms": {"baseline": {"label": "B", "rl": {"steps": "abc"}}}}, r"arms\.baseline"),
        ({"panel": {"x": {"name": "ensemble", "members": 5}}}, "members"),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_line(change: dict[str, Any], said: str) -> None:
    from crypsis.study.grid import check

    with pytest.raises(UserError, match=said):
        check(nano(parse_config(StudyConfig, STUDY | change, "s")))


def test_an_override_may_go_below_what_is_null() -> None:
    assert apply_overrides({"run": {"model": None}}, ["run.model.dtype=float32"]) == {
        "run": {"model": {"dtype": "float32"}}
    }
    with pytest.raises(UserError, match="'steps' is not a group of settings"):
        apply_overrides({"rl": {"steps": 3}}, ["rl.steps.more=1"])
