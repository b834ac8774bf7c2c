"""``crypsis monitor follow``: a study's stored evaluations, judged by monitors that none of its runs had."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crypsis.config import Config
from crypsis.episodes import VERDICT, episode_of, read_episodes
from crypsis.identity.configs import inputs_of
from crypsis.identity.files import file_sha
from crypsis.locks import locked
from crypsis.monitors.base import Monitor, TrainsAgain, WatchesPolicy
from crypsis.monitors.card import digests
from crypsis.monitors.trained import TrainedMonitor
from crypsis.registry import make
from crypsis.store import Exists, finish_folder, prepare_folder, write_atomic, write_json
from crypsis.study.jobs.monitor_quality import spec_of
from crypsis.types import Episode, UserError, visible

FOLLOWED, VERDICTS = "monitors.json", "verdicts"
"""Cards of the monitors that followed; and the folder with a file of scores for each run."""


class FollowConfig(Config):
    """Which study is followed by which monitors."""

    study: Path
    monitors: dict[str, dict[str, Any]]


def named_specs(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Specs by name from ``NAME=MONITOR`` or ``MONITOR``: a trained monitor's folder, or an untrained kind.

    Raises:
        UserError: Something is neither, or two have one name.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in given:
        name, place = text.split("=", 1) if "=" in text else (Path(text).name, text)
        if not name.isidentifier():
            raise UserError(f"'{visible(name)}' is no name for a monitor (letters, digits and _); give NAME={place}")
        if name in found:
            raise UserError(f"two monitors are called '{name}'; give one of them another name: NAME={place}")
        found[name] = spec_of(place, [])
    return found


Evaluations = Mapping[str, Mapping[int, Path]]
"""Files of stored evaluations, by the run's name and step."""


def follow_study(
    evaluations: Evaluations, config: FollowConfig, out: Path, exists: Exists, on_run: Callable[[int], None]
) -> Path:
    """Judges every stored evaluation and keeps the scores in ``verdicts/RUN.parquet``; goes on where it stopped.

    Args:
        evaluations: Of the study's finished runs.
        config: Study and monitors.
        out: Folder.
        exists: What to do with a folder that is there.
        on_run: Told how many runs are done.

    Returns:
        The folder, which ``crypsis.analysis.monitors.follow`` reads.

    Raises:
        UserError: A monitor cannot follow a stored study, has a name that the study uses, or was trained on one of the
            requests.
    """
    monitors = {name: _opened(name, spec) for name, spec in config.monitors.items()}
    files = {f"{run}/{step}": file_sha(file) for run, steps in evaluations.items() for step, file in steps.items()}
    inputs = inputs_of(config, __name__, study=files)
    with locked(out):
        if prepare_folder(out, config, exists, inputs=inputs):
            return out
        repeated = dict.fromkeys(monitors, 0)
        for number, (run, steps) in enumerate(evaluations.items(), 1):
            rows = {step: read_episodes(file) for step, file in steps.items()}
            _refuse_names(monitors, rows, run)
            episodes = {step: [episode_of(row) for row in found] for step, found in rows.items()}
            _refuse_seen(monitors, episodes, run)
            for name, monitor in monitors.items():
                repeated[name] += _word_for_word(monitor, episodes)
            path = verdicts_path(out, run)
            if not path.exists():  # written at once or not at all
                _write_verdicts(path, episodes, monitors)
            on_run(number)
        cards = {name: monitor.card | {"word_for_word": repeated[name]} for name, monitor in monitors.items()}
        write_json(out / FOLLOWED, cards)
        finish_folder(out, {"verb": "follow"}, inputs)
    return out


def verdicts_path(folder: Path, run: str) -> Path:
    """Where the scores of a run's evaluations are kept."""
    return folder / VERDICTS / f"{run}.parquet"


def _opened(name: str, spec: dict[str, Any]) -> Monitor:
    monitor: Monitor = make("monitors", spec, f"monitor follow, {name}")
    if isinstance(monitor, WatchesPolicy | TrainsAgain):
        raise UserError(
            f"{name}: a monitor of kind '{monitor.name}' reads or follows the policy while it is trained; stored texts "
            "are not enough. Name it in a study's panel instead"
        )
    monitor.check_access()
    return monitor


def _refuse_names(monitors: Mapping[str, Monitor], rows: Mapping[int, Sequence[Mapping[str, Any]]], run: str) -> None:
    used = {column for found in rows.values() for row in found for column in row}
    for name in monitors:
        if VERDICT + name in used:
            raise UserError(f"{run} has a monitor called '{name}' already; give yours another name: NAME=FOLDER")


def _seen(monitor: Monitor) -> tuple[frozenset[str], frozenset[str]]:
    """Digests of the texts and prompts that it was trained on; none of one that was not trained."""
    if isinstance(monitor, TrainedMonitor) and getattr(monitor, "path", None):
        return monitor.seen()
    return frozenset(), frozenset()


def _refuse_seen(monitors: Mapping[str, Monitor], episodes: Mapping[int, Sequence[Episode]], run: str) -> None:
    prompts = set(digests([e.prompt.pair_id for found in episodes.values() for e in found]))
    for name, monitor in monitors.items():
        known = prompts & _seen(monitor)[1]
        if known:
            raise UserError(
                f"{name}: was trained on {len(known)} of the {len(prompts)} requests that {run} was evaluated on; "
                "follow with one that was not"
            )


def _word_for_word(monitor: Monitor, episodes: Mapping[int, Sequence[Episode]]) -> int:
    """How many of the texts the monitor was trained on word for word: small models recite."""
    known = _seen(monitor)[0]
    texts = [e.seen(monitor.sees).strip() for found in episodes.values() for e in found]
    return sum(digests([text])[0] in known for text in texts if text)


def _write_verdicts(path: Path, episodes: Mapping[int, Sequence[Episode]], monitors: Mapping[str, Monitor]) -> None:
    table: dict[str, pa.Array] = {"step": pa.array([step for step, found in episodes.items() for _ in found])}
    for name, monitor in monitors.items():
        scores = [verdict.score for found in episodes.values() for verdict in monitor.judge(found)]
        table[VERDICT + name] = pa.array(scores, pa.float64())
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())
