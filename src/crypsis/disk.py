"""What a disk and a kill may do to a write: names of temporary files, a full disk, a read-only one."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from crypsis.types import UserError

STALE_SECONDS = 3600.0
"""A temporary file of another machine may go when it is older: no file takes so long to write."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (
    *(errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EINVAL),
)
_NAMED = re.compile(r"^\..*\.(?P<host>[A-Za-z0-9-]+)~(?P<pid>\d+)\.tmp$")


class DiskFullError(UserError):
    """There is no space left: trying again helps only once there is some."""


def temporary(path: Path) -> Path:
    """Where this process writes what is to stand at ``path``: beside it, with the machine and the process in its name.

    The name says who wrote it, so that whoever finds it can tell whether the writer is still there.
    """
    return path.with_name(f".{path.name}.{_host()}~{os.getpid()}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file is named as one that a process was writing."""
    return name.startswith(".") and name.endswith(".tmp")


def clear_temporaries(folder: Path, at_work: Callable[[Path], bool]) -> None:
    """Deletes what killed processes were writing in a folder, and nothing that a living one may be writing.

    Args:
        folder: Held by this process.
        at_work: Whether a process holds a folder below it.
    """
    for left in sorted(folder.rglob(".*.tmp")):
        inner = [p for p in left.parents if folder in p.parents and (p / ".lock").exists()]
        if not any(map(at_work, inner)) and _dead(left):
            remove(left)


def remove(path: Path) -> None:
    """Deletes a file or a folder, whether or not it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def process_tag() -> str:
    """This machine and this process, for names of temporary folders."""
    return f"{_host()}~{os.getpid()}"


def is_gone(tag: str) -> bool:
    """Whether the process of a ``process_tag`` was one of this machine and has ended."""
    host, _, pid = tag.partition("~")
    return host == _host() and pid.isdigit() and not _alive(int(pid))


def _dead(left: Path) -> bool:
    """Whether nobody goes on writing a temporary file."""
    named = _NAMED.match(left.name)
    if named and named["host"] == _host():
        pid = int(named["pid"])
        return pid == os.getpid() or not _alive(pid)
    with contextlib.suppress(FileNotFoundError):
        return time.time() - left.stat().st_mtime > STALE_SECONDS
    return False


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:40] or "host"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


@contextlib.contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turns a full or read-only disk into one line for the user.

    Raises:
        DiskFullError: No space is left.
        UserError: The place cannot be written.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_full(error):
            raise full(path) from None
        if isinstance(error, OSError) and error.errno in _REFUSED:
            raise UserError(f"{path}: cannot be written ({os.strerror(error.errno)}); choose another --out") from None
        raise


def full(path: Path | str) -> DiskFullError:
    """What is said when the disk is full."""
    return DiskFullError(f"{path}: no space left on the disk; free some and run the same command to go on")


def is_full(error: BaseException) -> bool:
    """Whether a fault means that no space is left; libraries in Rust and C++ tell it in words only."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    words = str(error)
    return any(f"os error {number}" in words or os.strerror(number) in words for number in _FULL)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Writes a file so that a reader or a kill never sees half of it.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    beside = temporary(path)
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except OSError:  # half a file would take space that is wanted elsewhere
            remove(beside)
            raise


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling that takes the place of ``path`` when the block ends without a fault."""
    beside = temporary(path)
    with disk_faults(path):
        remove(beside)
        try:
            beside.mkdir(parents=True)
            yield beside
            if path.exists():
                shutil.rmtree(path)
            os.replace(beside, path)
        except Exception:
            remove(beside)
            raise
