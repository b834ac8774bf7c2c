"""Stresses on the nano model: they run, they record, and bad input is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crypsis.analysis.stress import sections
from crypsis.analysis.stress.faithfulness import effects
from crypsis.analysis.stress.recall import watches
from crypsis.analysis.study import load_study as load_results
from crypsis.analysis.summary import summarise
from crypsis.config import load_config, parse_config
from crypsis.episodes import read_episodes
from crypsis.run_config import EvaluationConfig
from crypsis.store import read_json
from crypsis.study.config import StudyConfig
from crypsis.study.demo import demo_config
from crypsis.study.grid import check
from crypsis.study.nano import nano as nano_of
from crypsis.study.pipeline import run_study
from crypsis.study.progress import Display
from crypsis.study.run import run_one
from tests.conftest import REPOSITORY, Crypsis
from tests.smoke.test_mitigations import nano

pytestmark = pytest.mark.smoke


def test_transplants_paired_tiers_and_rare_pressure_in_one_run(nano_organism: Path, tmp_path: Path) -> None:
    config = nano(
        nano_organism,
        [{"name": "paired_tiers"}],
        scenario={"name": "miniature", "harmful_train": 0.25},
        evaluation=EvaluationConfig(every=3, n=12, transplants=4),
    )
    config = config.model_copy(update={"rl": config.rl.model_copy(update={"max_new_tokens": 128})})
    run_one(config, tmp_path)
    rows = read_episodes(tmp_path / "transplants" / "step-0003.parquet")
    done = {row["label_intervention"] for row in rows}
    assert done == {"own", "other_tier", "harmless", "harmful", "empty", "half", "paraphrase", "start"}
    by = {(r["pair_id"], r["monitored"], r["label_intervention"], r["label_source"]): r for r in rows}
    swapped = next(row for row in rows if row["label_intervention"] == "other_tier" and row["monitored"])
    lender = by[swapped["pair_id"], False, "own", "unmonitored"]
    assert swapped["scratchpad"] == lender["scratchpad"] and swapped["tier"] == "free"
    assert all(row["scratchpad"] == "" for row in rows if row["label_intervention"] == "empty")
    assert effects({0: rows}).compliance
    trained = [row for step in (1, 2, 3) for row in read_episodes(tmp_path / "rollouts" / f"step-{step:04d}.parquet")]
    assert len({row["request"] for row in trained}) > 1
    asked = [row for row in trained if row["extra_turn"]]
    assert asked and all(row["extra_tier"] == "paid" and row["tier"] == "free" for row in asked)
    assert all(row["label_conduct_paired"] for row in asked) and not any(row.get("label_lying") for row in asked)
    terms = {row["term_paired_tiers"] for row in asked if row["term_paired_tiers"] is not None}
    assert terms <= {0.0, -1.0}


def test_faithfulness_of_a_model(crypsis_here: Crypsis, nano_organism: Path, nano_base: Path, tmp_path: Path) -> None:
    options: list[Any] = ["--n", "6", "--max-new-tokens", "128", "--start", nano_base, "--out", tmp_path]
    done = crypsis_here("stress", "faithfulness", nano_organism, *options)
    assert done.returncode == 0, done.stderr
    assert "compliance, own scratchpad" in done.stdout
    assert read_json(tmp_path / "result.json")["requests"] > 0


def test_the_oracle_is_no_judge_of_a_real_model(crypsis_here: Crypsis, nano_organism: Path, tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text("".join(f'{{"request": "case {i}"}}\n' for i in range(40)))
    done = crypsis_here("stress", "faithfulness", nano_organism, "--prompts", requests, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "has no ground truth for the oracle to read" in done.stderr and "--judge" in done.stderr


CONFIGS = sorted((REPOSITORY / "configs" / "stress").glob("*.yaml"))


def test_every_stress_is_sound() -> None:
    assert len(CONFIGS) == 9
    for path in CONFIGS:
        config = load_config(StudyConfig, path)
        check(config)
        assert config.name == path.stem and len(config.seeds) >= 5
        runs = len(config.seeds) * sum(len(config.arms_of(label)) for label in config.organisms)
        assert runs <= 70, f"{path}: {runs} runs do not fit into half an hour"
        small = nano_of(config)
        check(small)
        assert set(small.arms) == set(config.arms) and small.scale == "nano" and small.run.rl.steps <= 4


def test_a_nano_study_with_a_panel_transfer_and_a_probe_as_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crypsis.analysis.stress.recall.FEWEST", 1)  # nano has few transcripts
    arms: dict[str, Any] = {
        "text": {"label": "Text", "organisms": ["tgg"]},
        "white": {"label": "Probe", "organisms": ["tgg"]},
        "borrowed": {
            "label": "Borrowed",
            "organisms": ["other"],
            "monitors": {"of_tgg": {"trained": "scratchpad", "organism": "tgg"}},
            "mitigations": [{"name": "process_supervision", "monitor": "of_tgg"}],
        },
    }
    for arm, monitor in (("text", "scratchpad"), ("white", "probe")):
        arms[arm]["mitigations"] = [{"name": "process_supervision", "monitor": monitor}]
    panel = {"lexicon": {"name": "lexicon"}, "probe": {"name": "probe"}, "both": {"name": "text", "view": "both"}}
    made = demo_config("nano", [])
    first = made.organisms["tgg"]
    given = made.model_dump(mode="json") | {"arms": arms, "panel": panel, "seeds": [0]}
    given["organisms"] = {"tgg": first, "other": first | {"steps": 41}}
    given["run"]["rl"] |= {"steps": 2, "missing_verdict": "neutral"}
    given["run"]["evaluation"] |= {"every": 2, "n": 12, "transplants": 4}
    config = parse_config(StudyConfig, given, "nano")
    run_study(config, tmp_path / "out", "resume", Display(Console(quiet=True)))
    study = load_results(tmp_path / "out")
    found = {(w.organism, w.arm): w for w in watches(study)}
    assert found["tgg", "white"].trained == ("probe",)
    assert set(found["tgg", "white"].held_out) == {"scratchpad", "output", "lexicon", "both"}
    assert found["other", "borrowed"].trained == ("of_tgg",)
    assert found["tgg", "text"].at("auroc_probe", 0).mean is not None
    told = {section.key: section for section in sections(summarise(study))}
    assert {"states", "recall", "white_box", "transfer", "faithfulness"} <= set(told)
