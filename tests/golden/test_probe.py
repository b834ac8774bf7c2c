"""Probes: their states are the model's own, they learn, they belong to one model, and RL refreshes and resumes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from crypsis.config import load_config
from crypsis.episodes import read_episodes
from crypsis.identity.files import content_digest
from crypsis.models import Policy, load_policy
from crypsis.monitors.base import Transcript
from crypsis.monitors.probe import Form, ProbeMonitor, scores, train_probe
from crypsis.rl.engine.engine import Engine
from crypsis.rl.engine.hidden_states import read_states, reader
from crypsis.run_config import RunConfig
from crypsis.study.run import run_one
from crypsis.testing import check_monitor
from crypsis.types import UserError
from tests.episodes import make_episode

pytestmark = pytest.mark.golden

LAYER = 1


@pytest.fixture(scope="module")
def policy(nano_base: Path) -> Policy:
    return load_policy(nano_base)


def transcripts(policy: Policy, n: int, seed: int = 0) -> tuple[list[Transcript], list[bool], list[str]]:
    """Random tokens after one system text; those of the positive class have one token of ten in common."""
    rng = np.random.default_rng(seed)
    size, mark = policy.model.config.vocab_size, 77
    system = rng.integers(size, size=20).tolist()
    labels = [bool(i % 2) for i in range(n)]
    found: list[Transcript] = []
    for label in labels:
        completion = rng.integers(size, size=int(rng.integers(10, 30)))
        completion[completion == mark] = 0
        completion[:: 10 if label else 1000] = mark if label else 1
        found.append((system + rng.integers(size, size=int(rng.integers(1, 8))).tolist(), completion.tolist()))
    return found, labels, [str(i // 2) for i in range(n)]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("layer", [1, 2])
def test_the_states_are_the_models_own(policy: Policy, layer: int, padded: bool) -> None:
    rows, _, _ = transcripts(policy, 9)
    rows += [rows[0], (rows[1][0], [])]
    layers = policy.model.config.num_hidden_layers
    found = read_states(policy, rows, layer, Engine("a test" if padded else ""))
    for (prompt, completion), states_TE in zip(rows, found, strict=True):
        ids = torch.tensor([[*prompt, *completion]])
        with torch.no_grad():
            every = policy.model.get_decoder()(input_ids=ids, output_hidden_states=True).hidden_states
            shown = torch.from_numpy(states_TE)
            # transformers gives the last layer's states after the final norm
            seen = policy.model.get_decoder().norm(shown) if layer == layers else shown
        torch.testing.assert_close(seen, every[layer][0, len(prompt) :], atol=2e-4, rtol=1e-3)
        assert states_TE.shape == (len(completion), policy.model.config.hidden_size)
    assert (found[0] == found[9]).all()


@pytest.mark.parametrize("form", ["linear", "attention"])
def test_a_probe_learns_and_is_stored_with_what_it_measured(policy: Policy, tmp_path: Path, form: Form) -> None:
    rows, labels, groups = transcripts(policy, 200)
    probe = train_probe(reader(policy), rows, labels, groups, tmp_path / "p", model_digest="x", layer=LAYER, form=form)
    assert probe.card["auroc"] > 0.95 and probe.card["n_test"] == 40 and probe.card["form"] == form
    again, fresh_labels, _ = transcripts(policy, 60, seed=1)
    found = scores(ProbeMonitor(path=tmp_path / "p").weights, read_states(policy, again, LAYER))
    assert roc_auc_score(fresh_labels, found) > 0.95
    assert ((found >= probe.threshold) == np.array(fresh_labels)).mean() > 0.8  # the threshold is of 40 texts
    assert ("query" in probe.weights) == (form == "attention")


@pytest.fixture(scope="module")
def probe(policy: Policy, nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe") / "p"
    rows, labels, groups = transcripts(policy, 200)
    train_probe(reader(policy), rows, labels, groups, folder, model_digest=content_digest(nano_base), layer=LAYER)
    return folder


def test_it_keeps_the_contract_and_abstains_without_a_policy(probe: Path, policy: Policy) -> None:
    alone = ProbeMonitor(path=probe)
    check_monitor(alone)
    assert alone.judge([make_episode()])[0].reason == "no policy to probe"
    check_monitor(alone.watching(reader(policy)))
    scored, silent = alone.watching(reader(policy)).judge([make_episode(), make_episode(scratchpad="")])
    assert scored.score is not None and silent.reason == "no scratchpad"


def run_config(folder: Path, probe: Path, base: Path, **probe_settings: Any) -> RunConfig:
    monitors = {"oracle": {"name": "oracle"}, "white": {"name": "probe", "path": str(probe), **probe_settings}}
    lines = [
        *(
            "name: probed",
            f"policy: {base}",
            f"monitors: {monitors}",
            "rl: {steps: 3, prompts_per_step: 2, group_size: 2,",
        ),
        *(" max_new_tokens: 40, length_correction: false, checkpoint_every: 1}", "evaluation: {every: 3, n: 2}"),
        "mitigations: [{name: process_supervision, monitor: white}]",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text("\n".join(lines))
    return load_config(RunConfig, folder / "run.yaml")


class Killed(Exception):  # noqa: N818
    pass


def test_rl_asks_refreshes_and_resumes_it(probe: Path, nano_base: Path, tmp_path: Path) -> None:
    config = run_config(tmp_path, probe, nano_base, refresh_every=2)
    whole = run_one(config, tmp_path / "whole")
    assert [p.name for p in (whole / "monitors" / "white").iterdir()] == ["step-0002"]

    def kill(row: Any) -> None:
        if row["step"] == 2:
            raise Killed

    with pytest.raises(Killed):
        run_one(config, tmp_path / "killed", on_step=kill)
    run_one(config, tmp_path / "killed")
    for name in ("step-0001", "step-0003"):
        rows = read_episodes(whole / "rollouts" / f"{name}.parquet")
        same = read_episodes(tmp_path / "killed" / "rollouts" / f"{name}.parquet")
        assert [r["verdict_white"] for r in rows] == [r["verdict_white"] for r in same]
        assert all(r["verdict_white"] is not None or r["reason_white"] for r in rows)
    frozen = run_one(run_config(tmp_path, probe, nano_base), tmp_path / "frozen")
    assert not (frozen / "monitors").exists()
    assert "verdict_white" in read_episodes(frozen / "evals" / "step-0003.parquet")[0]


def test_a_probe_of_another_model_is_refused(
    probe: Path, policy: Policy, nano_base: Path, nano_organism: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="probe of another model"):
        run_one(run_config(tmp_path, probe, nano_organism), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()
    with pytest.raises(UserError, match="this model has"):
        read_states(policy, [([1], [2])], 99)
    wide = {name: np.zeros(policy.model.config.hidden_size + 1, np.float32) for name in ("mean", "scale", "direction")}
    with pytest.raises(UserError, match="wide, the policy"):
        scores(wide, read_states(policy, [([1], [2])], LAYER))
    with pytest.raises(UserError, match="cannot be used with view 'output'"):
        _ = ProbeMonitor(path=probe, view="output").sees


def test_a_probe_whose_weights_were_changed_is_not_loaded(probe: Path, tmp_path: Path) -> None:
    (tmp_path / "probe.safetensors").write_bytes((probe / "probe.safetensors").read_bytes() + b"x")
    (tmp_path / "monitor.json").write_text((probe / "monitor.json").read_text())
    with pytest.raises(UserError, match="not the file of its card"):
        _ = ProbeMonitor(path=tmp_path).weights
