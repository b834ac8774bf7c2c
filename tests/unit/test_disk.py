"""Temporary files of the dead and the living, and a disk without space."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from crypsis.config import Config
from crypsis.disk import DiskFullError, disk_faults, is_gone, is_temporary, process_tag, temporary
from crypsis.interrupts import how_to_go_on
from crypsis.locks import locked
from crypsis.store import new_folder, prepare_folder, write_atomic

pytestmark = pytest.mark.unit


class Settings(Config):
    steps: int = 3


def named(path: Path, pid: int, host: str | None = None) -> Path:
    """The temporary file of another process."""
    mine = temporary(path).name
    tag = process_tag()
    other = f"{host or tag.partition('~')[0]}~{pid}"
    return path.with_name(mine.replace(tag, other))


def dead_pid() -> int:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return gone.pid


def test_resuming_deletes_what_the_dead_were_writing_and_leaves_the_living(tmp_path: Path) -> None:
    dead, living = named(tmp_path / "a.json", dead_pid()), named(tmp_path / "a.json", os.getppid())
    far, old = named(tmp_path / "a.json", 1, "elsewhere"), named(tmp_path / "b.json", 1, "elsewhere")
    (tmp_path / "config.yaml").write_text("steps: 3\n")
    nested = tmp_path / "runs" / "x"
    held, loose = named(nested / "c.json", dead_pid()), named(tmp_path / "runs" / "y" / "c.json", dead_pid())
    for path in (dead, living, far, old, held, loose):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    code = (
        "import sys, time; from pathlib import Path; from crypsis.locks import locked\n"
        f"with locked(Path({str(nested)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with locked(tmp_path):
            prepare_folder(tmp_path, Settings(), "resume")
        left = {path for path in (dead, living, far, old, held, loose) if path.exists()}
        other.communicate("")
    assert left == {living, far, held}
    assert all(is_temporary(path.name) for path in left)


def test_a_process_is_gone_only_if_it_was_one_of_this_machine() -> None:
    host = process_tag().partition("~")[0]
    assert is_gone(f"{host}~{dead_pid()}")
    assert not is_gone(process_tag()) and not is_gone("elsewhere~1") and not is_gone("left-by-hand")


def test_a_full_disk_is_one_line_however_a_library_tells_it(tmp_path: Path) -> None:
    told = [OSError(errno.ENOSPC, "x"), Exception("I/O error: No space left on device (os error 28)")]
    for error in told:
        with (
            pytest.raises(DiskFullError, match=r"a: no space left on the disk; free some"),
            disk_faults(tmp_path / "a"),
        ):
            raise error
    with pytest.raises(ZeroDivisionError), disk_faults(tmp_path / "a"):
        raise ZeroDivisionError


@pytest.fixture
def small_files() -> Iterator[None]:
    """Writes end after 4 kB, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_weights_on_a_full_disk_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with new_folder(tmp_path / "model") as target:
            save_file({"w": torch.zeros(1 << 16)}, target / "w.safetensors")

    with pytest.raises(DiskFullError, match="model: no space left"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(DiskFullError):
        write_atomic(tmp_path / "a", "x")
    assert list(tmp_path.iterdir()) == []


def test_the_command_to_go_on_with_neither_overwrites_nor_refuses() -> None:
    line = how_to_go_on(["train", "my run.yaml", "--exists", "overwrite", "--out", "x"])
    assert line.endswith("crypsis train 'my run.yaml' --out x")
    assert how_to_go_on(["demo", "--exists=error"]).endswith("crypsis demo")
