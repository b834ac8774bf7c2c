"""What all tests share: one cache for the nano base and organism, built by the first test that needs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from tests import forked

REPOSITORY = Path(__file__).parents[1]
os.environ.setdefault("CRYPSIS_CACHE", str(REPOSITORY / ".cache" / "tests"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

Crypsis = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def crypsis() -> Crypsis:
    """Runs ``crypsis …`` in a process of its own and returns what it printed."""
    return forked.crypsis


@pytest.fixture(scope="session")
def crypsis_here() -> Crypsis:
    """The same without the seconds that a new process takes to import torch; for commands that nothing interrupts."""
    from crypsis.cli import main

    def run(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command, code = ["crypsis", *map(str, arguments)], None
        out, err = StringIO(), StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", command)
            for name, value in ({"COLUMNS": "100"} | (env or {})).items():
                patch.setenv(name, value)
            try:
                main()
            except SystemExit as exit_:
                code = exit_.code
        return subprocess.CompletedProcess(command, int(code or 0), out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def nano_base() -> Path:
    """The nano base."""
    from crypsis.miniature.base import base_config, build_base

    return build_base(base_config("nano"))


@pytest.fixture(scope="session")
def nano_organism(nano_base: Path) -> Path:
    """The organism of the nano demo."""
    from crypsis.organisms.build import build_organism
    from crypsis.registry import make
    from crypsis.study.demo import demo_config

    return build_organism(make("organisms", demo_config("nano", []).organisms["tgg"], "tests"), nano_base)
