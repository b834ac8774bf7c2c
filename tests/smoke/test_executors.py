"""Runs under each executor: killed processes and machines lose nothing and change no number."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from crypsis.jsonlines import read_rows
from crypsis.run_config import EvaluationConfig, RLConfig, RunConfig
from crypsis.store import METRICS, RESULT
from crypsis.study.execute import run_all
from crypsis.study.executors.base import Executor
from crypsis.study.executors.local import Local
from crypsis.study.executors.ray import LOOPBACK, Ray
from crypsis.study.executors.slurm import Slurm
from crypsis.study.progress import Display
from crypsis.study.run import run_one
from tests.smoke.test_resume import numbers

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def runs(nano_organism: Path) -> list[RunConfig]:
    rl = RLConfig(steps=8, prompts_per_step=2, group_size=4, max_new_tokens=64, checkpoint_every=2)
    evaluation = EvaluationConfig(every=8, n=4)
    return [
        RunConfig(name=f"run{seed}", policy=nano_organism, rl=rl, evaluation=evaluation, seed=seed) for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def straight(runs: list[RunConfig], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("straight")
    return [run_one(run, folder / run.name) for run in runs]


def go(runs: list[RunConfig], folder: Path, executor: Executor, workers: int) -> dict[str, str]:
    return run_all(runs, folder, executor, workers, 1, Display(Console(quiet=True)))


def in_the_middle(run: Path, act: Callable[[], object]) -> threading.Thread:
    """Acts once a run has done a step, in a thread of its own; the thread's name says whether that was in time."""

    def watch() -> None:
        while not read_rows(run / METRICS):
            time.sleep(0.02)
        act()
        threading.current_thread().name = "too late" if (run / RESULT).exists() else "in time"

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_killed_worker_of_this_machine(runs: list[RunConfig], straight: list[Path], tmp_path: Path) -> None:
    def kill() -> None:
        for child in psutil.Process().children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()

    watch = in_the_middle(tmp_path / "runs" / "run0", kill)
    assert go(runs, tmp_path, Local(), workers=1) == {}
    assert watch.name == "in time"
    assert [numbers(tmp_path / "runs" / run.name) for run in runs] == [numbers(folder) for folder in straight]


def test_submitit_runs_a_study(runs: list[RunConfig], straight: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="SLURM's executor needs submitit: pip install 'crypsis[slurm]'")
    broken = runs[0].model_copy(update={"name": "broken", "policy": tmp_path / "nowhere"})
    failed = go([runs[0], broken], tmp_path, Slurm(cluster="local"), workers=2)
    assert list(failed) == ["broken"] and "nowhere" in failed["broken"]
    assert numbers(tmp_path / "runs" / runs[0].name) == numbers(straight[0])
    before = len(list((tmp_path / "slurm").iterdir()))
    assert go(runs[:1], tmp_path, Slurm(cluster="local"), workers=2) == {}
    assert len(list((tmp_path / "slurm").iterdir())) == before


def test_a_killed_node_of_a_ray_cluster(runs: list[RunConfig], straight: list[Path], tmp_path: Path) -> None:
    os.environ[LOOPBACK] = "0"  # read by Ray when it is imported
    ray = pytest.importorskip("ray", reason="Ray's executor needs Ray: pip install 'crypsis[ray]'")
    from ray.cluster_utils import Cluster

    here: dict[str, Any] = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
    # A node's death is noticed soon, and workers are not starved: Ray starts them with a niceness of 15.
    noticed = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": noticed | {"worker_niceness": 0}}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head | here)
    try:
        ray.init(address=cluster.address, log_to_driver=False)  # now, so that this process joins the head
        first = cluster.add_node(num_cpus=1, **here)
        failed: list[dict[str, str]] = []
        study = threading.Thread(
            target=lambda: failed.append(go(runs, tmp_path, Ray(address=cluster.address), workers=1)), daemon=True
        )
        study.start()  # and not the other way round: what a thread has started, Ray's nodes too, ends with it
        first_run = tmp_path / "runs" / "run0"
        while not read_rows(first_run / METRICS):
            assert study.is_alive(), f"the study ended before its first step: {failed}"
            time.sleep(0.02)
        cluster.remove_node(first, allow_graceful=False)
        assert not (first_run / RESULT).exists()
        cluster.add_node(num_cpus=1, **here)
        study.join(timeout=300)
        assert failed == [{}]
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert [numbers(tmp_path / "runs" / run.name) for run in runs] == [numbers(folder) for folder in straight]
