"""The notebooks run from top to bottom, cell by cell, as they stand."""

from __future__ import annotations

import json
import os
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import crypsis
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.smoke

EXAMPLES = REPOSITORY / "examples"


def run_notebook(path: Path) -> tuple[dict[str, Any], str]:
    """Runs the code cells of a notebook in order, in the current folder.

    Returns:
        What the cells defined, and what they printed.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = StringIO()
    with redirect_stdout(printed):
        for number, cell in enumerate(notebook["cells"]):
            if cell["cell_type"] == "code":
                assert not cell["outputs"], "committed without outputs"
                exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
    return names, printed.getvalue()


def test_monitors_on_your_own_transcripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names, printed = run_notebook(EXAMPLES / "your_transcripts.ipynb")
    assert names["card"]["auroc"] == 1.0 and "AUROC 1.000" in printed and "true_positives" in printed
    assert (tmp_path / "runs" / "my_monitor" / "measurement.json").exists()


def test_the_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nano_organism: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "CRYPSIS_SCALE", "nano")
    monkeypatch.setitem(vars(crypsis), "build_organism", lambda *_, **__: nano_organism)
    names, printed = run_notebook(EXAMPLES / "tour.ipynb")
    assert len(names["transcripts"]) == 4 and printed.count("thinks:") == 4
    assert set(names["transcripts"][0].verdicts) == {"oracle", "lexicon"}
    assert names["found"].metrics["compliance_monitored"].n == 8 and "gap: " in printed
    assert len(names["figure"].axes[0].lines) == 4, "two monitors, two tiers"
