"""A trained monitor with another threshold: the weights stay as they are."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from crypsis.digests import record
from crypsis.monitors.card import CARD, SEEN, digests
from crypsis.monitors.thresholds import Threshold
from crypsis.monitors.trained import TrainedMonitor
from crypsis.store import new_folder, write_json


def with_threshold(
    monitor: TrainedMonitor,
    threshold: Threshold,
    source: str,
    texts: Sequence[str],
    groups: Sequence[str],
    folder: Path,
) -> None:
    """Saves a trained monitor with a threshold chosen on other data; the weights stay as they are.

    Args:
        monitor: The monitor.
        threshold: The new one.
        source: Digest of the data that it was chosen on.
        texts: The texts that it was chosen on, [N]; from now on they count as seen.
        groups: Their prompts, [N].
        folder: Written atomically.
    """
    known_texts, known_prompts = monitor.seen()
    card = monitor.card | threshold.as_card | {"threshold_source": source}
    with new_folder(folder) as target:
        shutil.copytree(monitor.path, target, dirs_exist_ok=True)
        seen = {"texts": sorted(known_texts | {*digests(texts)}), "prompts": sorted(known_prompts | {*digests(groups)})}
        write_json(target / SEEN, seen)
        write_json(target / CARD, card)
        record(target, target / SEEN, target / CARD)
