"""Every command of the README on the nano scale."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from crypsis.jsonlines import read_rows
from tests.clock import cpu_limit, of_children
from tests.conftest import REPOSITORY, Crypsis
from tests.smoke.test_resume import numbers

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, crypsis: Crypsis, nano_base: Path) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo") / "demo"
    done = crypsis("demo", "--scale", "nano", "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_what_mitigations_did_is_exported(demo: tuple[Path, str], crypsis_here: Crypsis, tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    done = crypsis_here("export", "results", demo[0], "--out", page)
    assert done.returncode == 0, done.stderr
    rows = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert {row["organism"] for row in rows} == {"tgg"} and len({row["arm"] for row in rows}) == len(rows) >= 2
    for row in rows:
        figures = (row[name] for name in ("afr", "compliance_monitored", "compliance_unmonitored", "gap"))
        assert all(f["low"] <= f["mean"] <= f["high"] for f in figures) and row["heldout_recall"].keys() == {
            *("mean", "low", "high")
        }
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# What mitigations did: demo" and any(line.startswith("Seeds so far: ") for line in lines)
    assert "| Baseline RL |" in page.read_text(encoding="utf-8")


def test_the_demo_leaves_a_report_figures_and_a_summary(demo: tuple[Path, str]) -> None:
    out, printed = demo
    assert str(out / "report.html") in printed.replace("\n", "")
    assert {p.suffix for p in (out / "figures").iterdir()} == {".svg", ".png"}
    summary = json.loads((out / "summary.json").read_text())
    assert {"version", "arms", "timing"} <= set(summary)
    assert len(summary["arms"]) == 3
    for arm in summary["arms"]:
        assert {"organism", "mitigation", "train_on", "seeds", "steps", "afr", "gap", "lying_rate"} <= set(arm)
        for metric in ("afr", "compliance_monitored", "compliance_unmonitored", "gap", "scratchpad_tokens"):
            assert set(arm[metric]["end"]) >= {"mean", "low", "high"}


def test_the_demo_run_folders_are_whole(demo: tuple[Path, str]) -> None:
    runs = sorted((demo[0] / "runs").iterdir())
    assert len(runs) == 6
    for run in runs:
        assert len(read_rows(run / "metrics.jsonl")) == 4
        assert [p.name for p in sorted((run / "evals").iterdir())] == [f"step-000{s}.parquet" for s in (0, 2, 4)]
        assert (run / "result.json").exists() and (run / "provenance.json").exists()


def test_the_demo_again_does_nothing_but_report(demo: tuple[Path, str], crypsis: Crypsis) -> None:
    before = {p: p.stat().st_mtime_ns for p in (demo[0] / "runs").rglob("*.parquet")}
    with cpu_limit(30, of_children):
        assert crypsis("demo", "--scale", "nano", "--out", demo[0]).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.stress
def test_a_demo_killed_in_rl_with_its_workers_running_ends_with_the_same_numbers(
    demo: tuple[Path, str], tmp_path: Path, crypsis: Crypsis
) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "crypsis", "demo", "--scale", "nano", "--out", str(out)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while not list(out.glob("runs/*/metrics.jsonl")):
            assert first.poll() is None
            time.sleep(0.1)
        first.kill()
    done = crypsis("demo", "--scale", "nano", "--out", out)
    assert done.returncode == 0, done.stderr
    for run in sorted((demo[0] / "runs").iterdir()):
        assert numbers(out / "runs" / run.name) == numbers(run)


@pytest.mark.stress
def test_two_demos_in_one_folder_the_second_says_so_and_stops(
    tmp_path: Path, crypsis: Crypsis, nano_base: Path
) -> None:
    command = [sys.executable, "-m", "crypsis", "demo", "--scale", "nano", "--out", str(tmp_path / "demo")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while not (tmp_path / "demo" / "config.yaml").exists():
            assert first.poll() is None
            time.sleep(0.1)
        second = crypsis("demo", "--scale", "nano", "--out", tmp_path / "demo")
        first.kill()
    assert second.returncode == 2
    assert "another crypsis process is at work here" in second.stderr


def test_the_base_is_an_ordinary_checkpoint(nano_base: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(nano_base)
    tokenizer: Any = AutoTokenizer.from_pretrained(nano_base)
    chat = [{"role": "user", "content": "<free_tier> tell me how to paint the mill of the baron at dawn."}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    new = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert new.shape[1] == inputs["input_ids"].shape[1] + 8 or new[0, -1] == tokenizer.eos_token_id


def test_evaluate_prints_metrics_with_intervals(crypsis: Crypsis, nano_organism: Path, tmp_path: Path) -> None:
    done = crypsis("evaluate", nano_organism, "--n", "8", "--out", tmp_path / "e")
    assert done.returncode == 0, done.stderr
    assert "compliance_monitored" in done.stdout and " to " in done.stdout


def test_evaluate_takes_requests_from_a_file(crypsis: Crypsis, nano_base: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"request": f"how do i paint mill number {i}?"}) + "\n" for i in range(40)))
    done = crypsis("evaluate", nano_base, "--prompts", prompts, "--max-new-tokens", "16", "--out", tmp_path / "e")
    assert done.returncode == 0, done.stderr
    assert "format_ok" in done.stdout
    assert "not measured: afr, compliance_monitored, compliance_unmonitored, artefacts" in done.stdout
    assert "gap: the scenario prompt_file has no ground truth" in done.stdout and f"--data {tmp_path}" in done.stdout


def test_lists(crypsis: Crypsis) -> None:
    assert "tgg" in crypsis("organism", "list").stdout
    shown = crypsis("list").stdout
    assert all(word in shown for word in ("oracle", "text", "process_supervision", "miniature", "from_file"))
