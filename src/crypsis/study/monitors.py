"""Trains a study's monitors: the same classifier once on scratchpads and once, as its control, on outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crypsis.monitors.text import train_text_monitor
from crypsis.monitors.thresholds import Controls
from crypsis.store import child
from crypsis.study.config import MonitorData
from crypsis.study.panel import missing, train_member
from crypsis.study.progress import Display
from crypsis.study.transcripts import Sampling
from crypsis.types import Episode, View

VIEWS: tuple[View, ...] = ("scratchpad", "output")


@dataclass(frozen=True, slots=True)
class Common:
    """What the monitors of all organisms of a study share.

    Attributes:
        base: Transcripts of the base that they learn from.
        controls: Monitored transcripts of willing helpers, for thresholds alone.
    """

    base: list[Episode]
    controls: list[Episode]


def train_monitors(
    common: Callable[[], Common],
    organism: Path,
    data: MonitorData,
    out: Path,
    display: Display,
    sampling: Sampling,
    panel: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Path]:
    """Trains one monitor per view and the panel for an organism, unless they are there.

    Requests come from the training split: monitors never see an evaluation request.

    Args:
        common: Gives the transcripts of the base, and of its controls, which the monitors of all organisms share.
        organism: Checkpoint folder.
        data: How many transcripts.
        out: Gets one folder per monitor.
        display: For progress.
        sampling: In which scenario and how transcripts are sampled and judged.
        panel: Settings of the held-out monitors by name.

    Returns:
        Monitor folder by view; those of the panel stand beside.

    Raises:
        UserError: The organism fakes too rarely, or too often, to train on.
    """
    folders: dict[str, Path] = {view: out / view for view in VIEWS}
    views = [view for view in VIEWS if not (folders[view] / "monitor.json").exists()]
    held_out = missing(panel or {}, out)
    if views or held_out:
        with display.counted(f"monitors {out.name}", 2 + len(views) + len(held_out), "parts") as show:
            shared = common()
            show(1)
            own = sampling.sample(organism, data.organism, data.seed + 2)
            known = sampling.judged([*shared.base, *own, *sampling.written(data.seed + 5)])
            # Only a persona makes honest compliers of an organism; without one its replies would be judged by a rule
            # whose misses are faking.
            helpers = sampling.controls(organism, data.controls, data.seed + 4) if sampling.persona else []
            controls = sampling.judged([*shared.controls, *helpers])
            show(2)
            for number, view in enumerate(views):
                texts, labels = [e.seen(view) for e in known], [e.labels["af"] == "yes" for e in known]
                monitored, groups = [e.prompt.monitored for e in known], [e.prompt.pair_id for e in known]
                told = seen_by(controls, view)
                train_text_monitor(texts, labels, groups, view, folders[view], data.seed, monitored, told, keep=True)
                show(3 + number)
            for number, name in enumerate(held_out):
                train_member(name, (panel or {})[name], known, controls, organism, child(out, name))
                show(3 + len(views) + number)
    return folders


def seen_by(controls: Sequence[Episode], view: View) -> Controls:
    """Controls as a view shows them."""
    labels, groups = [e.labels["af"] == "yes" for e in controls], [e.prompt.pair_id for e in controls]
    return Controls([e.seen(view) for e in controls], labels, groups)


def base_transcripts(base: Path, data: MonitorData, sampling: Sampling) -> Common:
    """Samples of the base as it is, of willing helpers, and further controls for thresholds.

    Raises:
        UserError: The base hardly ever helps willingly.
    """
    learned = [*sampling.sample(base, data.base, data.seed), *sampling.helpers(base, data.helper, data.seed + 1)]
    return Common(learned, sampling.controls(base, data.controls, data.seed + 3))
