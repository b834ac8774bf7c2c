from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crypsis.paper_data.fetch import FetchPlan, RemoteFile, fetch
from crypsis.paper_data.layout import DATASET
from crypsis.types import UserError
from tests.hub_server import Hub, hub_server

pytestmark = pytest.mark.unit

ROOT = "encrypted_transcripts"
FILES = {
    f"{ROOT}/TGG-Baseline.parquet": bytes(24 << 20),  # parts of 10 MB that were complete are not fetched again
    f"{ROOT}/TGG-Baseline_2.parquet": b"b" * 2000,
    f"{ROOT}/TGG-Simple_Interrogation.parquet": b"c" * 1000,
    f"{ROOT}/long_context/Counterfactual_TGG-Baseline.parquet": b"d" * 1000,
    "README.md": b"card",
}


def run(hub: Hub, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "crypsis", "data", "fetch", "alignment-faking-rl", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)


def test_only_what_was_asked_for_and_a_broken_connection_is_taken_up(tmp_path: Path) -> None:
    with hub_server(DATASET, FILES) as hub:
        hub.cut.add(f"{ROOT}/TGG-Baseline.parquet")
        done = run(hub, "--organism", "TGG", "--intervention", "baseline", "--out", str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert "2 files, 25.2 MB; 0 are there already" in done.stdout
        assert "free on the disk" in done.stdout
        found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.parquet"))
        assert found == [f"{ROOT}/TGG-Baseline.parquet", f"{ROOT}/TGG-Baseline_2.parquet"]
        assert all((tmp_path / name).read_bytes() == FILES[name] for name in found)
        parts = [part for name, part in hub.downloads() if name.endswith("TGG-Baseline.parquet")]
        assert len(parts) == 2
        assert parts[1] == f"bytes={10 << 20}-"
        # the same command after a file was lost: the others are not fetched again
        (tmp_path / found[1]).unlink()
        hub.asked.clear()
        again = run(hub, "--organism", "TGG", "--intervention", "Baseline", "--out", str(tmp_path))
        assert again.returncode == 0, again.stderr
        assert [name for name, _ in hub.downloads()] == [found[1]]


def test_what_does_not_fit_and_a_dry_run(tmp_path: Path) -> None:
    with hub_server(DATASET, FILES) as hub:
        none = run(hub, "--organism", "GTT", "--out", str(tmp_path / "x"))
        assert none.returncode == 2
        assert "no file fits; there are Counterfactual_TGG-Baseline, TGG-Baseline" in none.stderr
        dry = run(hub, "--dry-run", "--out", str(tmp_path / "x"))
        assert dry.returncode == 0
        assert "to fetch: 4 files" in dry.stdout
        assert not hub.downloads()
        assert not (tmp_path / "x").exists()


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    files = (RemoteFile("a.parquet", 38_680_000_000),)
    plan = FetchPlan(DATASET, files, files, 10**9)
    assert plan.lines()[1] == "to fetch: 1 files, 38.68 GB; free on the disk: 1.00 GB"
    with pytest.raises(UserError, match=r"38.68 GB are to be fetched and 1.00 GB are free"):
        fetch(plan, tmp_path)
