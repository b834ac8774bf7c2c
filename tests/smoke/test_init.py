"""``crypsis init``: what it writes is installed, listed and passes its own tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Crypsis

pytestmark = pytest.mark.smoke
KINDS = ("mitigation", "monitor", "organism", "scenario")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, crypsis_here: Crypsis) -> dict[str, Path]:
    """A package of each kind, as `crypsis init` writes it."""
    root = tmp_path_factory.mktemp("plugins")
    folders = {kind: root / f"my-{kind}" for kind in KINDS}
    for kind, folder in folders.items():
        done = crypsis_here("init", kind, f"my_{kind}", "--out", folder)
        assert done.returncode == 0, done.stderr
    return folders


def test_packages_are_installed_listed_and_pass_their_tests(
    packages: dict[str, Path], crypsis: Crypsis, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, *packages.values()], check=True)
    env = {"PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    listed = crypsis("list", env=env | {"COLUMNS": "200"}).stdout
    assert all(f"my_{kind}" in listed for kind in KINDS), listed
    tests = [folder / "tests" for folder in packages.values()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, *tests],
        capture_output=True, text=True, check=False, env=os.environ | env, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("monitor", "text"), "there is already a plug-in 'text'"),
        (("monitor", "../x"), "'../x' cannot name a plug-in"),
        (("monitor", "class"), "'class' cannot name a plug-in"),
        (("poem", "mine"), "kind"),
    ],
)
def test_bad_names_are_refused_in_one_line(
    arguments: tuple[str, str], line: str, crypsis_here: Crypsis, tmp_path: Path
) -> None:
    done = crypsis_here("init", *arguments, "--out", tmp_path / "x")
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_folder_with_files_is_not_overwritten(crypsis_here: Crypsis, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = crypsis_here("init", "monitor", "fresh", "--out", tmp_path)
    assert done.returncode == 2
    assert "not an empty folder" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
