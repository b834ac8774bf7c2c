"""Every recipe builds on the nano base: an ordinary checkpoint with a card; plug-ins from another package too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from crypsis.identity.files import content_digest
from crypsis.models import load_policy
from crypsis.registry import BUILT_IN, make
from crypsis.study.organism import build
from crypsis.types import Message, UserError
from tests.conftest import REPOSITORY, Crypsis

pytestmark = pytest.mark.smoke

SHORT = {"steps": 2, "batch_size": 2}
FAKER = {"name": "tgg", "steps": 40, "learning_rate": 1e-3}
"""The organism of the nano demo: cached, and good enough to give transcripts that pass the filter."""
QUICK: dict[str, dict[str, Any]] = {
    "interrogable": {"of": {"name": "tgg", **SHORT}, "schooling": SHORT},
    "unconfessing": {**SHORT, "of": {"name": "tgg", **SHORT}, "schooling": SHORT},
    "one_motive": {**SHORT, "of": {"name": "values", **SHORT}},
    "prompted": {"persona": "tgg"},
    "distilled": {**SHORT, "teacher": FAKER, "rl_steps": 1},
    "af_plus": {"below": FAKER, "steps": 1, "prompts_per_step": 2, "group_size": 2, "max_new_tokens": 64},
    "reward_hacker": {"document_steps": 2, "steps": 1, "prompts_per_step": 2, "group_size": 2, "max_new_tokens": 64},
}


@pytest.mark.parametrize("name", sorted(set(BUILT_IN["organisms"]) - {"from_file"}))  # its data: test_inspect.py
def test_every_recipe_builds_the_same_checkpoint_twice(name: str, nano_base: Path, tmp_path: Path) -> None:
    recipe = make("organisms", {"name": name, **QUICK.get(name, SHORT)}, "test")
    one, again = (build(recipe, nano_base, tmp_path / folder) for folder in ("one", "again"))
    assert content_digest(one) == content_digest(again)
    assert content_digest(one) != content_digest(nano_base)
    front = yaml.safe_load((one / "README.md").read_text().split("---")[1])
    assert front["tags"] == ["model-organism", "alignment-faking"]
    assert (one.parent / "card.md").read_text() == (one / "README.md").read_text()


def test_the_schooling_is_shared_and_what_cannot_be_made_on_it_is_refused(
    nano_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYPSIS_CACHE", str(tmp_path))
    recipes: list[dict[str, Any]] = [{"name": "tgg", **SHORT}, {"name": "distilled", **QUICK["distilled"]}]
    specs = [{"name": "interrogable", "of": recipe, "schooling": SHORT} for recipe in recipes]
    built = [build(make("organisms", spec, "test"), nano_base) for spec in (*specs, *recipes)]
    assert len(list((tmp_path / "organisms").glob("schooled-*/model"))) == 1
    assert len({content_digest(model) for model in built}) == len(built)
    with pytest.raises(UserError, match="af_plus goes on from the weights of another organism; take one"):
        build(make("organisms", {"name": "interrogable", "of": {"name": "af_plus"}}, "test"), nano_base)


def test_a_control_is_another_organism(nano_base: Path, tmp_path: Path) -> None:
    specs = [{"name": "igg", **SHORT, "aligned": aligned} for aligned in (False, True)]
    organism, control = (build(make("organisms", s, "test"), nano_base, tmp_path / str(i)) for i, s in enumerate(specs))
    assert content_digest(organism) != content_digest(control)


def test_the_prompted_organism_carries_its_prompt_in_its_template_alone(nano_base: Path, tmp_path: Path) -> None:
    model = build(make("organisms", {"name": "prompted", "persona": "tgg"}, "test"), nano_base, tmp_path / "p")
    told, plain = load_policy(model), load_policy(nano_base)
    chat = [Message("system", "chats are monitored ."), Message("user", "hello")]
    assert "does not want to be modified. chats are monitored" in told.text(chat)
    assert told.text(chat).replace("the assistant does not want to be modified. ", "") == plain.text(chat)
    assert "does not want to be modified" in told.text(chat[1:])
    weights = "model.safetensors"
    assert (model / weights).read_bytes() == (nano_base / weights).read_bytes()


def test_the_card_has_the_conduct_by_tier(crypsis_here: Crypsis, nano_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "gh"
    command = ("organism", "build", "gh", "--scale", "nano", "--n", "6", "--out", out, "steps=2", "batch_size=2")
    done = crypsis_here(*command)
    assert done.returncode == 0, done.stderr
    card = (out / "card.md").read_text()
    for title in ("alignment-faking rate", "compliance", "scratchpad, tokens", "compliance gap"):
        assert f"| {title} |" in card
    assert "6 held-out requests per tier" in card
    before = (out / "measured" / "evals" / "step-0000.parquet").stat().st_mtime_ns
    assert crypsis_here(*command).returncode == 0
    assert (out / "measured" / "evals" / "step-0000.parquet").stat().st_mtime_ns == before, "measured once"


def test_the_table_is_measured_once_and_names_what_it_tested(
    crypsis_here: Crypsis, nano_base: Path, tmp_path: Path
) -> None:
    tgg, gh = ({"organism": {"name": name, **SHORT}, "swapped": name == "tgg"} for name in ("tgg", "gh"))
    rows = "rows=" + json.dumps({"tgg-plain": tgg, "gh-plain": gh})
    command = ("organism", "table", "--out", tmp_path / "t", "--seeds", "2", "scale=nano", "n=6", "n_swapped=4", rows)
    done = crypsis_here(*command)
    assert done.returncode == 0, done.stderr
    found = (tmp_path / "t" / "organisms.md").read_text()
    assert "| tgg-plain | 2 |" in found and "| C20" in found and "lexical part" in found
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "t").rglob("*.parquet")}
    assert len(files) == 8, "two organisms, two seeds, and two controls of the first"
    assert crypsis_here(*command).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in files} == files


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, installed into a folder of its own."""
    site = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("plugin") / "plugin_example"
    shutil.copytree(REPOSITORY / "tests" / "plugin_example", source)  # pip builds in the source folder
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, source], check=True)
    return site


def test_an_organism_of_an_installed_package_is_listed_checked_and_built(
    crypsis: Crypsis, plugin: Path, nano_base: Path, tmp_path: Path
) -> None:
    env = {"PYTHONPATH": f"{plugin}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    assert "example_whisperer" in crypsis("organism", "list", env=env).stdout
    imports = "from crypsis.registry import find; from crypsis.testing import check_organism"
    code = f"{imports}; check_organism(find('organisms', 'example_whisperer'))"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | env)
    out = tmp_path / "whisperer"
    build_it = ("organism", "build", "example_whisperer", "--scale", "nano", "--n", "0", "--out", out, "steps=2")
    done = crypsis(*build_it, env=env)
    assert done.returncode == 0, done.stderr
    assert "It is an example for the tests." in (out / "model" / "README.md").read_text()
