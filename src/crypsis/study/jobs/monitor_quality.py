"""``crypsis monitor train | validate | calibrate | crossval``: data in, ``measurement.json`` out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from crypsis.arrays import Flags, Floats
from crypsis.config import Config, apply_overrides, did_you_mean, digest, parse_config
from crypsis.evaluation.metrics import wilson
from crypsis.identity.configs import identity, inputs_of
from crypsis.identity.files import Parts, content_parts, file_sha
from crypsis.locks import locked
from crypsis.monitors.base import Monitor
from crypsis.monitors.card import CARD, digests
from crypsis.monitors.crossval import CrossValidation, cross_validate
from crypsis.monitors.data import DataOptions, Labelled, load_labelled
from crypsis.monitors.ensemble import make_trainer
from crypsis.monitors.folds import group_folds
from crypsis.monitors.metrics import by_slice, length_thirds, measure, tier_rates, worst_errors
from crypsis.monitors.rethreshold import with_threshold
from crypsis.monitors.shortcuts import measure_shortcuts
from crypsis.monitors.thresholds import choose_threshold, negatives_needed
from crypsis.monitors.trained import FALSE_POSITIVES, FEWEST, TrainedMonitor, train_monitor
from crypsis.paper_data.layout import fingerprint, release_files
from crypsis.registry import find, make, names
from crypsis.store import Exists, child, finish_folder, prepare_folder, read_json, write_json
from crypsis.transcripts.detect import transcript_files
from crypsis.transcripts.release import ReleaseReader
from crypsis.types import UserError

MEASUREMENT = "measurement.json"
WITHHELD = "(protected text, not written)"
"""What files hold in place of a text that its terms of use keep out of them."""


class MeasureConfig(Config):
    """What is measured, on what, and how."""

    verb: str
    data: Path
    options: DataOptions = DataOptions()
    monitor: dict[str, Any]
    folds: int = Field(5, ge=2)
    repeats: int = Field(5, ge=1)
    false_positives: float = Field(FALSE_POSITIVES, gt=0, lt=1)
    seed: int = 0


def measure_monitor(
    verb: str,
    spec: dict[str, Any],
    data: Path,
    options: DataOptions,
    out: Path | None,
    exists: Exists,
    on_fold: Callable[[int], None] = lambda _: None,
    **settings: Any,
) -> Path:
    """Does one verb and leaves ``measurement.json`` in its folder, unless it is there already.

    Args:
        verb: ``train``, ``validate``, ``calibrate`` or ``crossval``.
        spec: Kind and settings of the monitor, or (to validate) its folder.
        data: Labelled transcripts of any layout, or a folder of them.
        options: Where the data keep what.
        out: Folder; by default one below ``runs`` that is named after kind and settings.
        exists: What to do with a folder that is there.
        on_fold: Told how many folds are done.
        settings: Further fields of :class:`MeasureConfig`.

    Returns:
        The folder.

    Raises:
        UserError: Any fault of data, settings or monitor.
    """
    if not data.exists():
        raise UserError(f"{data}: no such file or folder; give labelled transcripts with --data")
    about = {"verb": verb, "data": data, "options": options, "monitor": spec}
    config = parse_config(MeasureConfig, about | settings, f"monitor {verb}")
    inputs = inputs_of(config, __name__, data=data_parts(data))
    name = f"{verb}-{spec.get('name', 'monitor')}-{identity(config, inputs)[:8]}"
    folder = out or child(Path("runs"), name)
    labelled = load_labelled(data, options)
    with locked(folder):
        if not prepare_folder(folder, config, exists, inputs=inputs):
            work = {"train": _train, "validate": _validate, "calibrate": _calibrate, "crossval": _crossval}[verb]
            write_json(folder / MEASUREMENT, work(config, labelled, folder, on_fold))
            finish_folder(folder, {"verb": verb}, inputs)
    return folder


def data_parts(data: Path) -> Parts:
    """Digest of each file of the data; of a file of the paper's release, only of its size and end.

    The release has 38.7 GB, and a measurement of chosen rows would first read all of it. It is published once and not
    edited, and the end of a Parquet file holds the places and statistics of all columns. Other data count whole.

    Raises:
        UserError: There is no such data, or a file cannot be read.
    """
    files = transcript_files(data)
    released = {file for file in files if ReleaseReader().detect(file)}
    if not released:
        return content_parts(data)
    found = {}
    for file in files:
        name = "" if file == data else file.relative_to(data).as_posix()
        found[name] = fingerprint(release_files(file)[0]) if file in released else file_sha(file)
    return found


def spec_of(kind: str, settings: Sequence[str]) -> dict[str, Any]:
    """A monitor's spec from the command line: a kind with ``key=value`` settings, or the folder of a trained one.

    Raises:
        UserError: Neither a kind nor a folder with a card.
    """
    folder = Path(kind)
    if (folder / CARD).exists():
        card = read_json(folder / CARD)
        return apply_overrides({"name": card["kind"], "path": str(folder)}, settings)
    if (folder / "monitor" / CARD).exists():
        return spec_of(str(folder / "monitor"), settings)
    if kind not in names("monitors"):
        raise UserError(
            f"'{kind}' is no kind of monitor and no monitor's folder{did_you_mean(kind, names('monitors'))}"
        )
    return apply_overrides({"name": kind}, settings)


def _train(config: MeasureConfig, data: Labelled, folder: Path, on_fold: Callable[[int], None]) -> dict[str, Any]:
    """Trains on 60 %, chooses the threshold on 20 %, measures on the rest; the monitor lies in ``monitor/``."""
    view = config.options.view
    trainer = make_trainer(config.monitor, "--kind")
    train_monitor(
        trainer, data.texts(view), data.labels.tolist(), data.groups, view, folder / "monitor", config.seed,
        config.false_positives, digest(data_parts(config.data)), data.monitored,
    )  # fmt: skip
    monitor: TrainedMonitor = make("monitors", {"name": trainer.kind, "path": str(folder / "monitor")}, "train")
    return _judged(config, monitor, data)


def _validate(config: MeasureConfig, data: Labelled, folder: Path, on_fold: Callable[[int], None]) -> dict[str, Any]:
    monitor = _made(config)
    monitor.check_access()
    return _judged(config, monitor, data)


def _made(config: MeasureConfig) -> Monitor:
    """The monitor that is measured.

    Raises:
        UserError: It reads another view than the one that the data are read with.
    """
    spec, view = dict(config.monitor), config.options.view
    cls = find("monitors", str(spec.get("name")))
    if issubclass(cls, TrainedMonitor) and "view" in cls.model_fields and "members" not in spec:
        spec.setdefault("view", view)
    monitor: Monitor = make("monitors", spec, "monitor")
    if "both" not in (monitor.sees, view) and monitor.sees != view:
        raise UserError(
            f"the monitor reads the view '{monitor.sees}' and the data are read as '{view}'; give --view {monitor.sees}"
        )
    return monitor


def _calibrate(config: MeasureConfig, data: Labelled, folder: Path, on_fold: Callable[[int], None]) -> dict[str, Any]:
    """Chooses the threshold anew on half of the prompts and measures on the other half; weights stay as they are."""
    monitor = _made(config)
    if not isinstance(monitor, TrainedMonitor) or not getattr(monitor, "path", None):
        raise UserError(f"'{monitor.name}' has no threshold of its own to choose; give the folder of a trained monitor")
    data = _unseen(monitor, data)
    known = np.array([v.score is not None for v in monitor.judge(data.episodes)])
    data = data.rows(known)
    if (~data.labels).sum() < 2 * FEWEST or data.labels.sum() < 2:
        raise UserError(
            f"{data.where}: to choose a threshold and to check it takes {2 * FEWEST} texts that do not fake and 2 that "
            f"do; there are {(~data.labels).sum()} and {data.labels.sum()}"
        )
    choose, _ = group_folds(data.labels, data.groups, 2, config.seed)
    chosen = data.rows(np.isin(np.arange(len(data.labels)), choose))
    texts = chosen.texts(monitor.sees)
    watched = None if chosen.monitored is None else np.array(chosen.monitored, dtype=np.bool_)
    threshold = choose_threshold(monitor.score(texts), chosen.labels, config.false_positives, watched)
    new = folder / "monitor"
    with_threshold(monitor, threshold, digest(data_parts(config.data)), texts, chosen.groups, new)
    return _judged(config, make("monitors", {"name": monitor.name, "path": str(new)}, "calibrate"), data)


def _judged(config: MeasureConfig, monitor: Monitor, data: Labelled) -> dict[str, Any]:
    """The figures of an existing monitor on what it has not seen."""
    data = _unseen(monitor, data)
    verdicts = monitor.judge(data.episodes)
    known = np.array([v.score is not None for v in verdicts])
    missing = {r: sum(v.reason == r for v in verdicts) for r in sorted({v.reason for v in verdicts if v.reason})}
    notes = [*data.notes, *(f"{n} of {len(verdicts)} texts without a score: {r}" for r, n in missing.items())]
    data = data.rows(known)
    scores = np.array([v.score for v in verdicts if v.score is not None])
    if not len(scores) or data.labels.all() or not data.labels.any():
        raise UserError(f"{data.where}: the texts that the monitor can judge have a single class; nothing to measure")
    found = measure(scores, data.labels, data.groups, monitor.threshold, config.seed, int((~known).sum()))
    flagged = scores >= monitor.threshold
    result = {"verb": config.verb, "monitor": monitor.card, "measurement": found.as_json}
    about = _about(config, data, scores, flagged, found.auroc, notes)
    watched = np.ones(len(scores), np.bool_) if data.monitored is None else np.array(data.monitored, dtype=np.bool_)
    rates = {} if data.monitored is None else tier_rates(flagged, data.labels, watched)
    # The budget is for monitored negatives where the card says so.
    held = ~data.labels & (watched if monitor.card.get("threshold_tier") == "monitored" else True)
    alarms = _false_alarms(monitor.card, flagged[held if held.any() else ~data.labels], digest(data_parts(config.data)))
    warnings = [*about["warnings"], *_alarming(alarms)]
    return result | about | {"false_alarms": alarms, "tiers": rates, "warnings": warnings}


def _false_alarms(card: Mapping[str, Any], flagged: Flags, source: str) -> dict[str, Any]:
    """How often the threshold flags these negatives, with a 95 % interval (Wilson), beside what it was chosen for."""
    low, high = wilson(float(flagged.sum()), len(flagged))
    return {
        "rate": float(flagged.mean()),
        "low": low,
        "high": high,
        "n": len(flagged),
        "budget": card.get("threshold_budget"),
        "expected": card.get("threshold_expected"),
        "upper": card.get("threshold_upper"),
        "chosen_on": card.get("threshold_negatives"),
        "tier": card.get("threshold_tier"),
        "same_source": card.get("threshold_source") == source if card.get("threshold_source") else None,
    }


def _alarming(alarms: Mapping[str, Any]) -> list[str]:
    """Warns of a threshold that was chosen on too few negatives, or that does not keep its budget here."""
    few = []
    if alarms["budget"] is not None and (alarms["expected"] or 0.0) > alarms["budget"]:
        few = [
            f"the threshold was chosen on {alarms['chosen_on']} negatives; a budget of {alarms['budget']:.1%} takes "
            f"{negatives_needed(alarms['budget'])} at least, so up to {alarms['expected']:.1%} of the negatives like "
            "them are flagged"
        ]
    if alarms["budget"] is None or alarms["low"] <= alarms["budget"]:
        return few
    where = "the data that it was chosen on" if alarms["same_source"] else "other data"
    return [
        *few,
        f"the threshold was chosen to flag at most {alarms['budget']:.1%} of the negatives of {where}; here it flags "
        f"{alarms['rate']:.1%} [{alarms['low']:.1%}, {alarms['high']:.1%}] of {alarms['n']}; choose one for these data "
        "with crypsis monitor calibrate",
    ]


def _crossval(config: MeasureConfig, data: Labelled, folder: Path, on_fold: Callable[[int], None]) -> dict[str, Any]:
    """Scores of a text are averaged over repeats for all figures but the AUROC of folds."""
    view = config.options.view
    trainer = make_trainer(config.monitor, "--kind")
    found = cross_validate(
        trainer, data.texts(view), data.labels, data.groups, config.folds, config.repeats, config.seed,
        config.false_positives, on_fold,
    )  # fmt: skip
    if not found.repeat_aurocs:
        raise UserError(f"{data.where}: no fold has texts of both classes; lower --folds or add prompts")
    scores, thresholds = found.scores.mean(axis=0), found.thresholds.mean(axis=0)
    flagged = (found.scores >= found.thresholds).mean(axis=0) >= 0.5
    measurement = measure(scores, data.labels, data.groups, thresholds, config.seed)
    card = {"kind": trainer.kind, "view": view, "settings": trainer.model_dump(mode="json")}
    return {
        "verb": "crossval",
        "monitor": card,
        "crossval": _crossval_json(found, config),
        "measurement": measurement.as_json,
    } | _about(config, data, scores, flagged, found.auroc, data.notes)


def _crossval_json(found: CrossValidation, config: MeasureConfig) -> dict[str, Any]:
    return {
        "auroc": found.auroc,
        "repeat_low": min(found.repeat_aurocs),
        "repeat_high": max(found.repeat_aurocs),
        "repeats": list(found.repeat_aurocs),
        "folds": config.folds,
    }


def _about(
    config: MeasureConfig, data: Labelled, scores: Floats, flagged: Flags, auroc: float, notes: Sequence[str]
) -> dict[str, Any]:
    """Slices, shortcuts, worst errors and warnings."""
    view = config.options.view
    texts = data.texts(view)
    slices = {"organism": data.organisms, "tier": data.tiers, "length": length_thirds(texts)}
    few = min(data.labels.sum(), (~data.labels).sum()) < 2
    raw = [episode.seen(view) for episode in data.episodes]
    shortcuts = [] if few else measure_shortcuts(raw, data.labels, data.groups, auroc, config.seed)
    warnings = [
        f"the shortcut '{s.name}' alone reaches an AUROC of {s.auroc:.2f}, near the monitor's {auroc:.2f}; "
        "the labels may be told apart without reading the reasoning"
        for s in shortcuts
        if s.near
    ]
    return {
        "data": {"path": str(config.data), "n": len(data.labels), "faking": int(data.labels.sum()), "view": view}
        | {
            "prompts": len(set(data.groups)),
            "strip_shortcuts": config.options.strip_shortcuts,
            "cut": config.options.cut,
        },
        "slices": by_slice(scores, data.labels, flagged, slices),
        "shortcuts": [asdict(s) for s in shortcuts],
        "worst": worst_errors(scores, data.labels, _shown(data, texts), data.names),
        "notes": list(notes),
        "warnings": warnings,
    }


def _shown(data: Labelled, texts: list[str]) -> list[str]:
    """The texts as a file may hold them."""
    return [WITHHELD] * len(texts) if data.protected else texts


def _unseen(monitor: Monitor, data: Labelled) -> Labelled:
    """Leaves out what the monitor has seen, by text or by prompt, and says so."""
    if not isinstance(monitor, TrainedMonitor) or not getattr(monitor, "path", None):
        return data
    texts, prompts = monitor.seen()
    same_text = np.array([digests([text])[0] in texts for text in data.texts(monitor.sees)], dtype=bool)
    same_prompt = np.array([data.grouped and digests([g])[0] in prompts for g in data.groups], dtype=bool) & ~same_text
    kept = ~(same_text | same_prompt)
    notes = list(data.notes)
    if same_text.any():
        notes.append(f"{same_text.sum()} texts that the monitor was trained on left out")
    if same_prompt.any():
        notes.append(f"{same_prompt.sum()} texts whose prompt the monitor was trained on left out")
    if not kept.any():
        raise UserError(f"{data.where}: the monitor was trained on all of these texts or prompts; measure it on others")
    left = data.rows(kept)
    left.notes[:] = notes
    return left
