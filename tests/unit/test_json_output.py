"""Documents of ``--json``, settings of plug-ins, JSON Schemas, and completion."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest
from pydantic import Field

from crypsis.cli.console import print_json
from crypsis.config import Config, read_yaml
from crypsis.registry import BUILT_IN
from crypsis.run_config import RunConfig
from crypsis.settings import REQUIRED, settings_of
from crypsis.study.schema import config_schema
from tests.conftest import REPOSITORY, Crypsis
from tests.studies import HOSTILE, START, make_study

pytestmark = pytest.mark.unit

CONFIGS = [p for p in sorted((REPOSITORY / "configs").rglob("*.yaml")) if not p.name.endswith("_claims.yaml")]
SCHEMA = REPOSITORY / "configs" / "schema" / "study.json"


class Inner(Config):
    """A group."""

    low: float = Field(0.5, ge=0, lt=1)  # Somebody 2020
    """Its meaning
    in two lines."""
    high: int = 3  # somebody else


class Outer(Config):
    """A config."""

    name: ClassVar[str] = "outer"

    path: Path
    inner: Inner = Inner(high=4)
    maybe: Inner | None = None
    words: list[str] = []


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s") / "study"
    return make_study(folder, {"baseline": ("é \u202e", [], START)}, seeds=(0, 1), steps=(0, 10), n=4)


def document(done: subprocess.CompletedProcess[str], name: str) -> dict[str, Any]:
    """The one document that a command printed."""
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and done.stdout.startswith("{")
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["document"], found["layout"]) == (name, 1)
    return found


def test_settings_say_type_limits_default_source_and_meaning() -> None:
    rows = {s.name: s for s in settings_of(Outer)}
    assert list(rows) == ["path", "inner.low", "inner.high", "maybe", "words"]
    assert (rows["path"].type, rows["path"].default) == ("path", REQUIRED)
    low = rows["inner.low"]
    assert (low.type, low.default, low.source, low.text) == (
        "number, ≥ 0, < 1", "0.5", "Somebody 2020", "Its meaning in two lines.",
    )  # fmt: skip
    assert (rows["inner.high"].default, rows["inner.high"].source) == ("4", ""), "a source is of the default it cites"
    assert rows["maybe"].type == "settings of Inner | none"
    assert rows["words"].default == "empty"


def test_the_list_shows_the_settings_of_a_plugin(crypsis_here: Crypsis) -> None:
    found = document(crypsis_here("list", "process_supervision", "--json"), "list")
    (plugin,) = found["plugins"]
    rows = {row["name"]: row for row in plugin["settings"]}
    assert plugin["kind"] == "mitigations" and rows["shape"]["type"] == "log_barrier | linear | threshold"
    assert rows["coefficient"]["source"].startswith("paper §5") and rows["monitor"]["default"] == REQUIRED
    shown = crypsis_here("list", "process_supervision").stdout
    assert "log_barrier" in shown and "paper §5" in shown and "`" not in shown
    both = document(crypsis_here("list", "prompted", "--json"), "list")
    assert [plugin["kind"] for plugin in both["plugins"]] == ["organisms", "monitors"]
    done = crypsis_here("list", "proces_supervision")
    assert done.returncode == 2 and "did you mean 'process_supervision'?" in done.stderr


def test_the_list_is_a_document(crypsis_here: Crypsis) -> None:
    found = document(crypsis_here("list", "--json"), "list")
    assert {(p["kind"], p["name"]) for p in found["plugins"]} >= {(k, n) for k, ns in BUILT_IN.items() for n in ns}
    assert "`" not in crypsis_here("list").stdout


def test_the_status_of_a_study_is_a_document(crypsis_here: Crypsis, study: Path) -> None:
    found = document(crypsis_here("study", "status", study, "--json"), "study_status")
    assert found["totals"]["done"] == 2 == sum(found["totals"].values())
    assert [run["seed"] for run in found["runs"]] == [0, 1] and found["runs"][0]["state"] == "done"
    assert (study / "runs" / found["runs"][0]["folder"]).is_dir()


def test_the_scorecard_is_the_document_that_claims_json_is(crypsis_here: Crypsis, study: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    found = document(crypsis_here("scorecard", study, "--json", "--out", page), "scorecard")
    assert found["claims"] == json.loads(page.with_suffix(".json").read_text())


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json("x", value=float("nan"), rows=[{"a": float("inf")}, (1, HOSTILE)])
    assert json.loads(capsys.readouterr().out) == {
        "document": "x", "layout": 1, "value": None, "rows": [{"a": None}, [1, HOSTILE]],
    }  # fmt: skip


def test_the_schema_of_studies_is_the_one_that_configs_name() -> None:
    now = config_schema("study")
    assert json.loads(SCHEMA.read_text()) == now, "crypsis schema study > configs/schema/study.json"
    judge = jsonschema.Draft202012Validator(now)
    for path in CONFIGS:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
        assert named and (path.parent / named[1]).resolve() == SCHEMA, f"{path}: {first}"
        assert not [error.message for error in judge.iter_errors(read_yaml(path))], path


def test_the_schema_refuses_what_the_config_refuses() -> None:
    judge = jsonschema.Draft202012Validator(config_schema("run"))
    run: dict[str, Any] = {"name": "x", "policy": "somewhere", "mitigations": [{"name": "kl"}]}
    assert RunConfig.model_validate(run) and judge.is_valid(run)
    assert judge.is_valid(run | {"mitigations": [{"name": "process_supervision", "monitor": "oracle"}]})
    wrong: list[dict[str, Any]] = [
        {"setps": 3}, {"rl": {"steps": -1}}, {"seed": "no"},
        {"mitigations": [{"name": "nobody"}]}, {"mitigations": [{"name": "process_supervision", "shpe": "linear"}]},
        {"scenario": {"name": "miniature", "tiers": 3}}, {"monitors": {"a": {"name": "text", "treshold": 1}}},
    ]  # fmt: skip
    for change in wrong:
        assert not judge.is_valid(run | change), change


def test_a_schema_of_nothing_is_one_line(crypsis_here: Crypsis) -> None:
    assert json.loads(crypsis_here("schema", "organism", "evader").stdout)["anyOf"] == [{"$ref": "#/$defs/Evader"}]
    for arguments, said in ((["studdy"], "did you mean 'study'?"), (["organism", "evadr"], "did you mean 'evader'?")):
        done = crypsis_here("schema", *arguments)
        assert done.returncode == 2 and said in done.stderr and not done.stdout


def test_the_shell_completes_verbs() -> None:
    asked = {"_CRYPSIS_COMPLETE": "complete_bash", "COMP_WORDS": "crypsis sc", "COMP_CWORD": "1"}
    script = "import sys; sys.argv = ['crypsis']; from crypsis.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert sorted(done.stdout.split()) == ["schema", "scorecard"]
