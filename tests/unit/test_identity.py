"""What counts as the same input: content and code, not names, paths or dates."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest

from crypsis.config import Config, Content, read_yaml
from crypsis.identity import code, files
from crypsis.identity.code import code_parts
from crypsis.identity.configs import identity, inputs_of
from crypsis.identity.files import content_digest, content_parts, file_sha
from crypsis.locks import locked
from crypsis.organisms.build import BUILDER, organism_inputs
from crypsis.registry import make
from crypsis.run_config import RunConfig
from crypsis.store import prepare_folder, write_atomic
from crypsis.types import UserError
from tests.clock import cpu_limit
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.unit


def model(folder: Path, weights: str = "pytorch_model.bin") -> Path:
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", weights):
        write_atomic(folder / name, f"{name} of a model")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        *("pytorch_model.bin", "model.pt", "model.gguf", "model-00002-of-00002.safetensors"),
        *("model.safetensors.index.json", "tokenizer.json", "tokenizer.model"),
        *("chat_template.jinja", "additional_chat_templates/tool.jinja"),
    ],
)
def test_weights_of_any_format_tokenizer_and_template_count(name: str, tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    write_atomic(folder / name, "one")
    before = content_digest(folder)
    write_atomic(folder / name, "two")
    assert content_digest(folder) != before


def test_name_date_readme_and_checkpoints_of_a_trainer_do_not_count(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    before = content_digest(folder)
    for name in ("README.md", ".lock", "checkpoint-5/optimizer.pt"):
        write_atomic(folder / name, "x")
    os.utime(folder / "config.json", (1, 1))
    assert content_digest(folder) == before == content_digest(shutil.copytree(folder, tmp_path / "other"))
    one, two = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    one.write_text("x"), two.write_text("x")
    assert content_digest(one) == content_digest(two)


def test_the_base_of_an_adapter_counts_and_a_circle_ends(tmp_path: Path) -> None:
    base, adapter = model(tmp_path / "base"), tmp_path / "adapter"
    write_atomic(adapter / "adapter_config.json", json.dumps({"base_model_name_or_path": str(base)}))
    before = content_digest(adapter)
    write_atomic(base / "pytorch_model.bin", "other")
    assert content_digest(adapter) != before and "base/pytorch_model.bin" in content_parts(adapter)
    write_atomic(adapter / "adapter_config.json", json.dumps({"base_model_name_or_path": str(adapter)}))
    assert content_parts(adapter)


def test_a_hub_id_counts_by_its_revision_where_the_cache_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert content_parts("org/model") == {"hub": "org/model", "revision": ""}
    write_atomic(tmp_path / "models--org--model" / "refs" / "main", "abc123")
    assert content_parts("org/model") == {"hub": "org/model", "revision": "abc123"}
    write_atomic(tmp_path / "datasets--org--set" / "refs" / "main", "def")
    assert content_parts("org/set:small:test", "dataset")["revision"] == "def"
    assert content_parts(Path("no/where/at/all"))["revision"] == ""


def test_big_files_are_read_once_and_an_edit_in_place_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYPSIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "BIG", 10)
    file = tmp_path / "weights.bin"
    file.write_bytes(b"a" * 100)
    first = file_sha(file)
    assert not (tmp_path / "cache").exists(), "a file that was just written may change without a new date"
    stat = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"b")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_sha(file) != first
    monkeypatch.setattr(files, "SETTLED", -1.0)
    known = file_sha(file)
    assert len(list((tmp_path / "cache" / "digests").iterdir())) == 1
    monkeypatch.setattr("hashlib.file_digest", None)  # reading it again would fail
    assert file_sha(file) == known
    monkeypatch.undo()
    monkeypatch.setenv("CRYPSIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "BIG", 10)
    stat = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"c")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same path, size, inode and date of the content
    assert file_sha(file) != known


class Foreign(Config):
    """A plug-in of another package; nothing in crypsis knows its fields."""

    name: ClassVar[str] = "foreign"

    dilemmas: Path | None = None
    many: list[Path] = []
    judge: dict[str, Any] = {}
    text: str = ""
    hub: Annotated[str, Content("model")] = ""


class Job(Config):
    scenario: dict[str, Any] = {}
    inner: Foreign | None = None


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(code._registered(), "foreign", {__name__})
    monkeypatch.setattr("crypsis.identity.configs.names", lambda kind: ["foreign"] if kind == "scenarios" else [])
    monkeypatch.setattr("crypsis.identity.configs.find", lambda kind, name: Foreign)


@pytest.mark.usefixtures("registered")
def test_files_of_a_strangers_plug_in_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "b", "rubric.yaml"):
        Path(name).write_text(name)
    spec = {"name": "foreign", "dilemmas": "plain", "many": ["b"], "text": "plain", "hub": "org/model"}
    found = inputs_of(Job(scenario=spec | {"judge": {"rubric": "rubric.yaml", "text": "plain"}}), "crypsis.types")
    assert set(found) - {"code"} == {
        "scenario.dilemmas", "scenario.many.0", "scenario.hub", "scenario.judge.rubric"
    }  # fmt: skip
    assert __name__ in found["code"], "its code counts"
    typed = inputs_of(Job(inner=Foreign(dilemmas=Path("plain"), many=[Path("b")])))
    assert set(typed) == {"inner.dilemmas", "inner.many.0"}


def test_files_of_built_in_plug_ins_are_found_at_any_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("policy", "answerer", "monitor"):
        model(Path(name))
    Path("r.jsonl").write_text("{}")
    config = RunConfig(
        name="r",
        policy=Path("policy"),
        scenario={"name": "prompt_file", "path": "r.jsonl"},
        monitors={
            "a": {"name": "retrained", "start": {"name": "text", "path": "monitor"}},
            "b": {"name": "dialled", "monitor": {"name": "ensemble", "members": [{"name": "text", "path": "monitor"}]}},
        },
        mitigations=[{"name": "interrogation", "variant": "separate", "model": "answerer"}],
    )
    found = inputs_of(config, "crypsis.types")
    places = {"policy", "scenario.path", "monitors.a.start.path", "monitors.b.monitor.members.0.path"}
    assert set(found) - {"code"} == places | {"mitigations.0.model"}
    assert {"crypsis.monitors.retrained", "crypsis.mitigations.interrogation"} <= set(found["code"])
    assert found["scenario.path"].keys() == {""} and "pytorch_model.bin" in found["policy"]


def test_the_identity_of_a_config_does_not_depend_on_where_its_files_lie(tmp_path: Path) -> None:
    one, two = (RunConfig(name="r", policy=model(tmp_path / name)) for name in ("a", "b"))
    assert identity(one, inputs_of(one)) == identity(two, inputs_of(two))
    write_atomic(tmp_path / "b" / "pytorch_model.bin", "other")
    assert identity(one, inputs_of(one)) != identity(two, inputs_of(two))


def test_a_folder_says_which_input_changed_and_does_not_mind_where_it_lies(tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text("{}")
    model(tmp_path / "m")

    def prepare(policy: Path, file: Path = requests) -> bool:
        config = RunConfig(name="r", policy=policy, scenario={"name": "prompt_file", "path": str(file)})
        return prepare_folder(tmp_path / "out", config, "resume", inputs=inputs_of(config, "crypsis.types"))

    assert prepare(tmp_path / "m") is False
    write_atomic(tmp_path / "out" / "result.json", "{}")
    assert prepare(shutil.copytree(tmp_path / "m", tmp_path / "n")) is True
    write_atomic(tmp_path / "n" / "pytorch_model.bin", "other")
    with pytest.raises(UserError, match=r"from other inputs \(policy changed: pytorch_model.bin\); use --exists over"):
        prepare(tmp_path / "n")
    requests.write_text("[]")
    with pytest.raises(UserError, match=r"scenario.path changed: requests.jsonl"):
        prepare(tmp_path / "m")
    (tmp_path / "out" / "inputs.json").unlink()
    with pytest.raises(UserError, match=r"inputs.json: is damaged or lost; delete the folder"):
        prepare(tmp_path / "m")


def test_paths_within_a_root_are_stored_relative_to_it(tmp_path: Path) -> None:
    study, outside = tmp_path / "s", model(tmp_path / "policy")
    model(study / "monitors" / "text")
    config = RunConfig(name="r", policy=outside, monitors={"ab": {"name": "text", "path": f"{study}/./monitors/text"}})
    folder = study / "runs" / "r"
    prepare_folder(folder, config, "resume", inputs=inputs_of(config), root=study)
    stored = read_yaml(folder / "config.yaml")
    assert stored["monitors"]["ab"]["path"] == "monitors/text" and stored["policy"] == str(outside)
    assert prepare_folder(folder, config, "resume", inputs=inputs_of(config), root=study) is False


def package(folder: Path) -> Path:
    source = REPOSITORY / "src" / "crypsis"
    return Path(shutil.copytree(source, folder / "crypsis", ignore=shutil.ignore_patterns("__pycache__")))


def test_a_change_of_any_module_that_is_reached_counts_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = package(tmp_path)
    monkeypatch.setenv("CRYPSIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(code, "_roots", lambda top: (root,))
    monkeypatch.setitem(sys.modules, "crypsis", None)
    reached = code_parts("crypsis.organisms.af_plus", "crypsis.study.organism")
    for expected in (
        "rl.loss",
        "rl.loop",
        "mitigations.reward_af",
        "monitors.oracle",
        "models",
        "miniature.preference",
    ):
        assert f"crypsis.{expected}" in reached
    assert "crypsis.miniature/language.yaml" in reached
    assert not [name for name in reached if name.startswith(("crypsis.analysis", "crypsis.cli"))]
    for name in list(reached)[::8]:
        module, data = name.partition("/")[::2]
        place = root.joinpath(*module.split(".")[1:])
        file = place / data if data else place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        before = file.read_text()
        file.write_text(before + "\nCHANGED = 1\n")
        changed = code_parts("crypsis.organisms.af_plus", "crypsis.study.organism")
        assert [n for n in changed if changed[n] != reached.get(n)] == [name]
        file.write_text(before)
    report = root / "analysis" / "report" / "html.py"
    report.write_text(report.read_text() + "\nCHANGED = 1\n")
    comment = root / "rl" / "loss.py"
    comment.write_text(f"# a comment\n{comment.read_text()}")
    assert code_parts("crypsis.organisms.af_plus", "crypsis.study.organism") == reached


def test_whole_configs_and_templates_are_no_data_of_the_code_that_organisms_depend_on() -> None:
    parts = code_parts(BUILDER, "crypsis.organisms.from_lessons")
    assert "crypsis.study" in parts
    assert "crypsis.scenarios/scratchpads/terminal_goal_guarding.yaml" in parts  # data that it does learn
    assert not [name for name in parts if name.startswith(("crypsis.study/", "crypsis/"))]


@pytest.mark.parametrize(("name", "counts"), [("one_motive", False), ("unconfessing", False), ("distilled", True)])
def test_code_of_rl_and_monitors_counts_for_organisms_that_rl_makes(
    name: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYPSIS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "config.json").write_text("{}")
    code = organism_inputs(make("organisms", {"name": name}, "test"), tmp_path)["code"]
    assert ("crypsis.rl.loop" in code) is counts
    assert any(part.startswith("crypsis.monitors.") for part in code) is counts


def test_code_is_digested_fast() -> None:
    code_parts("crypsis.study.pipeline")
    with cpu_limit(0.9):
        for _ in range(3):
            code_parts("crypsis.study.pipeline")


def test_imports_within_functions_count_and_those_for_type_checkers_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write_atomic(tmp_path / "stranger" / "__init__.py", "")
    lines = ["from typing import TYPE_CHECKING", "if TYPE_CHECKING:", "    from stranger import typed"]
    write_atomic(tmp_path / "stranger" / "a.py", "\n".join([*lines, "def f():", "    from . import b", ""]))
    for name in ("b", "typed", "unused"):
        write_atomic(tmp_path / "stranger" / f"{name}.py", "# x")
    found = code_parts("stranger.a")
    assert set(found) == {"stranger", "stranger.a", "stranger.b"}
    write_atomic(tmp_path / "stranger" / "b.py", "# y")
    assert code_parts("stranger.a")["stranger.b"] != found["stranger.b"], "of other packages every byte counts"
    with pytest.raises(UserError, match="no source file"):
        code_parts("nowhere.to.be.found")


def test_asking_whether_a_folder_is_in_use_takes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crypsis.locks import is_locked

    assert not is_locked(tmp_path) and not (tmp_path / ".lock").exists()
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path) and (tmp_path / ".lock").exists()
    monkeypatch.setattr("fcntl.flock", None)  # a call would fail
    assert not is_locked(tmp_path)
