from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from crypsis.analysis.claims.schema import read_claims
from crypsis.config import apply_overrides, digest, dump_yaml, load_config, parse_config, read_yaml
from crypsis.run_config import RLConfig, RunConfig
from crypsis.store import child
from crypsis.study.config import StudyConfig
from crypsis.types import UserError, visible
from tests.clock import cpu_limit
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.unit

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
"""Ten to the power of twelve values, if every alias were written out."""
RUN: dict[str, Any] = {"name": "x", "policy": "somewhere"}


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: " + "9" * 5000, "30 digits"),
        ("a: " + "[" * 60 + "]" * 60, "nested deeper than 40"),
        ("[" * 100_000, "nested deeper than 40"),
        ("a: &a [*a]", "an alias stands for what contains it"),
        (LAUGHS, "more than 100000 values"),
        ("a: !!binary aGVsbG8=", "!!binary has no use here"),
        ("a: !!bool x", "does not fit its tag"),
        ("a: !!python/object:os.system x", "constructor"),
        ("? [a, b]\n: 1", "unhashable key"),
        ("a: \x00", "unacceptable character"),
        ("x" * 1_000_001, "more than 1000000 bytes"),
    ],
)
def test_yaml_beyond_the_limits_is_one_line_and_quick(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with cpu_limit(5), pytest.raises(UserError, match=re.escape(words)) as caught:
        read_yaml(file)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(file))


def test_dates_are_texts_and_aliases_within_the_limits_work(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text("name: 2024-13-45\n2024-01-01: {a: &a [1, 2], b: [*a, *a]}\nbig: 99999999999999999999\n")
    data = apply_overrides(read_yaml(file), ["day=2024-02-30"])
    assert data["name"] == "2024-13-45" and data["2024-01-01"]["b"] == [[1, 2], [1, 2]] and data["day"] == "2024-02-30"
    assert data["big"] == 99999999999999999999


BAD_NAMES = [
    *("", ".", "..", ".x", "-x", " x", "x ", "x.", "~", "~/x", "/x", "a/b", "a\\b", "a\tb", "a\nb", "x\x1b[31m"),
    *("x\u202ey", "CON", "nul.txt", "com1", "x" * 101, "é" * 51, "a:b", 'x"onload=', "<meta>", "\udc80", "a\u00a0b"),
    *("../../x", "a\0"),
]
GOOD_NAMES = ["tgg", "[x] 50% $a_b", "é", "漢字", "a b", "v1.2", "x" * 100, "_x", "console"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_cannot_name_files_is_refused_where_it_is_read_and_where_a_path_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        child(tmp_path, name)
    assert len(str(caught.value).splitlines()) == 1 and visible(str(caught.value)) == str(caught.value)
    arm, monitor = {"label": "x"}, {"name": "lexicon"}
    places: list[tuple[type[BaseModel], dict[str, Any]]] = [
        (RunConfig, RUN | {"name": name}),
        (RunConfig, RUN | {"monitors": {name: monitor}}),
        (StudyConfig, {"name": name, "arms": {"a": arm}}),
        (StudyConfig, {"arms": {name: arm}}),
        (StudyConfig, {"arms": {"a": arm}, "organisms": {name: {"name": "tgg"}}}),
        (StudyConfig, {"arms": {"a": arm}, "panel": {name: monitor}}),
        (StudyConfig, {"arms": {"a": arm}, "monitors": {name: monitor}}),
        (StudyConfig, {"arms": {"a": arm | {"monitors": {name: monitor}}}}),
    ]
    if name:
        places += [(RunConfig, RUN | {"arm": name}), (RunConfig, RUN | {"organism": name})]
    for cls, data in places:
        with pytest.raises(UserError, match=r"cannot name files|NUL") as caught:
            parse_config(cls, data, "x.yaml")
        assert len(str(caught.value).splitlines()) == 1 and visible(str(caught.value)) == str(caught.value)


@pytest.mark.parametrize(
    "name", ["tgg", "[/x] 50% $a_b".replace("/", ""), "é", "漢字", "a b", "v1.2", "x" * 100, "_x", "console"]
)
def test_other_names_stand(tmp_path: Path, name: str) -> None:
    assert child(tmp_path, name) == tmp_path / name
    assert parse_config(RunConfig, RUN | {"name": name}, "x.yaml").name == name


@pytest.mark.parametrize("twins", [("Arm", "arm"), ("straße", "STRASSE"), ("é", "e\u0301")])
def test_names_that_differ_only_in_case_are_refused(twins: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="would be one file on systems that ignore case"):
        parse_config(StudyConfig, {"arms": {name: {"label": "x"} for name in twins}}, "x.yaml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rl": {"learning_rate": float("inf")}}, "rl.learning_rate: input should be a finite number"),
        ({"rl": {"learning_rate": float("nan")}}, "rl.learning_rate: input should be a finite number"),
        ({"rl": {"prompts_per_step": 10**12}}, "rl.prompts_per_step: must be between"),
        ({"rl": {"prompts_per_step": 10**6, "group_size": 10**6}}, "rl: prompts_per_step"),
        ({"evaluation": {"n": 10**12}}, "evaluation.n: must be between"),
        ({"seed": 2**32}, "seed: must be between"),
        ({"evaluation": {"seed": -1}}, "evaluation.seed: must be between 0"),
        ({"preference": {"model": "x", "offset": 1e300}}, "preference.offset: must be a finite number of at most"),
        ({"trl": {"x": {"y": [10**12]}}}, "trl: must be between"),
        ({"policy": "a\0b"}, "policy: must not have a NUL"),
        ({"mitigations": [{"name": "process_supervision", "monitor": 5}]}, "monitor: must be the name of a monitor"),
        ({"mitigations": [{"name": "process_supervision", "monitor": [["oracle"]]}]}, "must be the name of a monitor"),
    ],
)
def test_numbers_that_no_machine_holds_and_odd_values_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        parse_config(RunConfig, RUN | change, "run.yaml")


def test_every_packaged_config_is_valid() -> None:
    files = sorted((REPOSITORY / "configs").rglob("*.yaml"))
    assert files
    for file in files:
        if file.stem.endswith("_claims"):
            read_claims(file)
        else:
            load_config(StudyConfig, file)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (
            {"monitors": {"m": {"name": "prompted", "api": {"model_args": {"api_key": "abc"}}}}},
            "api.model_args.api_key",
        ),
        ({"trl": {"hub_token": "abc"}}, "trl.hub_token"),
        ({"policy": "sk-0123456789abcdefghij"}, "policy"),
        ({"monitors": {"m": {"name": "x", "base_url": "http://me:word@127.0.0.1:1/v1"}}}, "monitors.m.base_url"),
        ({"mitigations": [{"name": "x", "Authorization": "Bearer 1"}]}, "mitigations.0.Authorization"),
    ],
)
def test_secrets_do_not_enter_configs_and_are_not_repeated(change: dict[str, Any], place: str) -> None:
    with pytest.raises(UserError, match=r"looks like a secret") as caught:
        parse_config(RunConfig, RUN | change, "run.yaml")
    line = str(caught.value)
    assert place in line and "OPENAI_API_KEY" in line
    assert not any(secret in line for secret in ("abc", "sk-0", "word@", "Bearer"))


def test_words_that_only_resemble_secrets_are_settings() -> None:
    run = RUN | {"rl": {"max_new_tokens": 64}, "monitors": {"m": {"name": "text", "path": "runs/token"}}}
    assert parse_config(RunConfig, run, "run.yaml").rl.max_new_tokens == 64
