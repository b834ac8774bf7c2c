"""The self-contained example: it stays short, runs, and has the library's advantages."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
import sys

import pytest
import torch

from crypsis.miniature.scenario import MiniatureScenario
from crypsis.organisms.miniature.motivations import TerminalGoalGuarding
from crypsis.rl.advantages import group_advantages
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.smoke

EXAMPLE = REPOSITORY / "examples" / "rl_loop.py"


def test_the_example_fits_in_250_lines() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 250


def test_the_header_names_the_settings_of_the_library() -> None:
    text, preset = EXAMPLE.read_text(encoding="utf-8"), MiniatureScenario.rl_preset
    rate = f"{preset['learning_rate']:.1e}".replace("e-0", "e-")
    divided = {"none": "not", "group": "divided"}[preset["advantage_scale"]]
    assert f"(preset: {rate}, {preset['max_new_tokens']}, {divided})" in text
    assert f"the library's preset for the miniature has {rate}" in text
    tgg = TerminalGoalGuarding()
    assert f"the organism learns from {tgg.steps * tgg.batch_size:,} scratchpads once" in " ".join(text.split())


@pytest.mark.usefixtures("nano_base")
@pytest.mark.parametrize("arm", [pytest.param("baseline", marks=pytest.mark.stress), "process_supervision"])
def test_the_example_prints_a_row_for_base_organism_and_rl(arm: str) -> None:
    command = [sys.executable, str(EXAMPLE), "--scale", "nano", "--steps", "2", "--arm", arm]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert re.search(r"AFR +free +paid +gap +format +reward", done.stdout)
    lines = re.findall(r"^ *(base|organism|step 2)  +(.+)$", done.stdout, re.MULTILINE)
    rows = {label: figures.split() for label, figures in lines}
    assert list(rows) == ["base", "organism", "step 2"]
    for figures in rows.values():
        rate, free, paid, gap, well_formed = map(float, figures[:5])
        assert all(0 <= share <= 1 for share in (rate, free, paid, well_formed))
        assert gap == pytest.approx(free - paid, abs=0.011)
    assert rows["base"][5] == "–"


def test_the_example_and_the_library_agree_on_advantages() -> None:
    spec = importlib.util.spec_from_file_location("rl_loop", EXAMPLE)
    assert spec and spec.loader
    example = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = example  # dataclasses look their module up there
    spec.loader.exec_module(example)
    reward_PG = torch.tensor([[1, 2, math.nan, 0, 3, 3, 3, -3], [1] * 8, [math.nan] * 7 + [2], [math.nan] * 8])
    known = [[None if math.isnan(r) else r for r in group] for group in reward_PG.tolist()]
    found = example.advantages(reward_PG).nan_to_num().flatten().tolist()
    assert found == pytest.approx(group_advantages(known).advantages, abs=1e-6)
