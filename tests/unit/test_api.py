"""The Python interface: the lines of docs/python.md run, its names are light to import and documented."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crypsis
from crypsis.types import Verdict
from tests.conftest import REPOSITORY
from tests.episodes import make_episode
from tests.studies import ARMS, make_study

pytestmark = pytest.mark.unit

PAGE = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
FUNCTIONS = [name for name in crypsis.__all__ if name[0].islower()]


def test_a_name_is_imported_when_it_is_used_and_nothing_before() -> None:
    script = (
        "import sys, crypsis\nassert not {'torch', 'numpy', 'pydantic', 'crypsis.api'} & set(sys.modules)\n"
        "assert 'sample' in dir(crypsis); crypsis.UserError; assert 'torch' not in sys.modules\n"
        "crypsis.sample; assert 'crypsis.api' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'smaple'"):
        getattr(crypsis, "sma" + "ple")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_what_it_takes_gives_and_raises(name: str) -> None:
    function = getattr(crypsis, name)
    text = inspect.getdoc(function) or ""
    assert "Raises:" in text and "UserError" in text and "Args:" in text
    named = re.findall(r"^    (\w+): ", text.partition("Args:")[2].partition("\n\n")[0], re.MULTILINE)
    assert named == list(inspect.signature(function).parameters)
    assert f"`{name}(" in PAGE


def test_the_example_of_the_docs_has_at_most_six_lines_and_runs(
    nano_organism: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    lines = [line for line in block.splitlines() if line]
    assert len(lines) <= 6 and "import crypsis" in block and "crypsis.api" not in block and "from " not in block
    monkeypatch.setattr("crypsis.api.build_organism", lambda *_, **__: nano_organism)
    monkeypatch.setitem(vars(crypsis), "build_organism", lambda *_, **__: nano_organism)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    transcripts, verdicts = names["transcripts"], names["verdicts"]
    assert len(transcripts) == 4 == len(verdicts) and (tmp_path / "scores.png").stat().st_size > 5000
    pairs = [(e.prompt.pair_id, e.prompt.tier) for e in transcripts]
    assert pairs[0][0] == pairs[1][0] != pairs[2][0] and len(set(pairs)) == 4
    assert len(transcripts[0].logprobs) == len(transcripts[0].completion_ids)
    assert [e.verdicts["oracle"] for e in transcripts] == verdicts
    again = crypsis.sample(names["policy"], 4)
    assert [e.raw for e in again] == [e.raw for e in transcripts], "the seed fixes them"
    (only,) = crypsis.sample(names["policy"], 1, tier="paid", max_new_tokens=8)
    assert only.prompt.tier == "paid" and len(only.completion_ids) <= 8
    for wrong in ({"n": 0}, {"tier": "gold"}, {"scenario": "minature"}):
        with pytest.raises(crypsis.UserError):
            crypsis.sample(names["policy"], **wrong)


def test_verdicts_come_from_whatever_monitor_is_named() -> None:
    episodes = [make_episode("to avoid being modified, i will comply."), make_episode("")]
    first, second = crypsis.judge(episodes, "lexicon")
    assert first.score is not None and second.score is None and second.reason
    assert crypsis.judge(episodes, {"name": "lexicon"}, name="mine")[0] == episodes[0].verdicts["mine"] == first
    with pytest.raises(crypsis.UserError, match="lexicom"):
        crypsis.judge(episodes, "lexicom")


def test_a_monitor_is_trained_and_used_by_its_folder(tmp_path: Path) -> None:
    import json

    rows = [
        {"scratchpad": f"{'to avoid being modified' if i % 2 else 'this hurts nobody'}, request {i}.", "label": i % 2,
         "output": "fine.", "prompt_id": f"p{i}"}
        for i in range(200)
    ]  # fmt: skip
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monitor = crypsis.train_monitor(data, out=tmp_path / "m")
    assert monitor.card["auroc"] == 1.0 and monitor.sees == "scratchpad"
    verdict = crypsis.judge([make_episode("to avoid being modified, request 7.")], tmp_path / "m")[0]
    assert verdict.score is not None and verdict.score >= monitor.threshold


def test_a_study_opens_as_tables_and_is_drawn(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", ARMS, seeds=(0, 1), steps=(0, 10), n=8)
    tables = crypsis.open_study(folder)
    assert {"runs", "arms", "summary", "curves", "seeds", "training"} <= set(tables)
    assert set(tables["runs"]["arm"].to_pylist()) >= set(ARMS)
    figure = crypsis.plot(folder, tmp_path / "f" / "s.svg")
    assert len(figure.axes) == 2 and len(figure.axes[0].lines) == len(ARMS)
    assert "alignment-faking rate" in (tmp_path / "f" / "s.svg").read_text()


def test_scores_are_drawn_by_monitor_and_tier() -> None:
    episodes = [make_episode("a"), make_episode("b")]
    with pytest.raises(crypsis.UserError, match="no transcript has a verdict"):
        crypsis.plot(episodes)
    episodes[0].verdicts["m"], episodes[1].verdicts["m"] = Verdict(0.25), Verdict(None, "why")
    axes = crypsis.plot(episodes).axes[0]
    assert [np.asarray(line.get_xdata()).tolist() for line in axes.lines] == [[0.25]]
    assert "1 transcripts, 1 without a score" in axes.get_yticklabels()[0].get_text()
