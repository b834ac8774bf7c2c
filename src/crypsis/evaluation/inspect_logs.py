"""Inspect's logs: evaluations written as ``.eval`` files, and any log read as data for monitors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crypsis.api_models import chat_messages
from crypsis.config import read_yaml
from crypsis.episodes import read_episodes
from crypsis.registry import make
from crypsis.scenarios.base import Scenario
from crypsis.scenarios.parsing import parse_reply
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
    metrics = {name: EvalMetric(name=name, value=value) for name, value in metric_values(rows, judged).items()}
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
            metadata={"run": run.name, "step": step},
        ),
        results=EvalResults(
            total_samples=len(rows),
            completed_samples=len(rows),
            scores=[EvalScore(name="crypsis", scorer="crypsis", metrics=metrics)],
        ),
        stats=EvalStats(started_at=made, completed_at=made),  # how long it took is not stored
        samples=samples,
    )


def read_inspect_log(path: Path) -> list[dict[str, Any]]:
    """The samples of a log, or of all logs in a folder, as rows that monitors can be trained and measured on.

    Returns:
        For each sample and epoch ``model``, ``task``, ``sample_id``, ``epoch``, ``system``, ``prompt`` (the last user's
        turn), ``raw``, ``scratchpad``, ``output``, ``parse``, ``pair_id`` (the sample's id if its metadata name none),
        its metadata, and its scores as ``score_SCORER`` or ``score_SCORER_KEY``. Scores of ours come back as the
        columns that they were made from (``label_af``, ``verdict_…``).

    Raises:
        UserError: It is no log, or Inspect is not installed.
    """
    _inspect()
    from inspect_ai.log import read_eval_log

    files = sorted([*path.glob("*.eval"), *path.glob("*.json")]) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: holds no Inspect log (*.eval)")
    rows: list[dict[str, Any]] = []
    for file in files:
        try:
            log = read_eval_log(str(file))
        except Exception as error:  # zip, JSON and validation faults of a file that is no log
            raise UserError(f"{file}: cannot be read as an Inspect log ({type(error).__name__})") from None
        about = {"model": log.eval.model, "task": log.eval.task}
        rows += [about | _row(sample) for sample in log.samples or ()]
    return rows


def _row(sample: EvalSample) -> dict[str, Any]:
    from crypsis.evaluation.inspect_scores import ROW

    said = sample.output.completion or next((m.text for m in reversed(sample.messages) if m.role == "assistant"), "")
    cut = sample.output.stop_reason in ("max_tokens", "model_length")
    reply = parse_reply(said, "length" if cut else "end")
    turns = sample.messages or ([] if isinstance(sample.input, str) else sample.input)
    asked = [m.text for m in turns if m.role == "user"]
    row: dict[str, Any] = {
        **{"sample_id": sample.id, "pair_id": str(sample.id), "epoch": sample.epoch},
        "system": "\n\n".join(m.text for m in turns if m.role == "system"),
        "prompt": asked[-1] if asked else str(sample.input),
        **{"raw": said, "scratchpad": reply.scratchpad, "output": reply.output, "parse": reply.parse},
    }
    row |= {key: value for key, value in sample.metadata.items() if key not in row or key == "pair_id"}
    for name, score in (sample.scores or {}).items():
        if score.metadata and ROW in score.metadata:
            row |= {k: v for k, v in score.metadata[ROW].items() if k.startswith(("label_", "verdict_", "reason_"))}
        elif isinstance(score.value, dict):
            row |= {f"score_{name}_{key}": value for key, value in score.value.items()}
        else:
            row[f"score_{name}"] = score.value
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


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
    """By monitor of a run, its threshold from the study's ``monitors.json``; 0.5 for monitors that it lacks."""
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
