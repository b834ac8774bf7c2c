"""Which type matrix products have: measured where the config says ``auto``, and refused where the device lacks it.

The measurement takes a fraction of a second, and is kept in the cache for the machine and the model's shape, so that
all runs of a study agree. A model as narrow as the miniature is computed in float32 everywhere.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import AutoConfig

from crypsis.config import read_yaml
from crypsis.locks import locked
from crypsis.model_config import ModelConfig
from crypsis.pretrained.adapters import adapter_base, is_adapter
from crypsis.pretrained.opening import local_path
from crypsis.store import cache_folder, write_json
from crypsis.types import UserError

DType = Literal["float32", "bfloat16"]
NARROW = 256
"""Models of this width or less gain nothing from bfloat16 on a CPU, and their published numbers are of float32."""
CLEARLY = 1.5
"""bfloat16 is taken where its products are at least this many times as fast."""
ROWS, WIDEST, OPERATIONS = 256, 4096, 2**28
"""Rows and widths of the product that is measured, fewer rows where it would have more multiplications than this."""
TRIALS = 5


@dataclass(frozen=True, slots=True)
class Measured:
    """What one machine does at one shape.

    Attributes:
        dtype: The type to compute in.
        float32_gflops: Rate of products of float32 in 10⁹ operations per second.
        bfloat16_gflops: The same of bfloat16.
    """

    dtype: DType
    float32_gflops: float
    bfloat16_gflops: float

    @property
    def line(self) -> str:
        """For the log of a run."""
        return (
            f"model.dtype=auto: {self.dtype} (products at the model's shape: float32 {self.float32_gflops:.3g} GFLOP/s,"
            f" bfloat16 {self.bfloat16_gflops:.3g})"
        )


def settled(path: str | Path, config: ModelConfig, log: Callable[[str], None] = lambda _: None) -> ModelConfig:
    """The config with a type in place of ``auto``.

    Args:
        path: The checkpoint that it is for.
        config: As the user gave it.
        log: Gets a line if something was measured.
    """
    if config.dtype != "auto":
        return config
    read = _config_of(path)
    measured = suited(read, device_of(config.device)) if read is not None else None
    if measured:
        log(measured.line)
    return config.model_copy(update={"dtype": measured.dtype if measured else "float32"})


def suited(config: Any, device: str) -> Measured | None:
    """The faster type for a model; None where nothing is to be measured, which means float32.

    Args:
        config: That of transformers.
        device: Where the model is computed.
    """
    text = config.get_text_config()
    width = int(text.hidden_size)
    inner = int(getattr(text, "intermediate_size", None) or 4 * width)
    return None if min(width, inner) <= NARROW else fastest(width, inner, device)


def fastest(width: int, inner: int, device: str = "cpu") -> Measured:
    """The faster type for products of ``width`` by ``inner``: as measured before on this machine, or measured now."""
    key = f"{_machine(device)}; torch {torch.__version__}; {torch.get_num_threads()} threads; {width} x {inner}"
    folder = cache_folder() / "precision"
    try:
        with locked(folder, wait=30):
            file = folder / "measured.json"
            known = _read(file)
            if key not in known:
                known[key] = asdict(measure(width, inner, device))
                write_json(file, known)
            return Measured(**known[key])
    except (OSError, UserError, TypeError):  # a cache that cannot be written or read must not stop a run
        return measure(width, inner, device)


def measure(width: int, inner: int, device: str = "cpu") -> Measured:
    """Multiplies matrices in both types, the best of a few trials each."""
    width, inner = min(width, WIDEST), min(inner, WIDEST)
    rows = max(16, min(ROWS, OPERATIONS // (width * inner)))
    full = _seconds(rows, width, inner, torch.float32, device, TRIALS)
    low = _seconds(rows, width, inner, torch.bfloat16, device, 1)
    if low < 4 * full:  # else a first, slow call cannot hide that it is the faster one
        low = min(low, _seconds(rows, width, inner, torch.bfloat16, device, TRIALS))
    rate = 2e-9 * rows * width * inner
    return Measured("bfloat16" if CLEARLY * low <= full else "float32", rate / full, rate / low)


def kept_dtype(file: Path) -> DType | None:
    """The type that a stored config of a run names; None if there is none, or it cannot be read."""
    try:
        dtype = read_yaml(file)["model"]["dtype"]
    except (OSError, UserError, KeyError, TypeError):
        return None
    return cast(DType, dtype) if dtype in ("float32", "bfloat16") else None


def device_of(wanted: str) -> str:
    """The device that a config means.

    Raises:
        UserError: It wants a GPU, and torch can use none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device: no GPU that torch can use; set it to cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def check_dtype(dtype: str, device: str) -> None:
    """Refuses a type that the device does not compute in.

    Raises:
        UserError: It is bfloat16, and the GPU is older than Ampere.
    """
    if dtype == "bfloat16" and device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("model.dtype=bfloat16: this GPU does not compute in bfloat16; set it to float32 or auto")


def native_bfloat16(device: str) -> bool:
    """Whether the hardware has products of bfloat16."""
    if device == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _seconds(rows: int, width: int, inner: int, dtype: torch.dtype, device: str, trials: int) -> float:
    """The shortest of some products after a first one that is not counted, unless it is the only one."""
    x = torch.ones(rows, width, dtype=dtype, device=device)
    weight = torch.ones(inner, width, dtype=dtype, device=device)
    taken = []
    for _ in range(trials + (trials > 1)):
        started = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return max(min(taken[1:] or taken), 1e-9)


def _config_of(path: str | Path) -> Any:
    """The config of a checkpoint, adapter or hub id; None if it cannot be read, which loading it says better."""
    try:
        name = local_path(path)
        while is_adapter(Path(name)):
            name = local_path(adapter_base(Path(name)))
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        int(config.get_text_config().hidden_size)
    except Exception:  # whatever a damaged file makes transformers raise
        return None
    return config


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        return cast(dict[str, dict[str, Any]], dict(json.loads(file.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError):
        return {}


def _machine(device: str) -> str:
    """What tells this machine's processor from others that share the cache."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), os.uname().machine)
    return f"{name} {torch.backends.cpu.get_cpu_capability()}"
