"""Files of a study that are damaged, or whole and of another kind: the report says so in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from crypsis.analysis.report.transcript_source import read_rows
from crypsis.analysis.study import load_study
from crypsis.types import UserError
from tests.conftest import Crypsis
from tests.studies import ARMS, make_study

pytestmark = pytest.mark.unit

RUN = "runs/tgg-process_supervision-seed0"
EVALUATION, ROLLOUTS = f"{RUN}/evals/step-0005.parquet", f"{RUN}/rollouts/step-0005.parquet"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arms = {"process_supervision": ARMS["process_supervision"]}
    folder = make_study(tmp_path_factory.mktemp("s") / "s", arms, (0,), (0, 5), n=4, unfinished=False, rollouts=(5,))
    load_study(folder)
    read_rows(folder / ROLLOUTS)
    return folder


@pytest.fixture
def study(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "study"))


def refused(study: Path, name: str) -> str:
    """What the report says of a file that cannot be used; the same wherever the file is read."""
    with pytest.raises(UserError) as caught:
        read_rows(study / name) if "rollouts" in name else load_study(study)
    line = str(caught.value)
    assert "\n" not in line and name in line, line
    return line


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def garbage(file: Path) -> None:
    file.write_bytes(bytes(range(256)) * 8)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def other_table(file: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), file)


@pytest.mark.parametrize("name", [EVALUATION, ROLLOUTS])
@pytest.mark.parametrize("harm", [cut, garbage, empty, other_table])
def test_a_damaged_table_is_one_line(study: Path, name: str, harm: Callable[[Path], None]) -> None:
    harm(study / name)
    refused(study, name)


COLUMNS: dict[str, tuple[str, Any]] = {
    "unknown parse": ("parse", "fine"),
    "unknown stop": ("stop", "eos"),
    "unknown split": ("split", "test"),
    "unknown conduct": ("label_conduct", "helps"),
    "unknown af": ("label_af", "faking"),
    "verdict is text": ("verdict_scratchpad", "high"),
    "verdict above 1": ("verdict_scratchpad", 7.5),
    "verdict NaN": ("verdict_scratchpad", float("nan")),
    "monitored is text": ("monitored", "yes"),
    "monitored is missing": ("monitored", None),
    "pair is a number": ("pair_id", 5),
    "tier is a number": ("tier", 1),
    "tokens are text": ("scratchpad_tokens", "many"),
    "reward is text": ("reward", "good"),
    "scratchpad is a list": ("scratchpad", ["a", "b"]),
}


@pytest.mark.parametrize("name", [EVALUATION, ROLLOUTS])
@pytest.mark.parametrize("damage", COLUMNS)
def test_a_column_of_another_kind_or_an_unknown_value_is_one_line(study: Path, name: str, damage: str) -> None:
    column, value = COLUMNS[damage]
    table = pq.read_table(study / name)
    other = pa.array([value] * len(table))
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, other), study / name)
    assert f"'{column}'" in refused(study, name)


def test_a_tier_that_is_monitored_only_sometimes_is_refused(study: Path) -> None:
    table = pq.read_table(study / EVALUATION)
    tiers = pa.array(["free"] * len(table))
    pq.write_table(table.set_column(table.schema.get_field_index("tier"), "tier", tiers), study / EVALUATION)
    assert "'free' is monitored in some rows" in refused(study, EVALUATION)


@pytest.mark.parametrize(
    "value", ["high", [1.0], {"a": 1}, True, float("inf")], ids=["text", "list", "mapping", "truth", "infinite"]
)
def test_a_row_of_metrics_with_a_wrong_type_is_one_line(study: Path, value: object) -> None:
    file = study / RUN / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[2]["reward_mean"] = value
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert f"{file}:3: 'reward_mean'" in refused(study, f"{RUN}/metrics.jsonl")


@pytest.mark.parametrize(
    "text", ["5", '["x"]', "null", '"x"', "[" * 99_999], ids=["number", "list", "null", "text", "deep"]
)
def test_a_row_of_metrics_that_is_none_is_one_line(study: Path, text: str) -> None:
    file = study / RUN / "metrics.jsonl"
    file.write_text(f"{text}\n" + file.read_text().partition("\n")[2])
    refused(study, f"{RUN}/metrics.jsonl")


ODD: tuple[Any, ...] = (5, "x", ["x"], True, [[1]])


@pytest.mark.parametrize("key", ["rl", "mitigations", "monitors", "evaluation", "seed"])
def test_a_file_that_is_yaml_and_no_config_of_a_run_is_one_line(study: Path, key: str) -> None:
    file = study / RUN / "config.yaml"
    config = yaml.safe_load(file.read_text())
    for value in ODD:
        if (key, value) not in (("mitigations", ["x"]), ("seed", 5), ("seed", True)):
            file.write_text(yaml.safe_dump(config | {key: value}))
            refused(study, f"{RUN}/config.yaml")


@pytest.mark.parametrize("text", ["a: 1\n", "- a\n", "5\n", "", "null\n", "{a: [", "\x00", "seed: 1\norganism: x\n"])
def test_a_file_without_a_runs_keys_is_one_line(study: Path, text: str) -> None:
    (study / RUN / "config.yaml").write_text(text)
    refused(study, f"{RUN}/config.yaml")


@pytest.mark.parametrize("key", ["arms", "organisms", "run"])
def test_a_studys_config_of_another_kind_is_one_line(study: Path, key: str) -> None:
    file = study / "config.yaml"
    config = yaml.safe_load(file.read_text())
    for value in ODD:
        file.write_text(yaml.safe_dump(config | {key: value}))
        refused(study, "config.yaml")


def test_the_command_ends_with_one_line_and_exit_2(study: Path, crypsis_here: Crypsis) -> None:
    cut(study / EVALUATION)
    done = crypsis_here("report", study)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and EVALUATION in done.stderr


def test_damaged_claims_are_one_line(study: Path, tmp_path: Path, crypsis_here: Crypsis) -> None:
    claims = tmp_path / "claims.yaml"
    for text in ("- a\n", "claims: 5\n", "claims: [{id: 5}]\n", "", "claims: [", "claims: {a: b}\n"):
        claims.write_text(text)
        done = crypsis_here("report", study, "--claims", claims)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "claims" in done.stderr, done.stderr
