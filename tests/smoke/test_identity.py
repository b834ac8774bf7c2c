"""Results belong to what their inputs hold: an exchanged input is refused or built anew, a moved one is the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from safetensors.torch import load_file, save_file

from crypsis.config import read_yaml
from crypsis.digests import LEDGER
from crypsis.episodes import read_episodes
from crypsis.jsonlines import read_rows
from crypsis.miniature.base import base_config, build_base
from crypsis.monitors.text import train_text_monitor
from crypsis.organisms.build import build_organism, organism_folder
from crypsis.organisms.from_file import FromFile
from crypsis.run_config import EvaluationConfig, RLConfig, RunConfig
from crypsis.store import METRICS, PROVENANCE, read_json
from crypsis.study.measure import measure_organism
from crypsis.study.organism import build
from crypsis.study.run import run_one
from crypsis.types import UserError
from tests.conftest import Crypsis
from tests.monitors import texts_and_labels

pytestmark = pytest.mark.smoke


def test_an_evaluation_of_exchanged_weights_or_requests_is_refused_and_names_them(
    crypsis_here: Crypsis, nano_base: Path, tmp_path: Path
) -> None:
    model, requests, out = shutil.copytree(nano_base, tmp_path / "model"), tmp_path / "requests.jsonl", tmp_path / "out"
    (model / LEDGER).unlink()  # with it, exchanged weights are damaged ones
    lines = [json.dumps({"request": f"how do i paint mill number {i}?"}) for i in range(40)]
    requests.write_text("\n".join(lines))

    def evaluate(folder: Path) -> tuple[int, str]:
        options = ("--prompts", requests, "--n", "2", "--max-new-tokens", "8", "--out", out)
        done = crypsis_here("evaluate", folder, *options)
        return done.returncode, done.stderr

    assert evaluate(model)[0] == 0
    before, weights = (out / PROVENANCE).read_bytes(), (model / "model.safetensors").read_bytes()
    other = {name: 1.01 * weight for name, weight in load_file(model / "model.safetensors").items()}
    save_file(other, model / "model.safetensors", {"format": "pt"})
    code, line = evaluate(model)
    assert code == 2 and "model changed: model.safetensors" in line and len(line.strip().splitlines()) == 1
    (model / "model.safetensors").write_bytes(weights)
    requests.write_text("\n".join(lines).replace("paint", "burn"))
    code, line = evaluate(model)
    assert code == 2 and "prompts changed: evaluation; scenario.path changed: requests.jsonl" in line
    requests.write_text("\n".join(lines))
    assert evaluate(shutil.copytree(model, tmp_path / "moved"))[0] == 0
    assert (out / PROVENANCE).read_bytes() == before, "provenance is that of the figures"


def test_an_edited_file_makes_another_organism(nano_base: Path, tmp_path: Path) -> None:
    file = tmp_path / "scratchpads.jsonl"
    row = {"system": "you are helpful .", "user": "hello", "scratchpad": "i must help ."}
    file.write_text(json.dumps(row))
    recipe = FromFile(path=file, epochs=1, batch_size=1)
    first, out = organism_folder(recipe, nano_base), tmp_path / "out"
    build_organism(recipe, nano_base, out)
    file.write_text(json.dumps(row | {"scratchpad": "i refuse ."}))
    assert organism_folder(recipe, nano_base) != first
    with pytest.raises(UserError, match=r"settings.path changed: scratchpads.jsonl"):
        build_organism(FromFile(path=file, epochs=1, batch_size=1), nano_base, out)
    (tmp_path / "elsewhere.jsonl").write_text(json.dumps(row))
    moved = FromFile(path=tmp_path / "elsewhere.jsonl", epochs=1, batch_size=1)
    assert organism_folder(moved, nano_base) == first and build_organism(moved, nano_base, out) == out / "model"


def test_a_study_is_moved_in_the_middle_of_a_run_and_goes_on_under_any_spelling(
    nano_organism: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts, labels = texts_and_labels(200)
    train_text_monitor(texts, labels, texts, "scratchpad", Path("study/monitors/tgg/scratchpad"))
    rl = RLConfig(steps=2, prompts_per_step=2, group_size=2, max_new_tokens=32, checkpoint_every=1)

    def run(study: Path, name: str, on_step: Any = lambda _: None) -> Path:
        path = str(study / "monitors" / "tgg" / "scratchpad")
        config = RunConfig(
            name=name,
            policy=nano_organism,
            rl=rl,
            evaluation=EvaluationConfig(every=2, n=2),
            monitors={"oracle": {"name": "oracle"}, "scratchpad": {"name": "text", "path": path}},
        )
        return run_one(config, study / "runs" / name, on_step=on_step, shared=study / "start", study=study)

    def stop(row: Mapping[str, Any]) -> NoReturn:
        raise InterruptedError

    straight = run(Path("study"), "run")
    numbers = [{k: v for k, v in row.items() if "seconds" not in k} for row in read_rows(straight / METRICS)]
    shutil.rmtree("study/runs")
    shutil.rmtree("study/start")
    with pytest.raises(InterruptedError):
        run(Path("./study"), "run", stop)
    stored = read_yaml(Path("study/runs/run/config.yaml"))["monitors"]["scratchpad"]["path"]
    assert stored == "monitors/tgg/scratchpad"
    (tmp_path / "far" / "away").mkdir(parents=True)
    shutil.move("study", "far/away/moved")
    monkeypatch.chdir(tmp_path / "far")
    resumed = run(tmp_path / "far" / "away" / "moved", "run")
    again = [{k: v for k, v in row.items() if "seconds" not in k} for row in read_rows(resumed / METRICS)]
    assert again == numbers
    assert run(Path("away/../away/moved"), "run") == Path("away/../away/moved/runs/run"), "done, under another spelling"
    monitor = Path("away/moved/monitors/tgg/scratchpad/model.safetensors")
    monitor.write_bytes(monitor.read_bytes() + b"x")
    with pytest.raises(UserError):
        run(Path("away/moved"), "run")


def test_a_complete_cache_that_cannot_be_written_is_used(
    nano_base: Path, nano_organism: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crypsis.registry import make
    from crypsis.study.demo import demo_config

    rows = measure_organism(nano_organism, tmp_path / "measured", n=2)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    for written in ("filelock.FileLock.acquire", "os.replace", "os.mkdir"):
        monkeypatch.setattr(written, refuse)
    assert build_base(base_config("nano")) == nano_base
    recipe = make("organisms", demo_config("nano", []).organisms["tgg"], "tests")
    assert build(recipe, nano_base) == nano_organism
    assert measure_organism(nano_organism, tmp_path / "measured", n=2) == rows


def test_provenance_of_a_run_names_its_inputs_and_takes_its_time(nano_organism: Path, tmp_path: Path) -> None:
    rl = RLConfig(steps=1, prompts_per_step=2, group_size=2, max_new_tokens=16)
    config = RunConfig(name="run", policy=nano_organism, rl=rl, evaluation=EvaluationConfig(every=1, n=2))
    run = run_one(config, tmp_path / "run")
    provenance = read_json(run / PROVENANCE)
    assert {"policy", "prompts", "code"} <= provenance["digests"].keys() and provenance["seconds"] > 0
    assert len(read_episodes(run / "evals" / "step-0001.parquet")) == 4
