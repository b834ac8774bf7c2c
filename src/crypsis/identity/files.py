"""Digests of what files and folders hold. Names of folders and dates do not count."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from crypsis.config import digest
from crypsis.store import cache_folder, write_atomic
from crypsis.types import UserError

Parts = Mapping[str, str]
"""Digest by file, relative to the folder; a single file is called ``""``."""
ADAPTER = "adapter_config.json"
BIG = 1 << 20
"""Bytes from which a digest is remembered: smaller files are read each time."""
SETTLED = 2.0
"""Seconds that a file must have been left alone before its digest is remembered: file systems date coarsely, so an
edit right after reading could leave the date as it was."""


def content_digest(path: str | Path) -> str:
    """Digest of what a file, a folder or a model of the hub holds; see :func:`content_parts`."""
    return digest(content_parts(path))


def content_parts(path: str | Path, hub: Literal["model", "dataset"] = "model") -> Parts:
    """Digest of each file that belongs to a file or folder.

    Every file of a folder counts, whatever its format: weights (sharded or not), tokenizer, chat template, card of a
    monitor. Left out are hidden files, Markdown, and the ``checkpoint-…`` folders of a trainer. The base that an
    adapter names counts too, as ``base/…``.

    Args:
        path: A file, a folder, or the id of a repository of the Hugging Face hub.
        hub: Kind of that repository.

    Returns:
        By file; for a hub id its name and, where the local cache has one, its revision.

    Raises:
        UserError: A file cannot be read.
    """
    return _parts(Path(path), str(path), hub, frozenset())


def _parts(path: Path, name: str, hub: Literal["model", "dataset"], above: frozenset[Path]) -> Parts:
    try:
        if path.is_file():
            return {"": file_sha(path)}
        if not path.is_dir():
            return {"hub": name, "revision": _revision(name, hub)}
        parts = {file.relative_to(path).as_posix(): file_sha(file) for file in _files(path)}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from None
    base = _base(path)
    if base and path.resolve() not in above:
        found = _parts(Path(base), base, hub, above | {path.resolve()})
        parts |= {f"base/{file}".rstrip("/"): value for file, value in found.items()}
    return parts


def _files(folder: Path) -> list[Path]:
    """The files of a folder that count, sorted."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if not f.startswith((".", "checkpoint-")) and f != "__pycache__"]
        found += [Path(place) / n for n in names if not n.startswith(".") and not n.lower().endswith(".md")]
    return sorted(found)


def _base(folder: Path) -> str:
    """What an adapter folder names as its base; empty for other folders."""
    try:
        settings = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        return str(settings.get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def _revision(name: str, kind: Literal["model", "dataset"]) -> str:
    """The commit of a hub repository in the local cache; empty if there is none."""
    try:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        owner_and_name = name.partition(":")[0] if kind == "dataset" else name
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=owner_and_name, repo_type=kind)
        return (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def file_sha(path: Path) -> str:
    """SHA-256 of a file's bytes; that of a big file is remembered as long as the file is left alone.

    What is remembered is found by path, device, inode, size and both dates. A file that was changed within ``SETTLED``
    seconds before it is read is not remembered.

    Raises:
        OSError: The file cannot be read.
    """
    before = path.stat()
    if before.st_size < BIG:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    memory = cache_folder() / "digests" / digest([str(path.resolve()), *_state(before)])
    with contextlib.suppress(OSError):
        return memory.read_text(encoding="ascii").strip()
    begun = time.time()
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    settled = begun - max(before.st_mtime, before.st_ctime) > SETTLED
    if settled and _state(path.stat()) == _state(before):
        with contextlib.suppress(UserError):  # a cache that cannot be written only costs time
            write_atomic(memory, found)
    return found


def _state(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
