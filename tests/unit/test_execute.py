"""The runs of a grid under any executor: retried, given up, gone on with; and the state of a study's folder."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from rich.console import Console

from crypsis.cli.studies import study_status
from crypsis.config import dump_yaml, parse_config
from crypsis.jsonlines import append_row
from crypsis.locks import locked
from crypsis.run_config import RLConfig, RunConfig
from crypsis.store import FAILED, prepare_folder, read_json, write_atomic, write_json
from crypsis.study.config import StudyConfig, load_study_config, widen
from crypsis.study.execute import run_all
from crypsis.study.executors.base import Ended, Executor, Failure, Job
from crypsis.study.progress import Display
from crypsis.study.status import duration, read_status
from crypsis.types import UserError

pytestmark = pytest.mark.unit

RUNS = [RunConfig(name=name, policy=Path("none"), organism="tgg", rl=RLConfig(steps=2)) for name in ("a", "b", "c")]


class Scripted(Executor):
    """Ends every job at once; a run fails as often as it is told to, then leaves its result."""

    faults: dict[str, int] = {}

    @contextmanager
    def pool(self, folder: Path, workers: int) -> Iterator[ScriptedPool]:
        yield ScriptedPool(self.faults, folder)


class ScriptedPool:
    def __init__(self, faults: dict[str, int], folder: Path) -> None:
        self._left, self._folder = dict(faults), folder
        self._over: list[Ended] = []

    def submit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            name = job.config.name
            append_row(self._folder / "asked.jsonl", {"name": name})
            self._left[name] = self._left.get(name, 0) - 1
            if self._left[name] < 0:
                write_json(job.folder / "result.json", {})
            self._over.append((job, None if self._left[name] < 0 else Failure(f"fault {self._left[name]}", "trace")))

    def ended(self, wait: float) -> list[Ended]:
        over, self._over = self._over, []
        return over


def go(folder: Path, retries: int = 1, **faults: int) -> tuple[dict[str, str], list[str]]:
    """What was given up, and which runs were asked for, in order."""
    asked = folder / "asked.jsonl"
    asked.parent.mkdir(exist_ok=True)
    asked.write_text("")
    failed = run_all(RUNS, folder, Scripted(faults=faults), 2, retries, Display(Console(quiet=True)))
    return failed, [line.split('"')[3] for line in asked.read_text().splitlines()]


def test_a_run_that_fails_once_is_tried_again(tmp_path: Path) -> None:
    assert go(tmp_path / "s", b=1) == ({}, ["a", "b", "c", "b"])
    assert not list(tmp_path.rglob(FAILED))


def test_a_run_that_keeps_failing_is_given_up_and_the_rest_is_done(tmp_path: Path) -> None:
    failed, asked = go(tmp_path / "s", retries=2, b=9)
    assert failed == {"b": "fault 6"} and asked == ["a", "b", "c", "b", "b"]
    assert read_json(tmp_path / "s" / "runs" / "b" / FAILED) == {
        "error": "fault 6",
        "attempts": 3,
        "traceback": "trace",
    }
    assert (tmp_path / "s" / "runs" / "c" / "result.json").exists()


def test_a_rerun_asks_for_what_is_missing_or_failed_and_nothing_else(tmp_path: Path) -> None:
    go(tmp_path / "s", retries=0, b=9)
    assert go(tmp_path / "s", retries=0) == ({}, ["b"])
    assert not list(tmp_path.rglob(FAILED))
    assert go(tmp_path / "s") == ({}, [])


def test_a_folder_with_nothing_but_failed_json_can_be_used(tmp_path: Path) -> None:
    write_json(tmp_path / "run" / FAILED, {"error": "e"})
    assert not prepare_folder(tmp_path / "run", RUNS[0], "resume")


def hold(folder: Path, held: Event) -> None:
    with locked(folder):
        held.set()
        time.sleep(2.5)
        write_json(folder / "result.json", {})
    os._exit(0)


def test_a_run_that_another_process_is_busy_with_is_waited_for(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=hold, args=(tmp_path / "s" / "runs" / "b", held))
    other.start()
    assert held.wait(60)
    assert go(tmp_path / "s") == ({}, ["a", "c"])
    other.join()


def study(folder: Path, **changes: object) -> StudyConfig:
    data: dict[str, object] = {"organisms": {"tgg": {"name": "tgg"}, "igg": {"name": "igg"}}, "seeds": [0, 1]}
    data |= {"arms": {"base": {"label": "B"}, "length": {"label": "L", "organisms": ["igg"], "rl": {"steps": 10}}}}
    config = parse_config(StudyConfig, data | {"name": "four", "workers": 2} | changes, "study.yaml")
    if not (folder / "config.yaml").exists():
        write_json(folder / "inputs.json", {"code": {"crypsis.rl.loss": "1"}})
        write_atomic(folder / "config.yaml", dump_yaml(config))
    return config


def begin(folder: Path, name: str, steps: int) -> Path:
    run = folder / "runs" / name
    write_atomic(run / "config.yaml", "{}")
    for step in range(1, steps + 1):
        append_row(run / "metrics.jsonl", {"step": step})
    return run


def finish(run: Path, seconds: int) -> None:
    write_json(run / "provenance.json", {"seconds": seconds})
    write_json(run / "result.json", {})


def test_status_tells_done_running_stopped_failed_waiting_and_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "s"
    study(folder)
    assert read_status(folder).seconds_left is None
    finish(begin(folder, "tgg-base-seed0", 20), 400)
    finish(begin(folder, "igg-base-seed0", 20), 600)
    running = begin(folder, "tgg-base-seed1", 5)
    begin(folder, "igg-length-seed0", 4)
    failed = begin(folder, "igg-length-seed1", 2)
    write_json(failed / FAILED, {"error": "no memory\nleft"})
    with locked(running):
        status = read_status(folder)
        study_status(folder)
    found = {run.name: (run.state, run.step, run.steps) for run in status.runs}
    assert found == {
        "tgg-base-seed0": ("done", 20, 20),
        "igg-base-seed0": ("done", 20, 20),
        "igg-length-seed0": ("stopped", 4, 10),
        "tgg-base-seed1": ("running", 5, 20),
        "igg-base-seed1": ("waiting", 0, 20),
        "igg-length-seed1": ("failed", 2, 10),
    }
    assert status.seconds_left == pytest.approx(500 * (0.6 + 0.75 + 1) / 2)
    printed = capsys.readouterr().out
    assert "four: 2 done · 1 running · 1 stopped · 1 failed · 1 waiting" in printed
    assert "about 10 min left with 2 runs at a time" in printed
    assert "failed: igg-length-seed1: no memory left" in printed and "no process is at work here" in printed
    shown = [line.split() for line in printed.splitlines() if "│" in line]
    assert not [row for row in shown if "arms" in row]  # something has begun of every organism
    assert [duration(s) for s in (41, 600, 7500)] == ["41 s", "10 min", "2 h 05 min"]


def test_status_shows_what_has_begun_and_sums_up_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "s"
    study(folder)
    begin(folder, "tgg-base-seed0", 4)
    study_status(folder)
    printed = capsys.readouterr().out
    head = next(line for line in printed.splitlines() if "waiting" in line)
    assert "stopped" in head and "done" not in head and "failed" not in head
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if "│" in line]
    assert ["igg", "2 arms", "–", "4", ""] in [row[:5] for row in rows]
    assert ["tgg", "base", "1", "1", "0 (4/20)"] in [row[:5] for row in rows]


def test_status_of_what_is_no_study_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no study"):
        read_status(tmp_path)
    write_atomic(tmp_path / "config.yaml", "name: run\npolicy: x\n")
    with pytest.raises(UserError, match="is no study's folder"):
        read_status(tmp_path)


def test_a_study_may_grow_and_be_computed_otherwise_but_not_change(tmp_path: Path) -> None:
    study(tmp_path)
    write_json(tmp_path / "result.json", {})
    same = study(tmp_path, workers=7, executor={"name": "ray", "num_gpus": 1})
    code = {"code": {"crypsis.rl.loss": "1"}}
    widen(tmp_path, same, code)
    assert prepare_folder(tmp_path, same, "resume", inputs=code) and read_status(tmp_path).workers == 7
    more = study(tmp_path, seeds=[0, 1, 2])
    wider = {"code": {"crypsis.rl.loss": "1", "crypsis.mitigations.kl": "1"}}
    widen(tmp_path, more, wider)
    assert not prepare_folder(tmp_path, more, "resume", inputs=wider) and len(read_status(tmp_path).runs) == 9
    for other in (study(tmp_path, seeds=[1, 2]), study(tmp_path, seeds=[0, 1, 2], scale="nano")):
        widen(tmp_path, other, wider)
        with pytest.raises(UserError, match="was made with another config"):
            prepare_folder(tmp_path, other, "resume", inputs=wider)
    most, changed = study(tmp_path, seeds=[0, 1, 2, 3]), {"code": wider["code"] | {"crypsis.rl.loss": "2"}}
    widen(tmp_path, most, changed)
    with pytest.raises(UserError, match="seeds: "):
        prepare_folder(tmp_path, most, "resume", inputs=changed)
    with pytest.raises(UserError, match=r"code changed: crypsis\.rl\.loss\)"):
        prepare_folder(tmp_path, more, "resume", inputs=changed)


def test_the_executor_of_the_command_line_takes_the_place_of_the_files(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    arms = "arms: {a: {label: A}}\n"
    file.write_text(arms + "executor: {name: slurm, partition: gpu}\n")
    chosen = load_study_config(file, ["executor.num_gpus=1"], {"executor": "ray", "workers": 3})
    assert (chosen.executor.model_dump()["num_gpus"], chosen.workers) == (1, 3)
    kept = load_study_config(file, [], {"executor": "slurm"})
    assert kept.executor.model_dump()["partition"] == "gpu"
    assert load_study_config(file, ["executor={threads: 2}"]).executor.model_dump() == {"name": "local", "threads": 2}
    with pytest.raises(UserError, match=r"executor\.slurm\.partion.*did you mean 'partition'"):
        load_study_config(file, ["executor.partion=gpu"])
