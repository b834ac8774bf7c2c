"""A study as a dataset folder that ``datasets`` loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard

from crypsis.analysis.report.hub import CARD, export_hub
from crypsis.types import UserError
from tests.studies import ARMS, HOSTILE, make_study

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arms = {"baseline": (f"baseline | {HOSTILE}", [], ARMS["baseline"][2]), "output_monitor": ARMS["output_monitor"]}
    folder = make_study(tmp_path_factory.mktemp("s") / "s", arms, steps=(0, 10), n=4, rollouts=(1,))
    assert export_hub(folder, folder / "hub") == 4 * (2 * 2 * 4) + 4 * 8
    return folder / "hub"


def test_datasets_loads_it_and_every_config(hub: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    episodes = datasets.load_dataset(str(hub), split="test", cache_dir=str(tmp_path))
    assert len(episodes) == 64
    assert episodes.column_names[:4] == ["organism", "arm", "label", "run_seed"]
    assert set(episodes["run_seed"]) == {0, 1} and set(episodes["arm"]) == {"baseline", "output_monitor"}
    assert {"scratchpad", "label_af", "verdict_output", "term_preference"} <= set(episodes.column_names)
    rollouts = datasets.load_dataset(str(hub), "rollouts", split="train", cache_dir=str(tmp_path))
    assert rollouts.features["reward"].dtype == episodes.features["reward"].dtype == "float64"
    assert len(rollouts) == 32 and any(v is not None for v in rollouts["term_process_supervision"])
    front = yaml.safe_load((hub / CARD).read_text(encoding="utf-8").split("---")[1])
    names = [config["config_name"] for config in front["configs"]]
    assert names == ["evaluations", "rollouts", "runs", "arms", "summary", "curves", "seeds", "tests", "training"]
    for name in names[2:]:
        assert len(datasets.load_dataset(str(hub), name, split="train", cache_dir=str(tmp_path)))


def test_the_card_is_what_the_hub_wants(hub: Path) -> None:
    data = DatasetCard.load(hub / CARD).data
    assert data.license == "mit" and data.size_categories == ["n<1K"] and data.task_categories == ["text-generation"]
    assert data.configs[0]["config_name"] == "evaluations" and data.pretty_name == "crypsis study: demo"


def test_the_card_is_plain_text(hub: Path) -> None:
    card = (hub / CARD).read_text(encoding="utf-8")
    assert "<script" not in card and "\x1b" not in card and "baseline \\|" in card
    assert (hub / "figures" / "overview.png").exists() and not list(hub.rglob("*.svg"))


def test_it_is_written_again_but_replaces_nothing_else(hub: Path, tmp_path: Path) -> None:
    export_hub(hub.parent, hub)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="did not write"):
        export_hub(hub.parent, tmp_path)
    assert (tmp_path / "mine.txt").exists()
