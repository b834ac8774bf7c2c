"""The benchmarks run; what they measure is for ``make bench``."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.smoke


def test_a_quick_run_prints_and_writes_every_figure(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "COLUMNS": "120"}
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", check=False, cwd=REPOSITORY, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert list(found["against_trl"]) == ["200", "ragged_200"]
    assert list(found["floor_fraction"]) == ["200"]
    growth = found["growth"]
    figures = [*found["against_trl"].values(), *found["floor_fraction"].values()]
    figures += [*growth["prompt_seconds"].values(), *growth["episodes_seconds"].values()]
    assert all(math.isfinite(x) and x > 0 for x in figures)
    assert found["details"]["200"]["tokens_per_episode"] == {"crypsis": 4, "trl": 4}
    assert {"date", "cpu", "versions", "repetitions"} <= set(found["provenance"])
    assert "ragged_200" in done.stdout


def test_a_quick_run_on_a_made_up_release_tells_what_the_whole_would_take(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.release", "--quick", "--out", str(tmp_path / "release.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", check=False, cwd=REPOSITORY, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "release.json").read_text(encoding="utf-8"))
    assert found["measured"]["decrypt"]["rows"] == found["rows"] == 960
    assert found["measured"]["score"]["rows"] == 960
    assert "the whole (2,138,969 rows), extrapolated" in done.stdout


def test_a_quick_report_of_a_made_up_study_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.report", "--quick", "--out", str(tmp_path / "report.json")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found["runs"] == 3 and found["measured"]["cpu"] > 0 and "report of 3 runs" in done.stdout


def test_the_rehearsal_for_a_gpu_runs_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import gpu

    def here(command: list[str], timeout: float, **_: object) -> subprocess.CompletedProcess[str]:
        name = command[command.index("--only") + 1]
        assert timeout == gpu.PARTS[name][0] and "--rehearse" in command
        capsys.readouterr()
        gpu.main(rehearse=True, only=name)
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out, "")

    assert sum(limit for limit, _ in gpu.PARTS.values()) <= 480
    with monkeypatch.context() as patch:  # in this process: importing torch takes longer than all parts
        patch.setattr(subprocess, "run", here)
        gpu.main(rehearse=True, out=tmp_path / "gpu.json", only="")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["rehearsal"] and all(check["passed"] for check in found["exactness"].values())
    assert set(found["exactness"]) >= {"full_bfloat16", "lora_float32", "full_gradient_distance"}
    for name in ("step_shared", "step_padded"):
        assert found[name]["new_tokens"] == 16 * 8 and found[name]["new_tokens_per_second"] > 0
        assert found[name]["of_peak"] is None and found[name]["operations"]["learning"] > 0
    assert "skipped" in found["vllm"] or found["vllm"]["new_tokens"] == 128
    assert gpu.run_part("vllm", 0, True) == {"error": "took more than 0 seconds"}


def test_a_quick_run_at_real_size_adds_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    from benchmarks import real_size

    monkeypatch.setattr(real_size, "keep_memory", lambda: None)
    out = tmp_path / "results.json"
    out.write_text('{"against_trl": {"200": 3.4}}')
    real_size.main(quick=True, out=out)
    found = json.loads(out.read_text())
    assert found["against_trl"] == {"200": 3.4}
    assert list(found["real_size_quick"]) == ["40", "40_lora"] and min(found["real_size_quick"].values()) > 0
    details = found["real_size_details_quick"]
    name = "bf16" if details["dtype"] == "bfloat16" else "float32"  # never called by another type than it had
    assert set(found[f"floor_fraction_{name}_quick"]) == {"40", "40_lora"}
    assert details["steps"]["40"]["tokens"] == 8 * 4 and list(details["growth"]["seconds_by_words"]) == ["2048", "4096"]
