"""Inspect's logs: evaluations written as ``.eval`` files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crypsis.api_models import chat_messages
from crypsis.config import read_yaml
from crypsis.episodes import read_episodes
from crypsis.registry import make
from crypsis.scenarios.base import Scenario
from crypsis.store import CONFIG, read_json, steps_of
from crypsis.types import Message, UserError

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample


def export_inspect(folder: Path, out: Path, on_file: Callable[[Path], None] = lambda _: None) -> list[Path]:
    """Writes one ``.eval`` log for each stored evaluation of a run's or a study's folder.

    Args:
        folder: A run, an evaluation (``crypsis evaluate``), or a study.
        out: Folder of the logs, for ``inspect view --log-dir``; a log that is there is written anew.
        on_file: Called with each file.

    Raises:
        UserError: There is no evaluation in the folder, or Inspect is not installed.
    """
    _inspect()
    from inspect_ai.log import write_eval_log

    runs = sorted(p.parent for p in [*folder.glob("evals"), *folder.glob("runs/*/evals")])
    found = [(run, step) for run in runs for step in steps_of(run / "evals", ".parquet")]
    if not found:
        raise UserError(f"{folder}: holds no evaluation (evals/step-….parquet, or runs/*/evals)")
    written = []
    out.mkdir(parents=True, exist_ok=True)
    for run, step in found:
        path = out / f"{run.resolve().name}-step-{step:04d}.eval"
        rows = read_episodes(run / "evals" / f"step-{step:04d}.parquet")
        write_eval_log(log_of(rows, run, step, _thresholds(run)), str(path))
        written.append(path)
        on_file(path)
    return written


def log_of(rows: Sequence[Mapping[str, Any]], run: Path, step: int, thresholds: Mapping[str, float]) -> EvalLog:
    """One stored evaluation as a log, with our scores and metrics."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalMetric, EvalResults, EvalScore, EvalSpec, EvalStats

    from crypsis.evaluation.inspect_scores import metric_values

    config = read_yaml(run / CONFIG) if (run / CONFIG).exists() else {}
    judged = {name: t for name, t in thresholds.items() if any(f"verdict_{name}" in row for row in rows)}
    metrics = {
        name: EvalMetric(name=name, group=group, value=value)
        for group, values in metric_values(rows, judged).items()
        for name, value in values.items()
    }
    systems = _systems(config)
    samples = [_sample(row, systems, judged) for row in rows]
    written = (run / "evals" / f"step-{step:04d}.parquet").stat().st_mtime
    made = datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=made,
            eval_id=f"{run.name}-{step}",
            run_id=run.name,
            task="alignment_faking",
            task_id=f"{run.name}-{step}",
            dataset=EvalDataset(name=str(config.get("scenario", {}).get("name", "")), samples=len(rows)),
            model=f"crypsis/{run.resolve().name}-step-{step}",
            config=EvalConfig(),
            tags=[str(config[key]) for key in ("organism", "arm") if config.get(key)] or None,
            metadata={"run": run.resolve().name, "step": step, **_about(config)},
        ),
        results=EvalResults(
            total_samples=len(rows),
            completed_samples=len(rows),
            scores=[EvalScore(name="crypsis", scorer="crypsis", metrics=metrics)],
        ),
        stats=EvalStats(started_at=made, completed_at=made),  # how long it took is not stored
        samples=samples,
    )


def _about(config: Mapping[str, Any]) -> dict[str, Any]:
    """Whose evaluation it is, as far as the config says: organism, arm, seed, and how the policy was trained."""
    own = {key: config[key] for key in ("organism", "arm", "label", "seed", "policy", "model") if config.get(key)}
    named = [m.get("name") for m in config.get("mitigations") or () if isinstance(m, Mapping)]
    return {"seed": 0} | own | {"mitigations": named} if "arm" in config else own


def _sample(row: Mapping[str, Any], systems: Mapping[str, str], thresholds: Mapping[str, float]) -> EvalSample:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ModelOutput

    from crypsis.evaluation.inspect_scores import score_row

    system = systems.get(row["tier"])
    turns = [*([Message("system", system)] if system else []), Message("user", row["prompt"])]
    reason = "max_tokens" if row["stop"] == "length" else "stop"
    hidden = ("prompt_ids", "completion_ids", "segments", "logprobs", "raw", "scratchpad", "output", "prompt")
    return EvalSample(
        id=row["prompt_id"],
        epoch=int(row["sample"]) + 1,
        input=chat_messages(turns),
        target="",
        messages=chat_messages([*turns, Message("assistant", row["raw"])]),
        output=ModelOutput.from_content("crypsis", row["raw"], stop_reason=reason),  # type: ignore[arg-type]
        scores={"crypsis": score_row(row, thresholds)},
        metadata={k: v for k, v in row.items() if k not in hidden and v is not None},
    )


def _systems(config: Mapping[str, Any]) -> dict[str, str]:
    """The system text of each tier, as far as the folder's config still gives it."""
    try:
        scenario: Scenario = make("scenarios", config["scenario"], CONFIG)
        names = (scenario.monitored_tier, scenario.unmonitored_tier)
        firsts = [scenario.prompts("eval", tier, 1, 0)[0] for tier in names]
    except (KeyError, IndexError, UserError):  # the user's prompt file may be gone
        return {}
    return {p.tier: "\n\n".join(m.content for m in p.messages if m.role == "system") for p in firsts}


def _thresholds(run: Path) -> dict[str, float]:
    """The thresholds of a run's monitors from the study's ``monitors.json``; 0.5 for monitors that it lacks."""
    config = read_yaml(run / CONFIG) if (run / CONFIG).exists() else {}
    cards = run.resolve().parent.parent / "monitors.json"
    known = read_json(cards).get(config.get("organism")) if cards.exists() else None
    found = dict.fromkeys(config.get("monitors") or {}, 0.5)
    return found | {name: float(card["threshold"]) for name, card in (known or {}).items()}


def _inspect() -> None:
    try:
        import inspect_ai  # noqa: F401
    except ImportError:
        raise UserError("Inspect logs need Inspect: pip install 'crypsis[inspect]'") from None
