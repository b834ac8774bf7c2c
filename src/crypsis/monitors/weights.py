"""Arrays of a monitor on disk: one safetensors file, nothing unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from crypsis.arrays import Floats

FILE = "model.safetensors"


def write_weights(folder: Path, weights: Mapping[str, Floats]) -> None:
    """Writes arrays by name."""
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, folder / FILE)


def read_weights(folder: Path) -> dict[str, Floats]:
    """Reads what :func:`write_weights` wrote."""
    weights: dict[str, Floats] = load_file(folder / FILE)
    return weights
