"""Locks of folders, which die with the process that holds them, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import filelock

from crypsis.disk import disk_faults
from crypsis.types import UserError


@contextlib.contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Holds the folder for this process; the lock dies with the process, however it dies.

    Args:
        folder: Created if it is absent.
        wait: Seconds to wait for the other process before failing; −1 waits for ever (used for the shared cache).

    Raises:
        UserError: Another process is still at work in the folder.
    """
    with disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", timeout=wait)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise UserError(
                f"{folder}: another crypsis process is at work here; wait for it or choose another --out"
            ) from None
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process is at work in a folder at this moment.

    Asks the system instead of trying the lock, so that a process that starts just now is not told that the folder is in
    use, and so that a folder that cannot be written is not taken for one in use.
    """
    try:
        file = os.open(folder / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        table: str | None = Path("/proc/locks").read_text(encoding="ascii")  # empty when nobody holds any lock
    except OSError:
        table = None
    try:
        stat = os.fstat(file)
        place = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
        held = any(place in line.split() for line in (table or "").splitlines())
        return held or _held_elsewhere(file, listed=table is not None)
    finally:
        os.close(file)


def _held_elsewhere(file: int, listed: bool) -> bool:
    """Whether a lock is held that this machine's table does not show, or where there is no table."""
    try:
        if not listed:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        # On network file systems of Linux flock takes a POSIX lock, which can be asked for.
        whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind: int = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, whole))[0]
    except BlockingIOError:
        return True
    except OSError:
        return False
    return kind != fcntl.F_UNLCK
