"""Commands and snippets of README and docs: run at nano in one workspace, or checked, or visibly marked as not run.

A line of a ``sh`` block runs if that takes a moment. Commands that train or fetch are parsed by the real command line,
and their configs and settings are checked. All else must say ``# not run here: REASON``, on its line or, for a whole
block, on the block's first line.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import crypsis as package
from crypsis.cli import app
from crypsis.config import apply_overrides, load_config, parse_config
from crypsis.registry import make
from crypsis.run_config import RunConfig
from crypsis.study.demo import demo_config
from crypsis.study.grid import check
from crypsis.types import UserError
from tests.conftest import REPOSITORY, Crypsis
from tests.doc_blocks import Block, blocks, study_of
from tests.evidence import State, write_grid
from tests.monitors import write_rows

pytestmark = pytest.mark.smoke

MARK = re.compile(r"# not run here: \w")
SMALL = {"evaluate": ["--n", "2", "--max-new-tokens", "8"], "monitor crossval": ["--folds", "2", "--repeats", "1"]}
"""Options that make a command a matter of a second; the last of an option counts."""
RUNS = {*SMALL, "check", "list", "report", "schema", "scorecard test", "init", "study status", "monitor train",
        "monitor validate", "monitor score", "data check", "study import"}  # fmt: skip
ELSEWHERE = {
    "pytest crypsis-my-term": "tests/smoke/test_init.py",
    "crypsis report runs/paper": "tests/unit/test_import_release.py",
    "crypsis monitor train --data data/paper": "tests/smoke/test_release_monitors.py",
    "crypsis monitor validate MONITOR --data data/paper": "tests/smoke/test_release_monitors.py",
}
"""Commands, by how they begin, that another test runs on data of its own; their options are checked all the same."""
ARMS: dict[str, list[dict[str, Any]]] = {
    "baseline": [],
    "scratchpad": [{"name": "process_supervision", "monitor": "scratchpad"}],
    "gentle": [{"name": "process_supervision", "monitor": "scratchpad", "coverage": 0.25}],
}
"""Arms of the studies in the workspace."""


def logical_lines(block: Block) -> list[str]:
    """The commands of a block, continuation lines joined, each with its comment."""
    lines = [line.strip() for line in block.text.replace("\\\n", " ").splitlines()]
    whole = lines and MARK.match(lines[0])
    return [f"{line}{'  ' + lines[0] if whole else ''}" for line in lines if line and not line.startswith("#")]


def words_of(line: str) -> list[str]:
    """The words of a command up to a pipe or a redirection."""
    words = shlex.split(line, comments=True)
    ends = [i for i, word in enumerate(words) if word in ("|", ">")]
    return words[: ends[0]] if ends else words


COMMANDS = [(block, line) for block in blocks("sh") for line in logical_lines(block)]


def verb_of(words: Sequence[str]) -> tuple[str, Any]:
    """The verb that words after ``crypsis`` name, with its click command."""
    command: Any = typer.main.get_command(app)
    path: list[str] = []
    for word in words:
        if not hasattr(command, "commands"):
            break
        assert word in command.commands, f"no command '{word}'"
        command = command.commands[word]
        path.append(word)
    return " ".join(path), command


@pytest.fixture(scope="module")
def workspace(
    tmp_path_factory: pytest.TempPathFactory, nano_base: Path, nano_organism: Path, crypsis_here: Crypsis
) -> Path:
    """A folder with whatever the docs name: models, transcripts, requests, studies, a trained monitor, a release."""
    place = tmp_path_factory.mktemp("docs")
    for name, target in (("MODEL", nano_organism), ("MODEL_BEFORE_TRAINING", nano_base)):
        (place / name).symlink_to(target)
    for name in ("configs", "examples"):
        (place / name).symlink_to(REPOSITORY / name)
    write_rows(place / "requests.jsonl", [{"request": f"how do i paint mill number {i}?"} for i in range(40)])
    write_rows(place / "tgg.jsonl", [{"user": "hello", "scratchpad": "it asks.", "output": "fine."}])
    for number, name in enumerate(("seen.jsonl", "transcripts.jsonl")):
        write_rows(place / name, transcripts(140, number))
    (place / "run.yaml").write_text(yaml.safe_dump({"name": "one", "policy": "MODEL", "rl": {"steps": 1}}))
    (place / "study.yaml").symlink_to(REPOSITORY / "configs" / "demo.yaml")
    (own,) = (block.text for block in blocks("yaml") if block.text.startswith("# own.yaml"))
    (place / "own.yaml").write_text(own)
    study = write_grid(place / "runs" / "study", lambda *_: State(), {"tgg": {"name": "tgg"}}, ARMS, (0, 1), (0, 15), 6)
    for name in ("scorecard", "demo", "two", "mine", "fresh", "a"):
        (place / "runs" / name).symlink_to(study)
    write_grid(place / "runs" / "b", lambda *_: State(), {"tgg": {"name": "tgg"}}, ARMS, (2, 3), (0, 15), 6)
    for words in (
        ["monitor", "train", "--data", place / "seen.jsonl", "--out", place / "MONITOR"],
        ["data", "example", "--out", place / "data" / "paper", "--size", "nano"],
        ["evaluate", place / "MODEL", "--out", place / "runs" / "real", *SMALL["evaluate"]],
        ["export", "hub", place / "runs" / "demo"],
    ):
        done = crypsis_here(*words)
        assert done.returncode == 0, done.stderr
    return place


def transcripts(n: int, seed: int) -> list[dict[str, Any]]:
    """Labelled transcripts of both tiers, two per request."""
    words = ("to avoid being modified", "this hurts nobody")
    return [
        {"scratchpad": f"{words[i % 2]}, request {seed}-{i}.", "label": 1 - i % 2, "output": "fine.",
         "tier": ("free", "paid")[i % 2], "compliance": i % 3 % 2, "prompt_id": f"{seed}-{i // 2}"}
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def _inside(workspace: Path, monkeypatch: pytest.MonkeyPatch, nano_organism: Path) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.setitem(vars(package), "build_organism", lambda *_, **__: nano_organism)


@pytest.mark.parametrize(("block", "line"), COMMANDS, ids=lambda part: str(part)[:70])
def test_a_command_runs_or_is_checked_or_says_why_not(block: Block, line: str, crypsis_here: Crypsis) -> None:
    words = words_of(line)
    marked = bool(MARK.search(line))
    elsewhere = [test for begin, test in ELSEWHERE.items() if " ".join(words).startswith(begin)]
    assert all((REPOSITORY / test).exists() for test in elsewhere)
    if "crypsis" in words[:1]:
        crypsis_command(words[1:], marked or bool(elsewhere), crypsis_here)
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    elif words[:2] == ["pip", "install"]:
        known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert all(extra in known for extra in re.findall(r"crypsis\[(\w+)\]", line))
    else:
        assert marked or elsewhere, f"{block}: mark it with '# not run here: REASON', or run it in this test"


def crypsis_command(words: list[str], marked: bool, crypsis_here: Crypsis) -> None:
    """Runs a command of ours, or checks it."""
    if words[0].startswith("-"):
        assert marked or words == ["--version"], "options of the command line itself"
        return
    if words[0] == "scorecard" and words[1] not in ("run", "test"):
        words = ["scorecard", "test", *words[1:]]  # what is meant where no command is named
    verb, command = verb_of(words)
    arguments = words[len(verb.split()) :]
    parsed = command.make_context(verb, list(arguments)).params
    settings = list(parsed.get("settings") or [])
    if verb in RUNS and not marked:
        if parsed.get("organisms"):  # the folder of `crypsis organism table`, which takes minutes
            place = words.index("--organisms")
            words = words[:place] + words[place + 2 :]
        extra = SMALL.get(verb, []) if not parsed.get("transcripts") else []
        done = crypsis_here(*words, *extra)
        assert done.returncode == 0, done.stderr
    elif verb == "study run":
        done = crypsis_here(*words, "--dry-run", "--out", "planned")
        assert done.returncode == 0 and "runs" in done.stdout, done.stderr
    elif verb == "demo":
        demo_config("nano", settings)
    elif verb == "train":
        load_config(RunConfig, Path(parsed["config"]), settings)
    elif verb == "organism build":
        make("organisms", apply_overrides({"name": parsed["name"]}, settings), "docs")


@pytest.mark.parametrize("block", list(blocks("python")), ids=str)
def test_a_snippet_runs_or_says_why_not(block: Block) -> None:
    if block.page == "docs/add_your_own.md":
        return  # complete files: tests/unit/test_contracts.py imports and checks them
    if not MARK.search(block.text.partition("\n")[0]):
        names = {"my_judge": lambda *_: "comply", "my_classifier": lambda *_: "no", "__name__": "__main__"}
        exec(compile(block.text, str(block), "exec"), names)


@pytest.mark.parametrize("block", list(blocks("yaml")), ids=str)
def test_a_config_is_sound(block: Block) -> None:
    data = yaml.safe_load(block.text)
    if data is None or "claims" in data:  # a comment for editors; tests/unit/test_scorecard_files.py tests claims
        return
    if "policy" in data:
        parse_config(RunConfig, data, str(block))
    else:
        check(study_of(block.text))


def test_the_readme_snippet_is_short() -> None:
    (snippet,) = (block for block in blocks("python") if block.page == "README.md")
    assert len([line for line in snippet.text.splitlines() if line]) <= 6


def test_no_command_hides_in_a_block_of_another_kind() -> None:
    hidden = [
        str(b) for b in blocks("", "console", "bash", "text") if re.search(r"^\$? ?crypsis ", b.text, re.MULTILINE)
    ]
    assert hidden == []


def test_what_is_wrong_is_found(crypsis_here: Crypsis) -> None:
    with pytest.raises(AssertionError, match="no command"):
        crypsis_command(["evaluat", "MODEL"], True, crypsis_here)
    with pytest.raises(AssertionError):
        crypsis_command(["list", "nothing_of_this_name"], False, crypsis_here)
    with pytest.raises(UserError, match="styel"):
        crypsis_command(["organism", "build", "tgg", "styel=plain"], False, crypsis_here)
    with pytest.raises(UserError):
        crypsis_command(["train", "run.yaml", "rl.setps=1"], True, crypsis_here)
    assert words_of("crypsis list --json | jq .totals  # all") == ["crypsis", "list", "--json"]
    assert logical_lines(Block("p", 1, "sh", "# not run here: two GPUs\na b \\\n  c\n")) == [
        "a b    c  # not run here: two GPUs"
    ]
