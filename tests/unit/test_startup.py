"""Commands that only look start without torch, and what they print is text."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from rich.table import Table

import crypsis
from crypsis.cli.console import make_console
from crypsis.locks import locked
from crypsis.registry import BUILT_IN, Kind, find, summary
from crypsis.study.progress import Display
from crypsis.types import UserError
from tests.conftest import REPOSITORY, Crypsis
from tests.studies import HOSTILE, START, Rates, make_study

pytestmark = pytest.mark.unit

HEAVY = ("torch", "transformers", "sklearn", "tokenizers", "scipy.stats")
LOOK = f"""
import sys
from crypsis.cli import main
sys.argv = ["crypsis", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print("imported:", *sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)
"""


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    call = [sys.executable, "-m", "crypsis", *arguments]
    return subprocess.run(call, capture_output=True, env=os.environ | environment, check=False, timeout=120)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arms: dict[str, tuple[str, list[str], Rates]] = {"baseline": ("[/x] 50% $a_b – ∅", [], START)}
    return make_study(tmp_path_factory.mktemp("s") / "[/x] study", arms, seeds=(0,), steps=(0, 10), n=4)


def test_looking_imports_no_torch_and_prints_what_the_terminal_has(study: Path) -> None:
    plain = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for arguments in (["list"], ["organism", "list"], ["study", "status", str(study)], ["report", str(study)]):
        call = [sys.executable, "-c", LOOK, *arguments]
        done = subprocess.run(call, capture_output=True, text=True, check=False, env=plain)
        assert done.returncode == 0 and done.stderr.splitlines()[-1] == "imported:", (arguments, done.stderr)
        assert done.stdout.isascii()
    assert "[/x] 50% $a_b" in done.stdout


def test_importing_the_package_imports_only_the_standard_library() -> None:
    script = "import sys; before = set(sys.modules); import crypsis; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = {*done.stdout.split()}
    assert {name for name in found if name.split(".")[0] not in sys.stdlib_module_names} == {"crypsis"}


@pytest.mark.parametrize("kind", BUILT_IN)
def test_the_list_says_what_the_docstrings_say(kind: Kind) -> None:
    for name in BUILT_IN[kind]:
        assert summary(kind, name) == (find(kind, name).__doc__ or "").strip().splitlines()[0]


def test_what_is_printed_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    console = make_console()
    console.file = out = io.StringIO()
    table = Table("name", title=f"[/x] {HOSTILE}")
    table.add_row(f"[/x] :smile: {HOSTILE}")
    console.print(table)
    console.print(f"[/x] [bold]plain[/bold] {HOSTILE}")
    with Display(console).counted(f"[/x] {HOSTILE}", 3, "[/x]") as show:
        show(3)
    text = out.getvalue()
    assert text.count("[/x]") >= 4 and "[bold]plain[/bold]" in text and ":smile:" in text
    assert not set("\x1b\u202e\x00") & set(text) and "⟨U+001B⟩" in text


def test_a_full_output_is_one_line(study: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        call = [sys.executable, "-m", "crypsis", "study", "status", str(study)]
        ended = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, check=False)
    assert ended.returncode == 2 and ended.stderr.count(b"\n") == 1 and b"no space left" in ended.stderr


@pytest.mark.parametrize("name", ["\x1b[31mred", "[/x]", "a\nb", "é\u202e"])
def test_messages_are_one_line_of_text(tmp_path: Path, name: str) -> None:
    done = command("study", "status", str(tmp_path / name))
    said = done.stderr.decode()
    assert done.returncode == 2 and said.count("\n") == 1 and not set("\x1b\u202e") & set(said)


@pytest.mark.parametrize("kind", ["file", "null", "dangling", "loop", "long", "below a file"])
def test_output_that_cannot_be_a_folder_is_one_line(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "out"
    if kind in ("file", "below a file"):
        place.write_text("x")
    elif kind == "dangling":
        place.symlink_to(tmp_path / "nowhere")
    elif kind == "loop":
        place.symlink_to(place)
    out = {"null": "/dev/null", "long": str(tmp_path / ("x" * 300)), "below a file": str(place / "sub")}
    with pytest.raises(UserError, match="cannot be written") as caught, locked(Path(out.get(kind, str(place)))):
        pass
    assert "\n" not in str(caught.value)


def test_the_version_is_one_and_the_same_everywhere(crypsis_here: Crypsis) -> None:
    assert crypsis_here("--version").stdout == f"crypsis {crypsis.__version__}\n"
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "crypsis.__version__"}
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {crypsis.__version__}\n" in citation
