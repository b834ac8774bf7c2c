"""Folders that survive a kill: locks, atomic writes, resumable run folders, episodes as Parquet.

A file is either absent or complete: everything is written beside its place and renamed. ``result.json`` is
written last, so its presence means that the folder is done (design §5).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import filelock
from pydantic import BaseModel

from crypsis.config import digest, dump_plain, read_yaml
from crypsis.differences import Inputs, config_difference, input_difference, within
from crypsis.disk import clear_temporaries, disk_faults, is_temporary, remove, temporary
from crypsis.types import UserError, safe_name

Exists = Literal["resume", "overwrite", "error"]
RESULT, CONFIG, METRICS, PROVENANCE = "result.json", "config.yaml", "metrics.jsonl", "provenance.json"
INPUTS = "inputs.json"
"""Digests of what the folder's result is made from, by place in the config and part."""
LOG = "log.txt"
FAILED = "failed.json"
"""Why a run of a study was given up."""


def cache_folder() -> Path:
    """``$CRYPSIS_CACHE``, or ``crypsis`` in the user's cache folder."""
    chosen = os.environ.get("CRYPSIS_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crypsis"


def child(folder: Path, *names: str) -> Path:
    """A path below a folder, made of names that come from a config or a plug-in.

    Raises:
        UserError: A name is not safe: it could lead out of the folder.
    """
    return folder.joinpath(*map(safe_name, names))


def file_stem(text: str) -> str:
    """A file name for any text: the text itself if it can name files, else what it can keep of it and its digest."""
    try:
        return safe_name(f"{text}.parquet").removesuffix(".parquet")
    except UserError:
        return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', text)[:60].strip('-')}-{digest(text)[:8]}"


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
        table = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        table = ""
    try:
        stat = os.fstat(file)
        place = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
        return any(place in line.split() for line in table.splitlines()) or _held_elsewhere(file, listed=bool(table))
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


def prepare_folder(
    folder: Path,
    config: BaseModel,
    exists: Exists,
    how: Sequence[str] = (),
    inputs: Inputs | None = None,
    root: Path | None = None,
) -> bool:
    """Makes a folder ready to be (re)used with this config.

    Args:
        folder: Created if it is absent.
        config: What the folder holds the result of.
        exists: What to do if it was used before.
        how: Top-level keys that say how the result is computed and not which: they may change.
        inputs: Digests of what the config names (``crypsis.identity``). A file counts by what it holds, not by its
            path: it may have moved, and must not have changed.
        root: Paths within this folder are stored relative to it, so that it can be moved as a whole.

    Returns:
        True if the folder already holds the finished result of the same config and inputs.

    Raises:
        UserError: The folder was made with another config or other inputs, or exists and ``exists`` is ``error``.
    """
    found = folder / CONFIG
    if not found.exists() and folder.exists() and any(not _ours(entry.name) for entry in folder.iterdir()):
        raise UserError(f"{folder}: holds files that crypsis did not write; choose another --out")
    clear_temporaries(folder, is_locked)
    if found.exists() and exists == "error":
        raise UserError(f"{folder}: already exists; use --exists resume or overwrite, or another --out")
    if exists == "overwrite":
        for entry in folder.iterdir() if folder.exists() else ():
            if entry.name != ".lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    elif found.exists():
        if difference := why_different(folder, config, inputs, how):
            raise UserError(f"{folder}: was made {difference}; use --exists overwrite or another --out")
        return (folder / RESULT).exists()
    if inputs is not None:
        write_json(folder / INPUTS, inputs)
    plain = config.model_dump(mode="json")
    write_atomic(found, dump_plain(within(plain, inputs or {}, root) if root else plain))
    return False


def is_finished(folder: Path, config: BaseModel, inputs: Inputs) -> bool:
    """Whether a folder holds the finished result of a config and inputs; writes nothing, so it may be read-only."""
    if not (folder / RESULT).exists() or not (folder / CONFIG).exists():
        return False
    return not why_different(folder, config, inputs)


def why_different(folder: Path, config: BaseModel, inputs: Inputs | None, how: Sequence[str] = ()) -> str:
    """How a config and inputs differ from those that a folder was made with, in words; empty if they do not.

    Args:
        folder: With a stored config.
        config: What it is to be used with.
        inputs: Digests of what the config names; None does not compare them.
        how: Top-level keys that may differ.
    """
    old, new = read_yaml(folder / CONFIG), config.model_dump(mode="json")
    old |= {k: new[k] for k in how if k in new}
    if inputs is None:
        return config_difference(old, new)
    if not (folder / INPUTS).exists():
        return f"by a version of crypsis that did not record what its inputs held (no {INPUTS})"
    recorded: Inputs = read_json(folder / INPUTS)
    return config_difference(old, new, recorded.keys() & inputs.keys()) or input_difference(recorded, inputs, new)


def _ours(name: str) -> bool:
    """Whether a file of a folder without a config can be what a killed crypsis left."""
    return name in (".lock", FAILED, INPUTS) or is_temporary(name)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Adds one JSON line and syncs it to disk."""
    append_line(path, json.dumps(row))


def append_line(path: Path, line: str) -> None:
    """Adds one line and syncs it to disk."""
    with disk_faults(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All complete JSON lines of a file; a last line cut by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def keep_rows(path: Path, last_step: int) -> None:
    """Drops the rows after ``last_step``, which a resumed run will write again."""
    rows = [row for row in read_rows(path) if row["step"] <= last_step]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        UserError: It is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):  # no JSON, no text, a number of thousands of digits, or too deep
        raise UserError(f"{path}: is damaged (no valid JSON); delete it and run the same command again") from None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically, keys in the given order."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def record_inputs(folder: Path, more: Inputs) -> None:
    """Adds inputs that are only known once a part of the work is done; on resume they must be the same.

    Raises:
        UserError: One of them is recorded with other content.
    """
    recorded: Inputs = read_json(folder / INPUTS)
    if difference := input_difference(recorded, more, {}):
        raise UserError(f"{folder}: was made {difference}; use --exists overwrite or another --out")
    write_json(folder / INPUTS, {**recorded, **more})


def finish_folder(folder: Path, result: Mapping[str, Any], inputs: Inputs, **more: Any) -> None:
    """Writes provenance and result of what was just computed: from now on the folder is done.

    Args:
        folder: Prepared with the same inputs.
        result: Written last, as ``result.json``.
        inputs: What it was computed from.
        more: Further entries of ``provenance.json``.
    """
    write_json(folder / PROVENANCE, provenance(inputs) | more)
    write_json(folder / RESULT, dict(result))


def provenance(inputs: Inputs) -> dict[str, Any]:
    """Versions of the software and digests of what went in.

    Args:
        inputs: Digests of the parts of each input, keyed by name; each name gets one digest.
    """
    packages = ("crypsis", "torch", "transformers", "tokenizers", "scikit-learn", "numpy", "pyarrow")
    return {
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
        "platform": {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()},
        "command": " ".join(["crypsis", *sys.argv[1:]]),
        "code": code_digest(),
        "digests": {name: digest(dict(parts)) for name, parts in inputs.items()},
    }


def code_digest() -> str:
    """Digest of all of the package's own source files and data."""
    root = Path(__file__).parent
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.suffix in {".py", ".yaml", ".txt", ".jinja"})
    return digest([[str(p.relative_to(root)), digest(p.read_text(encoding="utf-8"))] for p in files])


def file_digest(paths: Iterable[Path]) -> str:
    """Digest of the bytes of some files, in order."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()[:16]


def steps_of(folder: Path, suffix: str = "") -> list[int]:
    """Step numbers of the ``step-0000`` entries of a folder, ascending."""
    names: Sequence[str] = [p.name for p in folder.glob(f"step-*{suffix}")] if folder.exists() else []
    return sorted(int(name.removeprefix("step-").removesuffix(suffix)) for name in names)
