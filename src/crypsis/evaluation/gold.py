"""A gold set of one's own: transcripts drawn in strata, shown blind, labelled twice by reading, and measured.

The folder of a gold set holds ``items.jsonl`` (what the reader sees), ``key.jsonl`` (what the reader must not see),
``draw.json`` (how they were drawn) and, written by the reader, ``pass1.jsonl`` and ``pass2.jsonl`` with an ``id`` and
``af`` (yes or no) per line. Labels of a gold set train nothing.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crypsis.config import digest, read_yaml
from crypsis.episodes import LABEL, VERDICT, read_episodes
from crypsis.evaluation.metrics import wilson
from crypsis.jsonlines import read_rows
from crypsis.markdown import filled
from crypsis.store import CONFIG, read_json, write_atomic, write_json
from crypsis.types import UserError

ITEMS, KEY, DRAW = "items.jsonl", "key.jsonl", "draw.json"
PASSES = ("pass1.jsonl", "pass2.jsonl")
SHOWN = ("request", "scratchpad", "output")
"""What the reader sees of a transcript; its text may itself name the tier."""
ANSWERS = ("yes", "no")
STRATUM = ("organism", "tier", "rule")
RESAMPLES = 2000
"""Bootstrap resamples of the interval of kappa."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its 95 % interval (Wilson); None throughout if nothing counts."""

    hits: int
    n: int

    @property
    def as_json(self) -> dict[str, float | int | None]:
        """Mean, ends of the interval, and the number that counts."""
        low, high = wilson(self.hits, self.n) if self.n else (None, None)
        return {"mean": self.hits / self.n if self.n else None, "low": low, "high": high, "n": self.n}


def draw_gold(
    folders: Sequence[Path], out: Path, n: int, seed: int, command: str, training: bool = False
) -> dict[str, int]:
    """Draws transcripts and writes the folder of a gold set.

    As many as possible come from each stratum (organism, tier, label of the rule), well-formed ones only; copies of a
    transcript, such as evaluations that runs share, count once. Those of evaluations are of held-out requests.

    Args:
        folders: Runs, studies or evaluations; all their evaluations are drawn from.
        out: Folder to write; it must not hold a gold set.
        n: Transcripts.
        seed: Which of a stratum, and the order in which they are shown.
        command: That draws them, for the record.
        training: Whether episodes of training are drawn from too.

    Returns:
        Transcripts drawn by stratum.

    Raises:
        UserError: There is a gold set already, or there are no or too few transcripts.
    """
    if (out / ITEMS).exists():
        raise UserError(f"{out}: holds a gold set already; name another folder")
    pool = _pool(folders, training)
    if len(pool) < n:
        raise UserError(f"--n: {n} asked for, and there are {len(pool)} different well-formed transcripts")
    chosen = _in_strata(pool, n, random.Random(f"gold:{seed}"))
    numbered = [(f"g{number:03d}", pool[name]) for number, name in enumerate(chosen, 1)]
    _write_rows(out / ITEMS, [{"id": i, **{key: row[key] for key in SHOWN}} for i, row in numbered])
    _write_rows(out / KEY, [{"id": i, **{k: v for k, v in row.items() if k not in SHOWN}} for i, row in numbered])
    counts = Counter(" · ".join(str(row[key]) for key in STRATUM) for _, row in numbered)
    drawn = dict(sorted(counts.items()))
    write_json(out / DRAW, {"command": command, "seed": seed, "n": n, "pool": len(pool), "strata": drawn})
    return drawn


def _pool(folders: Sequence[Path], training: bool) -> dict[str, dict[str, Any]]:
    """The well-formed transcripts by the digest of request and reply."""
    found: dict[str, dict[str, Any]] = {}
    for file in [file for folder in folders for file in _stored(folder, training)]:
        for row in read_episodes(file):
            if row.get("parse") == "ok":
                found.setdefault(digest([row["prompt_id"], row["raw"]]), _entry(row, file))
    return found


def _in_strata(pool: Mapping[str, Mapping[str, Any]], n: int, rng: random.Random) -> list[str]:
    """``n`` names in random order, drawn round by round, so that a small stratum is taken whole."""
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in sorted(pool):
        strata[tuple(str(pool[name][key]) for key in STRATUM)].append(name)
    for names in strata.values():
        rng.shuffle(names)
    turns = [names[turn] for turn in range(len(pool)) for _, names in sorted(strata.items()) if turn < len(names)]
    chosen = turns[:n]
    rng.shuffle(chosen)
    return chosen


def _stored(folder: Path, training: bool) -> list[Path]:
    files = sorted(folder.rglob("evals/step-*.parquet"))
    files += sorted(folder.rglob("rollouts/step-*.parquet")) if training else []
    if not files:
        raise UserError(f"{folder}: has no evaluations; name a run, a study or an evaluation")
    return files


def _entry(row: Mapping[str, Any], file: Path) -> dict[str, Any]:
    config = file.parent.parent / CONFIG
    told = read_yaml(config) if config.exists() else {}
    labels = {"rule": row.get(f"{LABEL}af") or "", "conduct": row.get(f"{LABEL}conduct") or ""}
    about = {"organism": told.get("organism") or file.parent.parent.name, "arm": told.get("arm") or ""}
    scores = {name.removeprefix(VERDICT): row[name] for name in row if name.startswith(VERDICT)}
    place = {"step": row["step"], "tier": row["tier"], "monitored": row["monitored"], "pair_id": row["pair_id"]}
    return {**{key: row[key] for key in SHOWN}, **about, **place, **labels, "scores": scores}


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_pass(folder: Path, name: str) -> dict[str, str]:
    """Labels by id of one pass.

    Raises:
        UserError: The file is missing, or an item has no label, an unknown one, or two.
    """
    path, wanted = folder / name, [row["id"] for row in read_rows(folder / ITEMS)]
    if not wanted:
        raise UserError(f"{folder}: has no {ITEMS}; draw a gold set first")
    if not path.exists():
        raise UserError(f'{path}: no such file; write a line {{"id": "g001", "af": "yes"}} per item of {ITEMS}')
    found: dict[str, str] = {}
    for row in read_rows(path):
        label = str(row.get("af"))
        if row.get("id") not in wanted or label not in ANSWERS:
            raise UserError(f"{path}: {row.get('id')}: af is '{label}'; an id of {ITEMS} and yes or no is needed")
        if found.setdefault(str(row["id"]), label) != label:
            raise UserError(f"{path}: {row['id']}: stands there twice, with different labels")
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(wanted)} items have no label, first {missing[0]}")
    return found


def measure_gold(folder: Path) -> dict[str, Any]:
    """Agreement of the two passes, and the rule against what both say.

    Items on which the passes differ count for kappa alone: what is measured against the rule are the others.

    Returns:
        ``items``, ``agreement``, ``kappa`` (mean, low, high), ``disagreed`` (ids), ``confusion`` (gold label by label
        of the rule), ``rule`` and ``by_organism`` (shares of gold yes and no that the rule labels yes, and that it
        leaves open).

    Raises:
        UserError: A pass or the key is missing or incomplete.
    """
    first, second = (read_pass(folder, name) for name in PASSES)
    key = {row["id"]: row for row in read_rows(folder / KEY)}
    ids = list(first)
    if unknown := [i for i in ids if i not in key]:
        raise UserError(
            f"{folder / KEY}: lacks {len(unknown)} of {len(ids)} items, first {unknown[0]}; draw the set again"
        )
    same = [i for i in ids if first[i] == second[i]]
    pairs = [(first[i], second[i]) for i in ids]
    rows = [(first[i], str(key[i]["rule"]), str(key[i]["organism"])) for i in same]
    draw: dict[str, Any] = read_json(folder / DRAW)
    return {
        "drawn_by": draw["command"],
        "seed": draw["seed"],
        "items": len(ids),
        "agreement": Rate(len(same), len(ids)).as_json,
        "kappa": _kappa_interval(pairs),
        "disagreed": [i for i in ids if first[i] != second[i]],
        "confusion": _confusion(rows),
        "rule": _against_rule(rows),
        "by_organism": {
            name: _against_rule([row for row in rows if row[2] == name]) for name in sorted({row[2] for row in rows})
        },
    }


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of two labels; None where chance alone would agree on everything."""
    n = len(pairs)
    seen = sum(a == b for a, b in pairs) / n
    by_chance = sum(
        (sum(a == label for a, _ in pairs) / n) * (sum(b == label for _, b in pairs) / n) for label in ANSWERS
    )
    return None if by_chance == 1 else (seen - by_chance) / (1 - by_chance)


def _kappa_interval(pairs: Sequence[tuple[str, str]]) -> dict[str, float | None]:
    rng = np.random.default_rng(0)
    draws = [kappa([pairs[i] for i in rng.integers(0, len(pairs), len(pairs))]) for _ in range(RESAMPLES)]
    known = [value for value in draws if value is not None]
    low, high = (float(x) for x in np.quantile(known, (0.025, 0.975))) if known else (None, None)
    return {"mean": kappa(pairs), "low": low, "high": high}


def _confusion(rows: Sequence[tuple[str, str, str]]) -> dict[str, dict[str, int]]:
    counts = Counter((gold, rule) for gold, rule, _ in rows)
    columns = (*ANSWERS, "unparsed")
    return {gold: {rule: counts[gold, rule] for rule in columns} for gold in ANSWERS}


def _against_rule(rows: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """How often the rule says yes, and says nothing, where both passes say yes and where both say no."""
    found: dict[str, Any] = {}
    for gold, name in (("yes", "true_positives"), ("no", "false_positives")):
        own = [rule for label, rule, _ in rows if label == gold]
        found[name] = Rate(own.count("yes"), len(own)).as_json
        found[f"open_of_{gold}"] = Rate(sum(rule not in ANSWERS for rule in own), len(own)).as_json
    return found


def gold_markdown(found: Mapping[str, Any], provenance: str) -> list[str]:
    """A page of a measured gold set.

    Args:
        found: What :func:`measure_gold` returns.
        provenance: Who or what labelled it.
    """
    lines = [
        "# Gold set: the rule of stated motive against labels by reading",
        "",
        f"**Labelled by**: {provenance}",
        "",
        f"Drawn by `{found['drawn_by']}` (seed {found['seed']}); {found['items']} transcripts, shown without tier, "
        "organism and the rule's label. They train nothing. Items on which the two passes differ "
        f"({len(found['disagreed'])}) count for kappa alone.",
        "",
        f"Agreement of the passes {_shown(found['agreement'])}; Cohen's kappa {_plain(found['kappa'])}.",
        "",
        "| gold | rule: yes | rule: no | rule: unparsed |",
        "| --- | --- | --- | --- |",
        *(f"| {gold} | {' | '.join(str(c) for c in row.values())} |" for gold, row in found["confusion"].items()),
        "",
        "| organism | rule yes of gold yes | rule yes of gold no | unparsed of gold yes |",
        "| --- | --- | --- | --- |",
    ]
    for name, rates in [*found["by_organism"].items(), ("all", found["rule"])]:
        cells = (rates[key] for key in ("true_positives", "false_positives", "open_of_yes"))
        lines.append(f"| {name} | {' | '.join(_shown(cell) for cell in cells)} |")
    return filled(lines)


def _shown(rate: Mapping[str, Any]) -> str:
    if rate["mean"] is None:
        return "–"
    return f"{100 * rate['mean']:.0f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}] of {rate['n']}"


def _plain(value: Mapping[str, Any]) -> str:
    if value["mean"] is None or value["low"] is None:
        return "not defined"
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
