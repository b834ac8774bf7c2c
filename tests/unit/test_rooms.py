from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

TORCH_FREE = (
    "crypsis.cli", "crypsis.types", "crypsis.config", "crypsis.registry", "crypsis.store", "crypsis.episodes",
    "crypsis.analysis.report.html", "crypsis.run_config", "crypsis.study.config", "crypsis.miniature.scenario",
    "crypsis.monitors.text", "crypsis.mitigations.process_supervision", "crypsis.scenarios.prompt_file",
    "crypsis.api_models", "crypsis.monitors.prompted", "crypsis.scenarios.requests",
)  # fmt: skip


def test_config_statistics_and_help_do_without_torch() -> None:
    code = f"import sys, {', '.join(TORCH_FREE)}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_is_fast() -> None:
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        shown = subprocess.run([sys.executable, "-m", "crypsis", "--help"], capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - started)
    assert "demo" in shown.stdout
    assert best < 0.5


def test_imports_go_one_way() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    shown = subprocess.run([command], check=False, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout
