"""Folders that survive a kill: atomic writes, resumable run folders, provenance.

A file is either absent or complete: everything is written beside its place and renamed. ``result.json`` is
written last, so its presence means that the folder is done (design §5).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import BaseModel

from crypsis.config import digest, dump_plain, read_yaml
from crypsis.differences import Inputs, config_difference, input_difference, within
from crypsis.digests import (
    LEDGER,
    Damage,
    DamagedError,
    Entry,
    damages,
    describe,
    forget,
    is_sound,
    ledger_text,
    read_ledger,
    record,
    start_anew,
)
from crypsis.disk import clear_temporaries, is_temporary, remove
from crypsis.disk import new_folder as new_folder
from crypsis.disk import write_atomic as write_atomic
from crypsis.locks import is_locked
from crypsis.types import UserError, safe_name

Exists = Literal["resume", "overwrite", "error"]
RESULT, CONFIG, METRICS, PROVENANCE = "result.json", "config.yaml", "metrics.jsonl", "provenance.json"
INPUTS = "inputs.json"
"""Digests of what the folder's result is made from, by place in the config and part."""
LOG = "log.txt"
KEPT = (CONFIG, INPUTS, "pilot.json", "evals/", "transplants/", "rollouts/", "monitors/")
"""Files that are written once and stay, whether or not their folder is finished."""
FAILED = "failed.json"
"""Why a run of a study was given up."""


def cache_folder() -> Path:
    """``$CRYPSIS_CACHE``, or ``crypsis`` in the user's cache folder as the system has it."""
    chosen = os.environ.get("CRYPSIS_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("crypsis", appauthor=False)


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


def prepare_folder(
    folder: Path,
    config: BaseModel,
    exists: Exists,
    how: Sequence[str] = (),
    inputs: Inputs | None = None,
    root: Path | None = None,
    repairs: tuple[str, ...] = (),
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
        repairs: Beginnings of paths that the caller makes anew if they are damaged or lost.

    Returns:
        True if the folder already holds the finished result of the same config and inputs, every file as it was stored.

    Raises:
        UserError: The folder was made with another config or other inputs, exists and ``exists`` is ``error``, or is to
            be overwritten while a process is at work below it.
        DamagedError: A stored file is damaged and is none of ``repairs``.
    """
    found = folder / CONFIG
    if exists == "resume":
        restore_head(folder, config, inputs, root)
    if not found.exists() and folder.exists() and any(not _ours(entry.name) for entry in folder.iterdir()):
        raise UserError(f"{folder}: holds files that crypsis did not write; choose another --out")
    clear_temporaries(folder, is_locked)
    if found.exists() and exists == "error":
        raise UserError(f"{folder}: already exists; use --exists resume or overwrite, or another --out")
    if exists == "overwrite":
        _empty(folder)
    elif found.exists():
        if difference := why_different(folder, config, inputs, how):
            raise UserError(f"{folder}: was made {difference}; {_instead(folder)}")
        return _is_done(folder, repairs)
    for file, text in _head(config, inputs, root).items():
        write_atomic(folder / file, text)
        record(folder, folder / file)
    return False


def _empty(folder: Path) -> None:
    """Deletes all that a folder holds, but not below a process that is at work in it."""
    if busy := next((lock.parent for lock in sorted(folder.glob("*/**/.lock")) if is_locked(lock.parent)), None):
        raise UserError(f"{busy}: another crypsis process is at work here; wait for it or choose another --out")
    for entry in folder.iterdir() if folder.exists() else ():
        if entry.name != ".lock":
            remove(entry)


def _head(config: BaseModel, inputs: Inputs | None, root: Path | None) -> dict[str, str]:
    """What a folder says of itself before anything is computed: by name of the file, its text."""
    plain = config.model_dump(mode="json")
    text = dump_plain(within(plain, inputs or {}, root) if root else plain)
    return ({INPUTS: json_text(inputs)} if inputs is not None else {}) | {CONFIG: text}


def restore_head(folder: Path, config: BaseModel, inputs: Inputs | None = None, root: Path | None = None) -> None:
    """Writes a damaged or lost config, or record of the inputs, again if it was this one.

    Args:
        folder: May be absent.
        config: As for ``prepare_folder``.
        inputs: As for ``prepare_folder``.
        root: As for ``prepare_folder``.

    Raises:
        DamagedError: It was another one.
    """
    entries = read_ledger(folder) or {}
    for file, text in _head(config, inputs, root).items():
        if file in entries and not is_sound(folder, folder / file):
            if entries[file].sha256 != hashlib.sha256(text.encode()).hexdigest():
                raise DamagedError(Damage(folder, file, "is damaged or lost"), start_anew(folder))
            write_atomic(folder / file, text)


def rewrite(folder: Path, texts: Mapping[str, str]) -> None:
    """Replaces stored files of a folder whose content may change, and their digests."""
    paths = [folder / name for name in texts]
    forget(folder, *paths)  # so that a kill leaves no digest of another content
    for path in paths:
        write_atomic(path, texts[path.name])
    record(folder, *paths)


def _is_done(folder: Path, repairs: tuple[str, ...]) -> bool:
    """Whether a folder of the right config holds the whole result; faults as of ``prepare_folder``."""
    if (folder / RESULT).exists():
        bad = damages(folder)
        lost = [damage for damage in bad if not any(map(damage.file.startswith, repairs))]
        if lost:
            raise DamagedError(lost[0], start_anew(folder))
        if not bad:
            return True
    _reopen(folder)
    return False


def _instead(folder: Path) -> str:
    """What to do with a folder of another config; nobody chooses the folders of the cache by --out."""
    if cache_folder() in folder.parents:
        return f"delete the folder {folder} and run the same command again"
    return "use --exists overwrite or another --out"


def is_finished(folder: Path, config: BaseModel, inputs: Inputs) -> bool:
    """Whether a folder holds the finished result of a config and inputs, every file as it was stored.

    Writes nothing, so the folder may be read-only.

    Raises:
        DamagedError: Its digests are damaged.
    """
    return (folder / CONFIG).exists() and is_complete(folder) and not why_different(folder, config, inputs)


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a result, with every file as it was stored.

    Raises:
        DamagedError: Its digests are damaged.
    """
    return (folder / RESULT).exists() and not damages(folder)


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


def _files(top: Path) -> list[Path]:
    """The files at or below an entry of a folder, without hidden ones and those that another ledger lists."""
    if top.name.startswith(".") or top.name == LEDGER:
        return []
    if not top.is_dir():
        return [top]
    listed = read_ledger(top)
    files = [file for entry in top.iterdir() for file in _files(entry)]
    if listed is None:
        return files
    return [top / LEDGER, *(file for file in files if file.relative_to(top).as_posix() not in listed)]


def _reopen(folder: Path) -> None:
    """Leaves the digests of what a resumed work keeps; files that it goes on writing are noted again at the end.

    The folder is no longer done, so that a repair that is killed or fails does not look like one.
    """
    (folder / RESULT).unlink(missing_ok=True)
    entries = read_ledger(folder)
    if entries is not None:
        kept = {name: entry for name, entry in entries.items() if name.startswith(KEPT)}
        if kept != entries:
            write_atomic(folder / LEDGER, ledger_text(kept))


def _ours(name: str) -> bool:
    """Whether a file of a folder without a config can be what a killed crypsis left."""
    return name in (".lock", FAILED, INPUTS, LEDGER) or is_temporary(name)


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
        raise UserError(f"{path}: is damaged (no valid JSON); {look(path)}") from None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically, keys in the given order."""
    write_atomic(path, json_text(value))


def json_text(value: Any) -> str:
    """A value as it stands in a stored JSON file."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def look(path: Path) -> str:
    """Where to find out what to do about a damaged file."""
    owner = next((folder for folder in path.parents if (folder / CONFIG).exists()), None)
    return f"`crypsis check {owner}` says what to do" if owner else "put a sound copy in its place"


def record_inputs(folder: Path, more: Inputs) -> None:
    """Adds inputs that are only known once a part of the work is done; on resume they must be the same.

    Raises:
        UserError: One of them is recorded with other content.
    """
    recorded: Inputs = read_json(folder / INPUTS)
    if difference := input_difference(recorded, more, {}):
        raise UserError(f"{folder}: was made {difference}; use --exists overwrite or another --out")
    rewrite(folder, {INPUTS: json_text({**recorded, **more})})


def finish_folder(
    folder: Path, result: Mapping[str, Any], inputs: Inputs, only: Sequence[str] = ("*",), **more: Any
) -> None:
    """Writes provenance, digests of all files and last the result of what was just computed: the folder is done.

    Args:
        folder: Prepared with the same inputs.
        result: Written last, as ``result.json``.
        inputs: What it was computed from.
        only: Patterns of the entries that get digests; folders with digests of their own count by those.
        more: Further entries of ``provenance.json``.
    """
    write_json(folder / PROVENANCE, provenance(inputs) | more)
    path, data = folder / RESULT, json_text(dict(result)).encode()
    chosen = sorted({file for pattern in only for top in folder.glob(pattern) for file in _files(top)} - {path})
    entries = {entry.file: entry for entry in (describe(folder, file) for file in chosen)}
    entries[RESULT] = Entry(RESULT, len(data), hashlib.sha256(data).hexdigest())
    write_atomic(folder / LEDGER, ledger_text(entries))
    write_atomic(path, data)


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
