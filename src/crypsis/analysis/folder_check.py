"""``crypsis check``: every stored file of a folder against its digest, and what to do about those that differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from crypsis.analysis.study import evaluation_table
from crypsis.config import read_yaml
from crypsis.digests import LEDGER, DamagedError, damages, read_ledger, start_anew
from crypsis.jsonlines import read_steps
from crypsis.monitors.card import CARD as MONITOR_CARD
from crypsis.monitors.card import weights_digest
from crypsis.rl.resume import made_again
from crypsis.states import DIGEST, META, TENSORS, is_whole
from crypsis.store import CONFIG, METRICS, RESULT, read_json
from crypsis.types import UserError


@dataclass(frozen=True, slots=True)
class Finding:
    """A file that is damaged or lost.

    Attributes:
        path: The file, or the folder of a checkpoint or monitor.
        what: What is wrong with it.
        advice: What to do.
    """

    path: Path
    what: str
    advice: str


@dataclass(frozen=True, slots=True)
class Check:
    """What ``check_folder`` found.

    Attributes:
        files: How many files were compared with a digest.
        findings: Those that differ.
        notes: What could not be compared, a line each.
    """

    files: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def check_folder(folder: Path) -> Check:
    """Reads everything below a folder that crypsis has stored: runs, studies, organisms, bases, monitors.

    Raises:
        UserError: There is no such folder, or nothing in it that crypsis has stored.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    parts = [*map(_state, _states(folder)), *_monitors(folder)]
    listed = [_listed(ledger, folder) for ledger in _found(folder, LEDGER)]
    old = [path.parent for path in _found(folder, CONFIG) if not (path.parent / LEDGER).exists()]
    findings = [finding for _, found in (*listed, *parts) for finding in found]
    findings += [finding for one in old for finding in _unlisted(one)]
    files = sum(count for count, _ in (*listed, *parts))
    if not files and not old and not findings:
        raise UserError(f"{folder}: holds nothing that crypsis has stored")
    notes = [f"{one}: has no digests (an earlier version made it); only what can be read was checked" for one in old]
    return Check(files, tuple({f.path: f for f in reversed(findings)}.values())[::-1], tuple(notes))


def _listed(ledger: Path, top: Path) -> tuple[int, list[Finding]]:
    """Number of files that a ledger lists, and those that differ from it."""
    folder = ledger.parent
    try:
        bad = damages(folder, deep=True, nested=False)
        return len(read_ledger(folder) or {}), [
            Finding(folder / d.file, d.what, _advice(folder, d.file, top)) for d in bad
        ]
    except DamagedError:
        return 1, [Finding(ledger, "is damaged", _advice(folder, LEDGER, top))]


def _states(folder: Path) -> list[Path]:
    return sorted(
        {p.parent for n in (DIGEST, META, TENSORS) for p in _found(folder, n) if p.parent.name[:5] == "step-"}
    )


def _state(state: Path) -> tuple[int, list[Finding]]:
    bad = Finding(state, "is no whole checkpoint", f"delete the folder {state}, which is needed to go on from only")
    return 2, [] if is_whole(state) else [bad]


def check_table(check: Check) -> Table:
    """The findings, a row each."""
    table = Table("file", "damage", "what to do", pad_edge=False)
    for finding in check.findings:
        table.add_row(*(Text(str(cell), overflow="fold") for cell in (finding.path, finding.what, finding.advice)))
    return table


def _found(folder: Path, name: str) -> list[Path]:
    return sorted(path for path in folder.rglob(name) if not any(p.name.endswith(".tmp") for p in path.parents))


def _owner(place: Path, top: Path) -> Path:
    """The folder of a command's result that a place belongs to: the innermost one with a config."""
    outer = [p for p in (place, *place.parents) if p == top or top in p.parents]
    return next((p for p in outer if (p / CONFIG).exists()), place)


def _inside(path: Path, owner: Path) -> str:
    return path.relative_to(owner).as_posix()


def _advice(folder: Path, file: str, top: Path) -> str:
    """What to do about a file that the ledger of a folder lists."""
    owner = _owner(folder, top)
    file = _inside(folder / file, owner)
    room, *parts = file.split("/")
    if (owner / "runs").is_dir():  # a study
        if room == "monitors" and len(parts) > 1:
            return f"delete the folder {owner.joinpath(room, *parts[:2])} and run the same command again"
        if room == "start":
            return f"delete the folder {folder}; it is needed while runs of the study are missing only"
        return (
            f"delete it and run the same command again, which writes it again; if that is refused, {start_anew(owner)}"
        )
    if (folder / MONITOR_CARD).exists() or file.endswith(MONITOR_CARD):
        return f"delete the folder {folder} and train it again with the same command"
    if (owner / METRICS).exists() and made_again(owner, file):
        return f"run the same command again, which makes it again; if that is refused, {start_anew(owner)}"
    return start_anew(owner)


def _unlisted(folder: Path) -> list[Finding]:
    """What is wrong with a folder without digests, as far as reading it shows."""
    try:
        config = read_yaml(folder / CONFIG)
        rl: Any = config.get("rl")
        steps = int(rl["steps"]) if isinstance(rl, dict) and "steps" in rl else None
        if steps is not None and (folder / METRICS).exists():
            read_steps(folder / METRICS, steps if (folder / RESULT).exists() else None)
        for file in sorted(folder.glob("evals/*.parquet")):
            evaluation_table(file)
        if (folder / RESULT).exists():
            read_json(folder / RESULT)
    except (UserError, ValueError) as error:
        return [Finding(folder, str(error), start_anew(folder))]
    return []


def _monitors(folder: Path) -> list[tuple[int, list[Finding]]]:
    """Trained monitors that have no ledger of their own."""
    cards = [card.parent for card in _found(folder, MONITOR_CARD)]
    return [(1, _monitor(card)) for card in cards if not (card / LEDGER).exists()]


def _monitor(folder: Path) -> list[Finding]:
    """A trained monitor's weights against its card; probes and old ones have no more."""
    advice = f"delete the folder {folder} and train it again with the same command"
    try:
        card = read_json(folder / MONITOR_CARD)
        if card.get("kind") != "probe" and weights_digest(folder) != card["digest"]:
            return [Finding(folder, "its files are not those of its card", advice)]
    except (UserError, AttributeError, KeyError, TypeError) as error:
        return [Finding(folder / MONITOR_CARD, f"cannot be read ({error})", advice)]
    return []
