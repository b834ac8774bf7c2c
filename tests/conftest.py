"""What all tests share: one cache for the nano base and organism, built by the first test that needs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
os.environ.setdefault("CRYPSIS_CACHE", str(REPOSITORY / ".cache" / "tests"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

Crypsis = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def crypsis() -> Crypsis:
    """Runs ``crypsis …`` in a process of its own and returns what it printed."""

    def run(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "crypsis", *map(str, arguments)]
        environment = os.environ | {"COLUMNS": "100", "OMP_NUM_THREADS": "1"} | (env or {})
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

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
