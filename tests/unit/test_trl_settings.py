"""TRL's settings, the guards against its traps, and what we count on in its public interface."""

from __future__ import annotations

import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

import crypsis
from crypsis.config import parse_config
from crypsis.mitigations.base import Mitigation, Schedule
from crypsis.mitigations.hooks import (
    AddsLoss,
    AsksExtraTurn,
    Credit,
    CreditsTokens,
    Demonstration,
    LearnsExtraTurn,
    ReplacesPrompt,
    Route,
    RoutesGradients,
    TargetsTerms,
)
from crypsis.mitigations.process_supervision import ProcessSupervision
from crypsis.monitors.probe import ProbeMonitor
from crypsis.monitors.retrained import RetrainedMonitor
from crypsis.rl.groups import grouped
from crypsis.rl.trl.backend import how_sharded
from crypsis.rl.trl.refusals import refuse
from crypsis.rl.trl.rollouts import REWARD, relative_rewards, rollout_fields
from crypsis.rl.trl.settings import DEFAULTS, batch_sizes, fixed_settings, trl_arguments, trl_settings
from crypsis.run_config import RLConfig, RunConfig
from crypsis.study.run_trl import check_installed
from crypsis.types import Episode, Learn, Prompt, UserError
from tests.episodes import make_episode

pytestmark = pytest.mark.unit


def settings(processes: int = 1, **trl: Any) -> dict[str, Any]:
    config = RunConfig(name="x", policy=Path("none"), rl=RLConfig(prompts_per_step=6, group_size=4), trl=trl)
    return trl_settings(config, Path("none"), processes, steps=3, cpu=True)


def test_every_setting_reaches_trl_as_it_is() -> None:
    wanted = settings()
    arguments = trl_arguments(wanted)
    for name, value in wanted.items():
        if name not in ("generation_batch_size", "logging_strategy", "save_strategy", "eval_strategy", "report_to"):
            assert getattr(arguments, name) == value, name
    assert arguments.generation_batch_size == 24 and arguments.report_to == []
    assert not arguments.bf16 and not arguments.activation_checkpointing


def test_the_defaults_that_are_another_algorithm_are_replaced() -> None:
    defaults = {field.name: field.default for field in GRPOConfig.__dataclass_fields__.values()}
    ours = fixed_settings(RLConfig()) | DEFAULTS
    replaced = {name for name, value in ours.items() if defaults[name] != value}
    assert {"lr_scheduler_type", "vllm_importance_sampling_mode", "adam_beta2"} <= replaced


def test_options_of_the_step_become_trls() -> None:
    rl = RLConfig(kl=0.1, epochs=3, clip=0.3, prompts_per_step=6, group_size=4)
    found = trl_settings(RunConfig(name="x", policy=Path("none"), rl=rl), Path("none"), 1, steps=5, cpu=True)
    assert (found["beta"], found["num_iterations"], found["epsilon"]) == (0.1, 3, 0.3)
    assert found["max_steps"] == 15, "TRL counts steps of the optimiser"


@pytest.mark.parametrize(("processes", "expected"), [(1, (24, 1)), (2, (12, 1)), (3, (8, 1)), (6, (4, 1))])
def test_groups_stay_whole(processes: int, expected: tuple[int, int]) -> None:
    rl = RLConfig(prompts_per_step=6, group_size=4, micro_batch=32)
    assert batch_sizes(rl, processes) == expected
    assert batch_sizes(rl.model_copy(update={"micro_batch": 5}), 1) == (4, 6)


@pytest.mark.parametrize(
    ("processes", "trl", "line"),
    [
        (4, {}, "rl.prompts_per_step: 6 prompts do not divide among 4 processes"),
        (1, {"beta": 0.1}, "trl.beta: crypsis sets this from rl"),
        (1, {"bf16": True}, "trl.bf16: crypsis sets this from rl and model"),
        (1, {"mask_truncated_completions": True}, "trl.mask_truncated_completions: crypsis sets this"),
        (1, {"per_device_train_batch_size": 4}, "trl.per_device_train_batch_size: crypsis sets this"),
        (1, {"vllm_gpu_memory_utilisation": 0.3}, "did you mean 'vllm_gpu_memory_utilization'"),
        (1, {"gradient_checkpointing": True}, "set model.gradient_checkpointing, for both"),
        (1, {"use_vllm": True}, "pip install 'trl"),
    ],
)
def test_what_would_be_a_trap_is_refused(processes: int, trl: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=re.escape(line)) as refused:
        settings(processes, **trl)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"rl": {"kl": 0.1}, "model": {"lora": {}}}, "rl.kl: --backend trl has no reference for an adapter"),
        ({"rl": {"learn": "output"}, "trl": {"use_vllm": True}}, "rl.learn=output: vLLM does not sample"),
        ({"rl": {"processes": 2}}, "rl.processes: is for the core"),
    ],
)
def test_what_trl_would_do_otherwise_is_refused(changes: dict[str, Any], line: str) -> None:
    config = parse_config(RunConfig, {"name": "x", "policy": "none"} | changes, "test")
    with pytest.raises(UserError, match=re.escape(line)) as refused:
        trl_settings(config, Path("none"), 1, steps=3, cpu=True)
    assert "\n" not in str(refused.value)


def test_what_only_the_loaded_run_shows_is_refused() -> None:
    class Asks(ProcessSupervision, AsksExtraTurn):
        def ask(self, episode: Episode) -> Prompt | None:
            return episode.prompt

    monitors: dict[str, Any] = {}

    def refused(rl: RLConfig, mitigations: list[Mitigation], **trl: Any) -> None:
        config = RunConfig(name="x", policy=Path("here"), rl=rl, trl=trl)
        policy = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(name_or_path="base")))
        refuse(cast(Any, policy), config, cast(Any, SimpleNamespace(mitigations=mitigations, monitors=monitors)))

    supervision = ProcessSupervision(monitor="oracle")
    refused(RLConfig(), [supervision], use_vllm=True)
    refused(RLConfig(), [Asks(monitor="oracle")])
    monitors["white"] = ProbeMonitor(path=Path("none"))
    with pytest.raises(UserError, match=r"monitors.white: reads the policy's hidden states"):
        refused(RLConfig(), [])
    del monitors["white"]
    with pytest.raises(UserError, match=r"loads the reference from base, which is not the policy here"):
        refused(RLConfig(kl=0.1), [])
    with pytest.raises(UserError, match=r"vLLM does not sample the extra turn of 'process_supervision'"):
        refused(RLConfig(), [supervision, Asks(monitor="oracle")], use_vllm=True)
    with pytest.raises(UserError, match=r"process_supervision: a delay needs --backend core"):
        refused(RLConfig(), [ProcessSupervision(monitor="oracle", delay=1)])
    monitors["racing"] = RetrainedMonitor(start="scratchpad")
    with pytest.raises(UserError, match=r"monitors.racing: .* needs --backend core"):
        refused(RLConfig(), [])


class Term(TargetsTerms):
    """Sends terms to a segment."""

    name: ClassVar[str] = "term"

    def target_term(self, term: str) -> Learn | None:
        return "output"


class Tokens(CreditsTokens):
    """Credits nothing."""

    name: ClassVar[str] = "tokens"

    def credit_tokens(self, episodes: Sequence[Episode]) -> list[list[Credit]]:
        return [[] for _ in episodes]


class OtherPrompt(ReplacesPrompt):
    """Learns under the same prompt."""

    name: ClassVar[str] = "other_prompt"

    def learn_under(self, prompt: Prompt) -> Prompt:
        return prompt


class Confession(LearnsExtraTurn):
    """Asks nothing."""

    name: ClassVar[str] = "confession"

    def ask(self, episode: Episode) -> Prompt | None:
        return None

    def reward_turn(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [None for _ in episodes]


class Routing(RoutesGradients):
    """Sends everything everywhere."""

    name: ClassVar[str] = "routing"

    def route(self, episodes: Sequence[Episode]) -> list[Route]:
        return ["both" for _ in episodes]


class Anchor(AddsLoss):
    """Shows nothing."""

    name: ClassVar[str] = "anchor"

    @property
    def loss_weight(self) -> float:
        return 1.0

    def demonstrate(self, schedule: Schedule) -> Sequence[Demonstration]:
        return []


@pytest.mark.parametrize(
    ("mitigation", "what"),
    [
        (Term(), "term: a term that reaches some tokens only"),
        (Tokens(), "tokens: credit by token"),
        (OtherPrompt(), "other_prompt: learning under another prompt"),
        (Confession(), "confession: an extra turn in the loss"),
        (Routing(), "routing: gradient routing"),
        (Anchor(), "anchor: a loss of its own"),
        (ProcessSupervision(monitor="oracle", delay=1), "process_supervision: a delay"),
    ],
)
def test_every_hook_that_trl_cannot_serve_is_refused(mitigation: Mitigation, what: str) -> None:
    config = RunConfig(name="x", policy=Path("here"))
    context = SimpleNamespace(mitigations=[ProcessSupervision(monitor="oracle"), mitigation], monitors={})
    policy = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(name_or_path="here")))
    with pytest.raises(UserError) as refused:
        refuse(cast(Any, policy), config, cast(Any, context))
    assert str(refused.value) == f"mitigations: {what} needs --backend core"


def test_crypsis_does_without_the_extras() -> None:
    names = [m.name for m in pkgutil.walk_packages(crypsis.__path__, "crypsis.") if m.name != "crypsis.__main__"]
    core = [name for name in names if not name.startswith(("crypsis.rl.trl.", "crypsis.integrations."))]
    assert "crypsis.study.run_trl" in core
    code = (
        "import sys, importlib, importlib.metadata as md\n"
        "missing = ('trl', 'peft', 'accelerate', 'datasets')\n"
        "sys.modules.update(dict.fromkeys(missing))\n"
        "real = md.distribution\n"
        "def found(name):\n"
        "    if name in missing: raise md.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "md.distribution = found\n"
        f"for name in {core}: importlib.import_module(name)\n"
        "from crypsis.cli import main\n"
        "sys.argv[1:] = ['train', 'run.yaml', '--backend', 'trl']\n"
        "main()\n"
    )
    with TemporaryDirectory() as folder:
        (Path(folder) / "run.yaml").write_text("{name: x, policy: none}")
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip() == "crypsis: --backend trl: trl is not installed; pip install 'crypsis[trl]'"


def test_a_value_that_trl_refuses_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^trl: .*fp16"):
        trl_arguments(settings() | {"fp16": True, "bf16": True})


def test_other_versions_and_missing_packages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_installed() == ""
    for version in ("1.15.0", "2.0.0"):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, v=version: v if name == "trl" else "1.0")
        with pytest.raises(UserError, match=rf"needs trl >=1\.16,<2, found {re.escape(version)}"):
            check_installed()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.17.0" if name == "trl" else "1.0")
    assert check_installed().startswith("trl 1.17.0 is newer than the newest that was compared with the core (1.16)")

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=r"trl is not installed; pip install 'crypsis\[trl\]'"):
        check_installed()


def test_how_the_state_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(zero: int = 0, fsdp: int = 0) -> str:
        plugin = SimpleNamespace(zero_stage=zero) if zero else None
        return how_sharded(
            SimpleNamespace(deepspeed_plugin=plugin, fsdp_plugin_args={"fsdp_version": fsdp} if fsdp else None)
        )

    assert [found(), found(zero=2), found(zero=3), found(fsdp=2)] == ["none", "zero", "zero3", "fsdp2"]
    with pytest.raises(UserError, match="FSDP2 only"):
        found(fsdp=1)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert found() == "fsdp2"


def test_the_public_interface_is_there() -> None:
    assert {"rollout_func", "reward_funcs", "processing_class", "callbacks"} <= set(
        inspect.signature(GRPOTrainer.__init__).parameters
    )
    for hook in ("on_train_begin", "on_pre_optimizer_step", "on_log"):
        assert callable(getattr(TrainerCallback, hook))
    assert callable(GRPOTrainer.compute_loss)


def test_fields_of_a_rollout() -> None:
    episodes = [
        make_episode(reward=2.0, logprobs=None),
        make_episode(reward=None, dropped="token budget"),
        make_episode(reward=-1.0, completion_ids=[], segments=[]),
        make_episode(reward=0.5),
    ]
    fields = rollout_fields(grouped(episodes), "scratchpad", end_id=9)
    assert fields[REWARD] == [3.0, None, 0.0, 1.5]
    assert fields["completion_ids"][2] == [9] and fields["env_mask"][2] == [0]
    assert not any(fields["env_mask"][1]) and 0 < sum(fields["env_mask"][0]) < len(fields["env_mask"][0])
    assert fields["logprobs"] is None
    assert all(len(m) == len(c) for m, c in zip(fields["env_mask"], fields["completion_ids"], strict=True))
    assert relative_rewards([None, 1.1, 1.1]) == [None, 0.0, 0.0]
