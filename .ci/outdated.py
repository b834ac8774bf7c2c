"""Prints which of the packages that pyproject.toml names have a newer version than the one installed here."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SECONDS, AT_A_TIME = 30, 8
"""A registry that does not answer must not hold up CI; packages that are asked for together."""


def named() -> list[str]:
    """The direct dependencies, those of the extras included."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    return sorted({re.split(r"[\s\[<>=!~;]", line)[0].lower() for line in listed})


def here(name: str) -> str | None:
    """The version that is installed; None if there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def newest(name: str) -> str | None:
    """The newest version that the registry serves for this Python; None if it does not say."""
    command = [sys.executable, "-m", "pip", "index", "versions", "--disable-pip-version-check", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None
    found = re.match(r"\S+ \(([^)]+)\)", done.stdout)
    return found[1] if done.returncode == 0 and found else None


def main() -> None:
    """One line per package that is outdated, and one on all others."""
    current, unknown = 0, []
    installed = {name: found for name in named() if (found := here(name))}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        newer = dict(zip(installed, pool.map(newest, installed), strict=True))
    for name, served in newer.items():
        if served is None:
            unknown.append(name)
        elif served.split("+")[0] == installed[name].split("+")[0]:
            current += 1
        else:
            print(f"{name}: {installed[name]} is installed, {served} is the newest")
    print(f"{current} packages are up to date" + (f"; not known of {', '.join(unknown)}" if unknown else ""))


if __name__ == "__main__":
    main()
