"""The complete files that ``docs/add_your_own.md`` shows, as modules."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY


def examples() -> dict[str, str]:
    """The text of each package's ``__init__.py``, by the package's name."""
    page = (REPOSITORY / "docs" / "add_your_own.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return {m[1]: block for block in blocks if (m := re.match(r"# src/(\w+)/__init__\.py\n", block))}


def example_module(folder: Path, name: str) -> Any:
    """An example as a module, written to a folder first."""
    path = folder / f"{name}.py"
    path.write_text(examples()[name])
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic looks annotations up there
    spec.loader.exec_module(module)
    return module
