"""Processes that share the steps of a run end where one process does, resumed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from crypsis.episodes import read_episodes
from crypsis.jsonlines import read_rows
from crypsis.parallel import Ranks, together
from crypsis.rl import loop
from crypsis.run_config import RLConfig, RunConfig
from crypsis.store import METRICS
from crypsis.study.context import load_context
from crypsis.types import UserError
from tests import beside

pytestmark = pytest.mark.golden


def run(policy: Path, folder: Path, processes: int, stop_at: int = 0) -> dict[str, torch.Tensor]:
    """Runs or resumes, and returns the weights."""
    rl = RLConfig(steps=2, prompts_per_step=3, group_size=4, max_new_tokens=96, checkpoint_every=1, processes=processes)
    config = RunConfig(name="shared", policy=policy, rl=rl)
    found = beside.exact_policy(config)
    folder.mkdir(exist_ok=True)

    def on_step(row: Any) -> None:
        if row["step"] == stop_at:
            raise KeyboardInterrupt

    with together(processes, beside.assist, config, folder) as ranks:
        loop.train(found, config, load_context(config), folder, lambda *_: None, on_step, ranks)
    return {name: p.detach() for name, p in found.model.named_parameters()}


def numbers(folder: Path) -> tuple[list[dict[str, Any]], list[Any]]:
    rows = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in read_rows(folder / METRICS)]
    return rows, [read_episodes(path) for path in sorted((folder / "rollouts").iterdir())]


def test_two_processes_equal_one_and_resume_equals_straight(nano_organism: Path, tmp_path: Path) -> None:
    alone = run(nano_organism, tmp_path / "one", 1)
    both = run(nano_organism, tmp_path / "two", 2)
    (rows, episodes), (two_rows, two_episodes) = numbers(tmp_path / "one"), numbers(tmp_path / "two")
    assert any(row["grad_norm"] for row in rows)
    for step, other in zip(episodes, two_episodes, strict=True):
        assert [e.pop("raw") for e in other] == [e.pop("raw") for e in step]
        assert [e["group"] for e in other] == [e["group"] for e in step]
        assert [e["advantage"] for e in other] == pytest.approx([e["advantage"] for e in step], abs=1e-12)
    for row, other_row in zip(rows, two_rows, strict=True):
        assert bool(other_row["alarm"]) == bool(row["alarm"])
        assert other_row | {"alarm": 0} == pytest.approx(
            row | {"alarm": 0}, rel=1e-5
        )  # the norm layers of transformers compute in float32
    for name, weights in alone.items():
        torch.testing.assert_close(both[name], weights, rtol=0, atol=1e-5)

    with pytest.raises(KeyboardInterrupt):
        run(nano_organism, tmp_path / "resumed", 2, stop_at=1)
    resumed = run(nano_organism, tmp_path / "resumed", 2)
    assert all(torch.equal(resumed[name], weights) for name, weights in both.items())
    assert numbers(tmp_path / "resumed")[0] == two_rows


def test_a_process_that_dies_ends_the_run_in_one_line() -> None:
    with pytest.raises(UserError, match="has died") as caught, together(2, beside.die) as ranks:
        ranks.sum_(torch.zeros(1))
    assert "\n" not in str(caught.value)


def test_one_process_needs_no_others() -> None:
    ranks = Ranks()
    assert (ranks.share(3), ranks.gather([1]), ranks.scatter(["a"])) == (3, [1], "a")
    assert [list(Ranks(rank, 3).slice(7)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5, 6]]
