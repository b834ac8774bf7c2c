"""Killed at any moment, the same command ends with the numbers of an uninterrupted run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crypsis.episodes import read_episodes
from crypsis.jsonlines import read_rows
from crypsis.store import METRICS, steps_of
from tests.conftest import Crypsis
from tests.damage import stored_files
from tests.forked import killed

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def config(nano_organism: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "run.yaml"
    rl = {"steps": 4, "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 64, "checkpoint_every": 2}
    run = {"name": "resumed", "policy": str(nano_organism), "rl": rl, "evaluation": {"every": 2, "n": 6}}
    file.write_text(yaml.safe_dump(run))
    return file


@pytest.fixture(scope="module")
def straight(config: Path, tmp_path_factory: pytest.TempPathFactory, crypsis: Crypsis) -> Path:
    out = tmp_path_factory.mktemp("straight") / "run"
    done = crypsis("train", config, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def numbers(run: Path) -> list[object]:
    """Everything a run measured, seconds left out."""
    rows = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in read_rows(run / METRICS)]
    evals = [read_episodes(run / "evals" / f"step-{step:04d}.parquet") for step in steps_of(run / "evals", ".parquet")]
    rollouts = [read_episodes(p) for p in sorted((run / "rollouts").glob("step-*"))]
    assert not list(run.rglob(".*.tmp")), "half-written files are cleared away"
    return [rows, evals, rollouts]


@pytest.mark.parametrize(
    ("place", "count"),
    [
        pytest.param("crypsis.rl.loop:step_advantages", 1, marks=pytest.mark.stress),
        ("crypsis.rl.loop:step_advantages", 4),  # after a checkpoint and two rows of metrics beyond it
        pytest.param("crypsis.rl.learner:save_state", 2, marks=pytest.mark.stress),
        ("crypsis.checkpoints:file_digest", 1),  # in the middle of writing a checkpoint
        ("os:replace", 6),  # in a write, before the rename
        pytest.param("os:replace", 12, marks=pytest.mark.stress),
        ("crypsis.study.run:save_policy", 1),
    ],
)
def test_a_killed_run_resumes_to_identical_numbers(
    place: str, count: int, config: Path, straight: Path, tmp_path: Path, crypsis: Crypsis
) -> None:
    killed(place, count, "train", config, "report_to=tensorboard", "--out", tmp_path / "run")
    done = crypsis("train", config, "report_to=tensorboard", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert numbers(tmp_path / "run") == numbers(straight)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = read_rows(straight / METRICS)
    seen = [(event.step, event.value) for event in events.Scalars("training/grad_norm")]
    assert seen == [(row["step"], pytest.approx(row["grad_norm"])) for row in rows]
    same, other = (load_file(folder / "model" / "model.safetensors") for folder in (straight, tmp_path / "run"))
    assert all(bool((same[name] == other[name]).all()) for name in same)


def test_a_base_and_an_organism_killed_in_training_end_with_the_same_weights(
    nano_base: Path, tmp_path: Path, crypsis: Crypsis
) -> None:
    build = ("organism", "build", "tgg", "steps=24", "batch_size=8", "--base", nano_base, "--out")
    assert crypsis(*build, tmp_path / "straight").returncode == 0
    killed("crypsis.supervised:_descend", 23, *build, tmp_path / "resumed")
    assert (tmp_path / "resumed" / "state" / "step-0020").exists()
    assert crypsis(*build, tmp_path / "resumed").returncode == 0
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("straight", "resumed")]
    assert weights[0] == weights[1]


def test_a_finished_run_is_left_alone(config: Path, straight: Path, crypsis: Crypsis) -> None:
    before = {straight / name: (straight / name).stat().st_mtime_ns for name in stored_files(straight)}
    assert crypsis("train", config, "--out", straight).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_damaged_checkpoint_is_named_and_nothing_is_lost(config: Path, tmp_path: Path, crypsis: Crypsis) -> None:
    out = tmp_path / "run"
    killed("crypsis.rl.loop:step_advantages", 4, "train", config, "--out", out)
    state = out / "checkpoints" / "step-0002" / "tensors.safetensors"
    state.write_bytes(state.read_bytes()[:-9])
    done = crypsis("train", config, "--out", out)
    assert done.returncode == 2
    assert "step-0002: this checkpoint is damaged" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert len(read_rows(out / METRICS)) == 3


def test_an_edited_config_over_an_old_folder_is_refused(config: Path, straight: Path, crypsis: Crypsis) -> None:
    done = crypsis("train", config, "rl.steps=5", "--out", straight)
    assert done.returncode == 2
    assert "rl.steps: 4 there, 5 here" in done.stderr and len(done.stderr.strip().splitlines()) == 1
