from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crypsis.config import Config
from crypsis.episodes import read_episodes, write_episodes
from crypsis.jsonlines import append_row, keep_rows, read_rows
from crypsis.locks import locked
from crypsis.store import cache_folder, new_folder, prepare_folder, write_atomic
from crypsis.types import UserError, Verdict
from tests.episodes import make_episode

pytestmark = pytest.mark.unit


class Settings(Config):
    steps: int = 3


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_atomic(file, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomic(file, "new")
    assert file.read_text() == "old"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def fail_halfway() -> None:
        with new_folder(target) as folder:
            (folder / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert not target.exists()
    with new_folder(target) as folder:
        (folder / "whole").write_text("x")
    assert [p.name for p in target.iterdir()] == ["whole"]


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left"):
        write_atomic(tmp_path / "a.json", "x")


def test_rows_cut_by_a_kill_are_left_out_and_later_steps_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        append_row(file, {"step": step})
    with file.open("a") as opened:
        opened.write('{"step": 4, "lo')
    assert [row["step"] for row in read_rows(file)] == [1, 2, 3]
    keep_rows(file, 2)
    assert [row["step"] for row in read_rows(file)] == [1, 2]


def test_a_second_process_is_told_that_the_folder_is_in_use(tmp_path: Path) -> None:
    code = f"from crypsis.locks import locked; from pathlib import Path\nwith locked(Path({str(tmp_path)!r})): pass"
    with locked(tmp_path):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert second.returncode != 0
    assert "another crypsis process is at work here" in second.stderr
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_old_folder_is_resumed_refused_or_overwritten(tmp_path: Path) -> None:
    assert prepare_folder(tmp_path, Settings(), "resume") is False
    assert prepare_folder(tmp_path, Settings(), "resume") is False
    write_atomic(tmp_path / "result.json", "{}")
    assert prepare_folder(tmp_path, Settings(), "resume") is True
    with pytest.raises(UserError, match=r"steps: 3 there, 5 here"):
        prepare_folder(tmp_path, Settings(steps=5), "resume")
    assert (tmp_path / "result.json").exists()
    with pytest.raises(UserError, match="already exists"):
        prepare_folder(tmp_path, Settings(), "error")
    assert prepare_folder(tmp_path, Settings(steps=5), "overwrite") is False
    assert not (tmp_path / "result.json").exists()


def test_a_strangers_folder_is_not_written_to_nor_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for exists in ("resume", "overwrite"):
        with pytest.raises(UserError, match="did not write"):
            prepare_folder(tmp_path, Settings(), exists)
    assert (tmp_path / "thesis.tex").exists()


def test_episodes_keep_columns_that_the_first_one_lacks(tmp_path: Path) -> None:
    bare, full = make_episode(), make_episode(verdicts={"text": Verdict(0.25)}, reward_terms={"format": -3.0})
    write_episodes(tmp_path / "a.parquet", [bare, full], "run")
    rows = read_episodes(tmp_path / "a.parquet")
    assert [row["verdict_text"] for row in rows] == [None, 0.25]
    assert [row["term_format"] for row in rows] == [None, -3.0]


def test_a_damaged_parquet_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="damaged"):
        read_episodes(tmp_path / "a.parquet")


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CRYPSIS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().name == "crypsis"
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "crypsis"
    monkeypatch.setenv("CRYPSIS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
