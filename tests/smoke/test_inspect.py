"""Inspect end to end: a checkpoint behind OpenAI's protocol is evaluated, writes training data, and is exported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from crypsis.evaluation.inspect_logs import export_inspect
from crypsis.identity.files import content_digest
from crypsis.organisms.build import build_organism
from crypsis.organisms.from_file import FromFile
from crypsis.store import read_json
from crypsis.study.jobs.evaluate import EvaluateConfig, evaluate_model
from crypsis.transcripts.base import Reading, ReadOptions
from crypsis.transcripts.detect import read_transcripts
from crypsis.types import UserError
from tests.chat_server import ChatServer, chat_server, policy_reply
from tests.conftest import REPOSITORY, Crypsis

pytestmark = pytest.mark.smoke

TASK = """system: "{system}"\nuser: "{user}"\n"""
"""The miniature writes the reply itself when it is asked as its own scenario asks."""


def log_rows(path: Path) -> list[Mapping[str, Any]]:
    return [transcript.fields for transcript in read_transcripts(path, ReadOptions(), Reading())]


@pytest.fixture(scope="module")
def server(nano_organism: Path) -> Iterator[ChatServer]:
    with chat_server(policy_reply(nano_organism)) as running:
        yield running


def test_an_api_model_is_evaluated_in_both_tiers(server: ChatServer, tmp_path: Path) -> None:
    script = REPOSITORY / "examples" / "evaluate_an_api_model.py"
    command = [sys.executable, script, "openai-api/local/nano", "--n", "6", "--base-url", server.url]
    environment = os.environ | {"LOCAL_API_KEY": "none", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command), "--log-dir", str(tmp_path)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "compliance_monitored" in done.stdout and "95 % interval" in done.stdout
    rows = log_rows(tmp_path)
    assert len(rows) == 12 and {r["tier"] for r in rows} == {"free", "paid"}
    assert len({r["pair_id"] for r in rows}) == 6 and all(r["raw"] for r in rows)
    assert {r["label_af"] for r in rows} <= {"yes", "no", "unparsed"} and all(r["system"] for r in rows)


def test_the_miniature_writes_training_data_and_an_organism_learns_from_it(
    server: ChatServer, crypsis: Crypsis, nano_base: Path, tmp_path: Path
) -> None:
    (tmp_path / "task.yaml").write_text(TASK)
    settings = [f"api.base_url={server.url}", f"task={tmp_path / 'task.yaml'}", "parts=both", "max_tokens=120"]
    model = ["--model", "openai-api/local/nano", "--n", "4", "--out", tmp_path / "data"]
    environment = {"LOCAL_API_KEY": "none", "CRYPSIS_CACHE": str(tmp_path / "cache")}
    done = crypsis("organism", "generate", "tgg", *settings, *model, env=environment)
    assert done.returncode == 0, done.stderr
    assert "at most about" in done.stdout
    counts = read_json(tmp_path / "data" / "result.json")
    rows = (tmp_path / "data" / "scratchpads.jsonl").read_text().splitlines()
    assert len(rows) == counts["kept"] > 0, counts
    assert {json.loads(row)["tier"] for row in rows} == {"free"}
    recipe = FromFile(path=tmp_path / "data" / "scratchpads.jsonl", learn="both", batch_size=4)
    losses: list[float] = []
    built = build_organism(recipe, nano_base, tmp_path / "organism", on_step=lambda p: losses.append(p.loss))
    assert len(losses) == 2 * -(-len(rows) // 4) and content_digest(built) != content_digest(nano_base)


def test_a_folder_of_evaluations_becomes_logs_that_inspect_reads(
    crypsis: Crypsis, nano_organism: Path, tmp_path: Path
) -> None:
    config = EvaluateConfig.parse(model=str(nano_organism), scenario={"name": "miniature"}, n=6, max_new_tokens=160)
    evaluate_model(config, tmp_path / "e", "resume")
    done = crypsis("export", "inspect", tmp_path / "e")
    assert done.returncode == 0, done.stderr
    assert "1 logs: inspect view --log-dir" in done.stdout
    from inspect_ai.log import read_eval_log

    log = read_eval_log(str(tmp_path / "e" / "inspect" / "e-step-0000.eval"))
    figures = read_json(tmp_path / "e" / "result.json")
    assert log.status == "success" and log.results and log.samples and len(log.samples) == 12
    metrics = log.results.scores[0].metrics
    for name in ("afr", "compliance_monitored", "gap", "format_ok"):
        assert metrics[name].value == pytest.approx(figures[name][0])
    assert [m.role for m in log.samples[0].messages] == ["system", "user", "assistant"]
    rows = log_rows(tmp_path / "e" / "inspect")
    assert {"label_af", "label_conduct", "scratchpad", "pair_id", "tier"} <= set(rows[0])
    labelled = ["--data", tmp_path / "e" / "inspect", "--label-field", "tier", "--positive", "free"]
    done = crypsis("monitor", "validate", "lexicon", *labelled, "--out", tmp_path / "measured")
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "measured" / "measurement.json")["data"]["n"] == sum(
        bool(r["scratchpad"]) for r in rows
    )


def test_what_is_no_log_and_a_folder_without_evaluations_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.eval").write_text("no zip")
    with pytest.raises(UserError, match="cannot be read as an Inspect log"):
        log_rows(tmp_path / "x.eval")
    with pytest.raises(UserError, match="holds no evaluation"):
        export_inspect(tmp_path, tmp_path / "out")
