from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import grimp
import pytest

from tests.clock import cpu_limit, of_children
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.unit

TORCH_FREE = (
    "crypsis.cli", "crypsis.types", "crypsis.config", "crypsis.registry", "crypsis.store", "crypsis.episodes",
    "crypsis.analysis.report.html", "crypsis.run_config", "crypsis.study.config", "crypsis.miniature.scenario",
    "crypsis.monitors.text", "crypsis.mitigations.process_supervision", "crypsis.scenarios.prompt_file",
    "crypsis.api_models", "crypsis.monitors.prompted", "crypsis.scenarios.requests",
)  # fmt: skip


def test_config_statistics_and_help_do_without_torch() -> None:
    code = f"import sys, {', '.join(TORCH_FREE)}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_is_fast() -> None:
    command = [sys.executable, "-m", "crypsis", "--help"]
    subprocess.run(command, capture_output=True, check=True)  # compiles what has changed
    with cpu_limit(0.5, of_children):
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "demo" in shown.stdout


def contract(name: str) -> dict[str, Any]:
    """A contract of pyproject.toml by the beginning of its name."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [found] = [c for c in settings["contracts"] if c["name"].startswith(name)]
    return dict(found)


def rooms(modules: set[str], listed: list[str]) -> set[str]:
    """The modules that are neither listed nor inside of a listed package."""
    return {m for m in modules if not any(m == room or m.startswith(f"{room}.") for room in listed)}


def test_every_module_that_reaches_no_torch_is_in_the_contract() -> None:
    graph = grimp.build_graph("crypsis", include_external_packages=True, exclude_type_checking_imports=True)
    torch_free = contract("no torch")
    for line in torch_free["ignore_imports"]:
        importer, _, imported = line.partition(" -> ")
        graph.remove_import(importer=importer, imported=imported)
    modules = {m for m in graph.modules if m.startswith("crypsis.") and not graph.find_children(m)}
    heavy = {m for name in torch_free["forbidden_modules"] for m in graph.find_downstream_modules(name)}
    commands = {m for m in modules if m.startswith("crypsis.cli")}  # they import inside of functions, as tested above
    missing = rooms(modules - heavy - commands - {"crypsis.__main__"}, torch_free["source_modules"])
    assert not missing, f"name them in pyproject.toml under '{torch_free['name']}': {sorted(missing)}"


def test_every_general_module_is_kept_apart_from_the_miniature() -> None:
    graph = grimp.build_graph("crypsis")
    apart = contract("general rooms")
    inside = {m for m in graph.modules if m.startswith("crypsis.miniature")}
    importers = {m for module in inside for m in graph.find_modules_that_directly_import(module)} - inside
    assert {m for m in importers if not m.startswith("crypsis.organisms.miniature")} == set()
    organisms = {m for m in graph.find_children("crypsis.organisms") if m != "crypsis.organisms.miniature"}
    assert not rooms(organisms, apart["source_modules"])


def test_a_walk_through_the_imports_enters_no_room_twice() -> None:
    graph = grimp.build_graph("crypsis", exclude_type_checking_imports=True)
    inside: dict[str, set[str]] = {}
    for module in graph.modules - {"crypsis"}:
        room = ".".join(module.split(".")[:2])
        others = {".".join(m.split(".")[:2]) for m in graph.find_modules_directly_imported_by(module)}
        inside.setdefault(room, set()).update(others - {room, "crypsis"})
    TopologicalSorter(inside).prepare()  # raises at a circle of rooms, and names it


def test_a_name_has_one_definition() -> None:
    names = ("Verdict", "Organism", "Reply", "Motivation", "Learn", "Cell", "Floats", "Flags", "RunContext", "Scenario")
    found: dict[str, list[str]] = {name: [] for name in names}
    for file in (REPOSITORY / "src").rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            own = [node.name] if isinstance(node, ast.ClassDef) else []
            own += [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
            for name in set(own) & set(names):
                found[name].append(str(file.relative_to(REPOSITORY)))
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_imports_go_one_way() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    shown = subprocess.run([command], check=False, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout
