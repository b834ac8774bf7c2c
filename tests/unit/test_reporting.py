"""Runs in TensorBoard, W&B and trackio: each step once, also after a kill; real libraries where they are installed.

W&B is read back from its offline file and trackio from its local database; where they are not installed, fakes that
record the documented calls stand for them.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from crypsis.config import parse_config
from crypsis.episodes import write_episodes
from crypsis.evaluation.metrics import evaluate_rows
from crypsis.jsonlines import append_row, keep_rows
from crypsis.run_config import RunConfig
from crypsis.store import METRICS, RESULT, write_json
from crypsis.study.config import StudyConfig, load_study_config
from crypsis.study.nano import nano
from crypsis.study.reporting import STATE, Reporter, failures
from crypsis.study.sinks import base
from crypsis.study.sinks.base import Shown, Sink
from crypsis.types import UserError
from tests.conftest import Crypsis
from tests.studies import HOSTILE, START, make_episodes

pytestmark = pytest.mark.unit

STEPS, EVERY, REQUESTS = 5, 2, 12


def make_config(*sinks: str) -> RunConfig:
    data: dict[str, Any] = {"name": "shown", "policy": ".", "organism": "tgg", "arm": "base", "report_to": list(sinks)}
    data |= {"rl": {"steps": STEPS}, "evaluation": {"every": EVERY}, "monitors": {"scratchpad": {"name": "lexicon"}}}
    return parse_config(RunConfig, data, "test")


class Run:
    """A run folder that grows as the loop makes it grow: evaluation, row, evaluation, …"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "evals").mkdir(parents=True)

    def evaluate(self, step: int) -> None:
        path = self.folder / "evals" / f"step-{step:04d}.parquet"
        write_episodes(path, make_episodes(START, REQUESTS, step=step, hostile=True), "shown")

    def train(self, reporter: Reporter, start: int, stop: int) -> None:
        for step in range(start, stop):
            if step % EVERY == 0:
                self.evaluate(step)
            row: dict[str, Any] = {"step": step + 1, "reward_mean": step / 8, "term_preference": -0.5, "loss": 0.25}
            row |= {"compliance": None, "alarm": "", "seconds_total": 2.0}
            append_row(self.folder / METRICS, row)
            reporter.update()
        if stop == STEPS:
            self.evaluate(STEPS)
            write_json(self.folder / RESULT, {"steps": STEPS})

    def whole(self, *sinks: str, pause: float = 0.0) -> None:
        """Trains to the end, killed once after step 3, where the last checkpoint was that of step 2."""
        lines: list[str] = []
        first = Reporter(make_config(*sinks), self.folder, lines.append)
        first.open()
        self.train(first, 0, 3)
        first.close()
        time.sleep(pause)
        second = Reporter(make_config(*sinks), self.folder, lines.append)
        second.open()
        keep_rows(self.folder / METRICS, 2)
        self.train(second, 2, STEPS)
        second.finish()
        assert lines == []


def expected_afr() -> float:
    from crypsis.episodes import episode_row

    rows = [episode_row(e, "shown") for e in make_episodes(START, REQUESTS)]
    found = evaluate_rows(rows, {"scratchpad": 0.5})["afr_oracle"].mean
    assert found is not None
    return found


def test_tensorboard_has_every_step_once_after_a_kill(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Run(tmp_path / "run").whole("tensorboard")
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()

    def series(tag: str) -> list[Any]:
        return [(e.step, pytest.approx(e.value)) for e in events.Scalars(tag)]

    assert series("reward/reward_mean") == [(step, (step - 1) / 8) for step in range(1, STEPS + 1)]
    assert series("evaluation/afr") == [(step, expected_afr()) for step in (0, 2, 4, 5)]
    tags = set(events.Tags()["scalars"])
    wanted = ("gap", "compliance_monitored", "compliance_unmonitored", "recall_scratchpad", "fpr_scratchpad")
    assert {f"evaluation/{name}" for name in wanted} <= tags
    assert {"evaluation_low/afr", "evaluation_high/gap", "reward/term_preference", "training/loss"} <= tags
    assert "seconds/total" in tags and not any("alarm" in tag or tag.endswith("/compliance") for tag in tags)
    texts = events.Tensors("transcripts/text_summary")
    assert [t.step for t in texts] == [0, 2, 4, 5]
    shown = texts[0].tensor_proto.string_val[0].decode()
    assert shown.count("**scratchpad**") == 16 and "**af**\n\n    yes" in shown
    assert all(line.startswith("    ") for line in shown.splitlines() if "<script" in line), "texts are shown as code"
    assert "\x1b" not in shown and HOSTILE not in shown


class FakeWandb(ModuleType):
    """Weights & Biases by its documented calls: ``init``, ``Table``, ``run.log``, ``run.finish``, ``login``."""

    Error = type("Error", (Exception,), {})

    def __init__(self, mode: str = "online", key: bool = True) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.mode, self.key = mode, key
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.inits: list[dict[str, Any]] = []

    def setup(self) -> Any:
        return SimpleNamespace(settings=SimpleNamespace(mode=self.mode))

    def login(self, prompt: bool) -> bool:
        return self.key

    def Settings(self, **settings: Any) -> dict[str, Any]:  # noqa: N802
        return settings

    def Table(self, columns: list[str], data: list[list[Any]]) -> Any:  # noqa: N802
        return SimpleNamespace(columns=columns, data=data)

    def init(self, **settings: Any) -> Any:
        self.inits.append(settings)
        step = self.rows[-1][0] + 1 if self.rows else 0
        return SimpleNamespace(offline=False, step=step, log=self._log, finish=lambda: None)

    def _log(self, row: dict[str, Any], step: int) -> None:
        assert not self.rows or step >= self.rows[-1][0], "W&B drops steps that go back"
        self.rows.append((step, row))


def test_wandb_goes_on_under_one_id_and_gets_no_step_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    Run(tmp_path / "run").whole("wandb")
    assert [step for step, _ in fake.rows] == list(range(STEPS + 1))
    assert fake.rows[3][1]["reward/reward_mean"] == 0.25 and "evaluation/afr" not in fake.rows[3][1]
    assert fake.rows[5][1]["evaluation/afr"] == pytest.approx(expected_afr())
    table = fake.rows[5][1]["transcripts"]
    assert table.columns[:4] == ["tier", "request", "scratchpad", "output"] and len(table.data) == 16
    first, second = fake.inits
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert (first["project"], first["group"], first["job_type"]) == ("crypsis", "tgg", "base")
    assert first["config"]["rl"]["steps"] == STEPS


def test_wandb_without_a_key_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(key=False))
    with pytest.raises(UserError, match="wandb has no API key; run `wandb login`, or set WANDB_MODE=offline"):
        Reporter(make_config("wandb"), Path("run"))
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(mode="offline", key=False))
    Reporter(make_config("wandb"), Path("run"))


def offline_history(file: Path) -> list[dict[str, str]]:
    """The rows of an offline file of W&B: a header of 7 bytes, then blocks of 32 KiB of LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2  # type: ignore[import-not-found,unused-ignore]

    data, place, record, rows = file.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        part = data[place + 7 : place + 7 + length]
        place += 7 + length
        record = part if kind in (1, 2) else record + part  # whole or first, else middle or last
        if kind in (1, 4):
            parsed = wandb_internal_pb2.Record.FromString(record)
            items = {i.key or "/".join(i.nested_key): i.value_json for i in parsed.history.item}
            rows += [items] if items else []
    return rows


def test_wandb_itself_writes_one_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'crypsis[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    Run(tmp_path / "run").whole("wandb", pause=1.5)  # W&B names its folders by the second
    [file] = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    for _ in range(60):  # its service writes the file a moment later
        if len(offline_history(file)) > STEPS:
            break
        time.sleep(0.5)
    steps = [int(items["_step"]) for items in offline_history(file)]
    assert steps == list(range(STEPS + 1))
    assert len(list(file.parent.rglob("*.table.json"))) == 4


class FakeTrackio(ModuleType):
    """trackio by its documented calls: ``init``, ``Table``, ``Api().runs(…)``, ``run.log``, ``run.finish``."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.__spec__ = ModuleSpec("trackio", None)
        self.runs: dict[str, list[tuple[int, dict[str, Any]]]] = {}

    def Api(self) -> Any:  # noqa: N802
        return SimpleNamespace(runs=self._runs)

    def _runs(self, project: str) -> list[Any]:
        if not self.runs:
            raise ValueError(f"Project '{project}' does not exist")
        return [SimpleNamespace(name=n, delete=lambda n=n: self.runs.pop(n)) for n in list(self.runs)]

    def Table(self, dataframe: Any) -> Any:  # noqa: N802
        return dataframe

    def init(self, project: str, name: str, **_: Any) -> Any:
        rows = self.runs.setdefault(name, [])
        return SimpleNamespace(log=lambda row, step: rows.append((step, row)), finish=lambda: None)


def test_trackio_gets_no_step_twice_and_escaped_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    Run(tmp_path / "run").whole("trackio")
    [(name, rows)] = fake.runs.items()
    assert name.startswith("shown-") and [step for step, _ in rows] == list(range(STEPS + 1))
    assert not any("<script" in text for text in rows[5][1]["transcripts"]["scratchpad"])


def test_trackio_itself_has_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed: pip install 'crypsis[trackio]'")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "db"))
    import sqlite3

    Run(tmp_path / "run").whole("trackio")
    import trackio.utils  # type: ignore[import-not-found,unused-ignore]

    database = sqlite3.connect(Path(trackio.utils.TRACKIO_DIR) / "crypsis.db")
    names = [row[0] for row in database.execute("select distinct run_name from metrics where run_name like 'shown-%'")]
    steps = database.execute("select step from metrics where run_name = ? order by step", (names[-1],)).fetchall()
    assert [step for (step,) in steps] == list(range(STEPS + 1))


class Failing(Sink):
    """Fails at step 3."""

    name, package = "failing", "json"

    def open(self, run: Shown) -> int:
        return -1

    def send(self, step: int, values: Any, transcripts: Any) -> None:
        if step == 3:
            raise ConnectionError("the server\nis away")

    def close(self) -> None:
        pass


def test_a_sink_that_fails_costs_no_run_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base.SINKS, "wandb", f"{__name__}:Failing")
    lines: list[str] = []
    run = Run(tmp_path / "runs" / "shown")
    reporter = Reporter(make_config("wandb"), run.folder, lines.append)
    reporter.open()
    run.train(reporter, 0, STEPS)
    reporter.finish()
    line = "report_to: wandb failed, and lacks steps: the server is away; run the command again"
    assert lines == [line] and failures(tmp_path) == [f"shown: {line}"]
    monkeypatch.setattr(Failing, "send", lambda *_: None)
    again = Reporter(make_config("wandb"), run.folder, lines.append)
    again.finish()  # of the finished run, which is left as it is
    assert len(lines) == 1 and failures(tmp_path) == []


def test_a_finished_run_is_sent_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = Run(tmp_path / "run")
    run.train(Reporter(make_config(), run.folder), 0, STEPS)
    assert not (run.folder / STATE).exists(), "nothing is written for nobody"
    Reporter(make_config("tensorboard"), run.folder).finish()
    [events] = (run.folder / "tensorboard").iterdir()
    Reporter(make_config("tensorboard"), run.folder).finish()
    assert list((run.folder / "tensorboard").iterdir()) == [events]


def test_an_unknown_sink_and_an_absent_one_are_one_line(
    tmp_path: Path, crypsis_here: Crypsis, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"name": "x", "policy": "missing", "report_to": "wandbb"}))
    done = crypsis_here("train", file, "--out", tmp_path / "run")
    assert done.returncode == 2 and "report_to: 'wandbb' is no sink; did you mean 'wandb'?" in done.stderr
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trackio" else find(name))
    for command in (("train", file), ("demo", "--scale", "nano")):
        setting = "report_to=trackio" if command[0] == "train" else "run.report_to=[trackio]"
        done = crypsis_here(*command, setting, "--out", tmp_path / "run")
        assert done.returncode == 2, done.stderr
        assert "trackio is not installed; pip install 'crypsis[trackio]'" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run" / METRICS).exists()


def test_sinks_are_no_part_of_what_a_run_is(tmp_path: Path) -> None:
    plain, shown = make_config(), make_config("tensorboard")
    assert plain.model_dump(mode="json") == shown.model_dump(mode="json")
    assert make_config("none").report_to == () and make_config("wandb", "wandb").report_to == ("wandb",)
    study = {"arms": {"baseline": {"label": "x"}}, "run": {"report_to": "tensorboard"}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    config: StudyConfig = nano(load_study_config(tmp_path / "study.yaml"))
    assert config.run.report_to == ("tensorboard",)
    from crypsis.study.grid import grid

    folders = {name: tmp_path for name in ("scratchpad", "output")}
    assert [run.report_to for run in grid(config, {"tgg": tmp_path}, {"tgg": folders})] == [("tensorboard",)] * 2
