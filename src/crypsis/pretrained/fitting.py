"""Whether a checkpoint fits into memory, said before it is loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from crypsis.pretrained.adapters import adapter_base, is_adapter
from crypsis.pretrained.opening import local_path
from crypsis.types import UserError

TRAINED_BYTES = 16
"""Per parameter that is trained: float32 weight and gradient, and two moments of AdamW."""
GIGABYTE = 1e9


def check_fits(path: str | Path, bytes_each: int, device: str, what: str, advice: str) -> None:
    """Refuses a checkpoint that cannot fit, whatever else a command needs.

    Args:
        path: A checkpoint or adapter folder; of a hub id nothing is known before it is loaded.
        bytes_each: Bytes per parameter that will be held.
        device: Where.
        what: What they hold, for the message.
        advice: What to do.

    Raises:
        UserError: It needs more memory than is free.
    """
    parameters, free = _parameters(path), free_memory(torch.device(device))
    if free is not None and parameters * bytes_each > free:
        raise UserError(
            f"{path}: does not fit into memory: {parameters / 1e9:.3g} billion parameters need "
            f"{parameters * bytes_each / GIGABYTE:.3g} GB ({what}), and {free / GIGABYTE:.3g} GB are free; {advice}"
        )


def free_memory(device: torch.device) -> float | None:
    """Free bytes of a device, with those of swap on a CPU; None where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return float(found["MemAvailable"] + found.get("SwapFree", 0)) if "MemAvailable" in found else None


def _parameters(path: str | Path) -> int:
    """Parameters of a checkpoint by the headers of its files; 0 where they cannot be read, which loading it says."""
    try:
        folder = Path(local_path(path))
        while is_adapter(folder):
            folder = Path(local_path(adapter_base(folder)))
        count = 0
        for file in folder.glob("model*.safetensors"):
            with safe_open(file, "pt") as weights:
                shapes = [weights.get_slice(key).get_shape() for key in weights.keys()]  # noqa: SIM118  # no mapping
            count += sum(int(torch.Size(shape).numel()) for shape in shapes)
    except (OSError, UserError, SafetensorError):
        return 0
    return count
