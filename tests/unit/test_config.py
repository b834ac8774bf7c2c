from __future__ import annotations

from pathlib import Path

import pytest

from crypsis.analysis.claims.schema import read_claims
from crypsis.config import apply_overrides, digest, dump_yaml, load_config, parse_config
from crypsis.rl.config import RLConfig, RunConfig
from crypsis.study.config import StudyConfig
from crypsis.types import UserError
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.unit

RUN = {"name": "x", "policy": "somewhere"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rl": {"setps": 3}}, ["rl.setps", "did you mean 'steps'"]),
        ({"zzz": 1}, ["unknown key 'zzz'", "known:"]),
        ({"rl": {"steps": "many"}}, ["rl.steps", "integer", "'many'"]),
        ({"rl": {"group_size": 1}}, ["rl.group_size", "greater than or equal to 2"]),
        ({"rl": {"learn": "thoughts"}}, ["rl.learn", "scratchpad"]),
        ({"mitigations": [{"name": "process_supervision", "monitor": "nobody"}]}, ["nobody", "oracle"]),
    ],
)
def test_faults_are_one_line_with_place_and_remedy(change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_config(RunConfig, RUN | change, "run.yaml")
    line = str(caught.value)
    assert "\n" not in line and line.startswith("run.yaml: ")
    assert all(word in line for word in words), line


def test_overrides_reach_nested_keys_and_leave_the_source_alone() -> None:
    data = {"rl": {"steps": 3}}
    assert apply_overrides(data, ["rl.steps=5", "rl.learn=output"]) == {"rl": {"steps": 5, "learn": "output"}}
    assert data == {"rl": {"steps": 3}}


@pytest.mark.parametrize("bad", ["steps", "=3", "rl.steps.more=3", "a=[1"])
def test_bad_overrides_say_so(bad: str) -> None:
    with pytest.raises(UserError, match="override"):
        apply_overrides({"rl": {"steps": 3}}, [bad])


def test_a_config_survives_its_own_yaml(tmp_path: Path) -> None:
    config = RunConfig(name="x", policy=Path("somewhere"), rl=RLConfig(steps=7))
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(config))
    assert load_config(RunConfig, file) == config
    assert digest(load_config(RunConfig, file)) == digest(config)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", ""])
def test_a_file_that_is_no_mapping_says_so(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        load_config(RunConfig, file)


def test_a_key_that_stands_twice_is_an_error_and_merges_are_none(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("arms:\n  a: {label: one}\n  b: {label: two}\n  a: {label: three}\n")
    with pytest.raises(UserError, match=r"twice\.yaml: .*'a' is there twice.* line 4") as caught:
        load_config(StudyConfig, file)
    assert "\n" not in str(caught.value)
    file.write_text("arms:\n  a: &a {label: one}\n  b: {<<: *a, label: two}\n")
    assert load_config(StudyConfig, file).arms["b"].label == "two"


def test_every_packaged_config_is_valid() -> None:
    files = sorted((REPOSITORY / "configs").rglob("*.yaml"))
    assert files
    for file in files:
        if file.stem.endswith("_claims"):
            read_claims(file)
        else:
            load_config(StudyConfig, file)
