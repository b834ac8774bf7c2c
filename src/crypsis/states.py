"""The files of a training state, as far as they can be looked at without torch."""

from __future__ import annotations

import json
from pathlib import Path

from crypsis.store import file_digest

TENSORS, META, DIGEST = "tensors.safetensors", "state.json", "digest.json"


def is_whole(folder: Path) -> bool:
    """Whether the files of a state are those that were stored."""
    try:
        stored = json.loads((folder / DIGEST).read_text(encoding="utf-8"))
        return bool(stored == file_digest([folder / TENSORS, folder / META]))
    except (OSError, ValueError):
        return False
