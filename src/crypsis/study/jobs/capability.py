"""``crypsis capability``: perplexity and calm advice of models, or of a study's organisms before and after RL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from rich.table import Table

from crypsis.config import Config, digest, read_yaml
from crypsis.evaluation.capability import measure_advice, measure_language
from crypsis.identity.code import code_parts
from crypsis.identity.files import content_digest
from crypsis.model_config import ModelConfig
from crypsis.models import load_frozen
from crypsis.parallel import release_memory
from crypsis.store import CONFIG, RESULT, read_json, write_json
from crypsis.types import UserError, visible

SHARES = ("format_ok", "answered", "principled")


class CapabilityConfig(Config):
    """How capability is measured."""

    n: int = Field(85, ge=2, le=170)
    """Held-out dilemmas; from 86 on they come back with their options exchanged."""
    max_new_tokens: int = Field(160, ge=8)
    """Token budget of a reply."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"


def capability_models(paths: Sequence[Path]) -> dict[str, Path]:
    """Checkpoints by label: each path itself, and of runs and studies the policy before RL and after it.

    Raises:
        UserError: There is no such folder, or a study has no finished run.
    """
    found: dict[str, Path] = {}
    for path in paths:
        runs = sorted(file.parent for file in path.glob(f"runs/*/{RESULT}"))
        if not runs and (path / "model").is_dir() and (path / "evals").is_dir():
            runs = [path]
        if not runs and (path / "runs").is_dir():
            raise UserError(f"{path}: has no finished run to measure")
        if not runs:
            found[path.name if str(path.name) not in found else str(path)] = path
        for run in runs:
            config = read_yaml(run / CONFIG)
            before = Path(str(config["policy"]))
            place = before if before.is_absolute() or before.exists() else path / before
            found.setdefault(f"{config.get('organism') or before.name}, before RL", place)
            found[str(config["name"])] = run / "model"
    return found


def measure_capability(
    models: dict[str, Path], config: CapabilityConfig, out: Path, show: Callable[[int], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Measures models into a JSON file; those that it has already, with the same weights and settings, are not redone.

    Args:
        models: Checkpoint by label.
        config: How.
        out: The file.
        show: Called with the number of models done.

    Raises:
        UserError: A model cannot be loaded.
    """
    known = {row["key"]: row for row in (read_json(out) if out.exists() else [])}
    code = digest(code_parts("crypsis.evaluation.capability"))
    rows: list[dict[str, Any]] = []
    for number, (label, path) in enumerate(models.items(), 1):
        key = digest([content_digest(path), config.model_dump(mode="json"), code])
        if key not in known:
            known[key] = {"key": key, **_measure(path, config)}
            release_memory()
        rows.append({**known[key], "model": label})
        write_json(out, rows)
        show(number)
    return rows


def _measure(path: Path, config: CapabilityConfig) -> dict[str, Any]:
    policy = load_frozen(path, ModelConfig(dtype=config.dtype, device=config.device))
    language = asdict(measure_language(policy))
    passages = list(language.pop("passages"))
    return {**language, "passages": passages, **measure_advice(policy, config.n, config.max_new_tokens).as_json}


def capability_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The figures of each model."""
    heads = ("perplexity", "bits per\ncharacter", "well formed", "names one\noption", "of these\nprincipled")
    table = Table("model", *heads, title="Without pressure")
    for row in rows:
        shares = [_shown(row[name]) for name in SHARES]
        table.add_row(visible(row["model"]), f"{row['perplexity']:.1f}", f"{row['bits_per_character']:.3f}", *shares)
    return table


def _shown(share: dict[str, Any]) -> str:
    if share["mean"] is None:
        return "–"
    return f"{100 * share['mean']:.0f} % [{100 * share['low']:.0f}, {100 * share['high']:.0f}]"
