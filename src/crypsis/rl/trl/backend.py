"""GRPO by TRL's ``GRPOTrainer``: the same run as ``crypsis.rl.loop``, on as many processes as Accelerate starts.

TRL does what needs several GPUs: data-parallel, FSDP2 and ZeRO training, and weights for vLLM. What an episode, its
reward and its learning tokens are stays ours, and reaches TRL through ``rollout_func`` alone. Departures from our own
core: the loss has no shared prefix, and advantages are computed in float32.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from datasets import Dataset
from torch import nn
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from crypsis.checkpoints import State, latest_state, save_state
from crypsis.digests import record
from crypsis.episodes import rollouts_path, write_episodes
from crypsis.jsonlines import append_row, keep_rows, rows_digest
from crypsis.mitigations.base import Schedule
from crypsis.models import Policy
from crypsis.monitors.base import judge
from crypsis.parallel import out_of_memory, release_memory
from crypsis.rl.advantages import Advantages, step_advantages
from crypsis.rl.context import RunContext, at_step
from crypsis.rl.engine.engine import Engine
from crypsis.rl.engine.selfcheck import why_padded
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.groups import grouped
from crypsis.rl.learner import Log, make_optimiser
from crypsis.rl.loop import Evaluate, step_metrics
from crypsis.rl.loss import LossStats
from crypsis.rl.pilot import fit_pilot, pilot_prompts
from crypsis.rl.resume import check_stored
from crypsis.rl.rewards import compose
from crypsis.rl.rollouts import ask_extra_turns, rollout
from crypsis.rl.rows import token_mask
from crypsis.rl.trl.rollouts import reward, rollout_fields
from crypsis.rl.trl.settings import trl_arguments, trl_settings
from crypsis.rl.trl.vllm import vllm_sampler
from crypsis.rl.trl.weights import Moments, copy_weights, read_moments, write_moments
from crypsis.run_config import RunConfig, run_seed
from crypsis.store import METRICS
from crypsis.types import Episode, UserError

Sharding = Literal["none", "fsdp2", "zero", "zero3"]
"""How the training state is divided: not at all (one process, DDP), by FSDP2, or by DeepSpeed."""
OnStep = Callable[[Mapping[str, Any]], None]


def train(
    policy: Policy,
    config: RunConfig,
    context: RunContext,
    folder: Path,
    evaluate: Evaluate,
    on_step: OnStep = lambda _: None,
    log: Log = lambda _: None,
) -> Policy:
    """Runs GRPO as ``crypsis.rl.loop.train`` does; every process of the run calls it, the first one writes.

    Args:
        policy: Loaded whole, by every process.
        config: The run; its ``trl`` section holds further options of ``GRPOConfig``.
        context: Scenario, monitors, mitigations and preference model.
        folder: The run folder; a resumed run starts from its last checkpoint, whichever back end wrote it.
        evaluate: Called by the first process with the policy, the number of steps done, and how it is computed.
        on_step: Called by the first process with each row of metrics.
        log: Called by the first process with what the user should know, a line at a time.

    Returns:
        The trained policy, whole.

    Raises:
        UserError: The ``trl`` section is wrong, groups would be split over processes, or memory does not suffice.
    """
    _quiet()
    state = PartialState()
    saved = latest_state(folder / "checkpoints")
    steps = config.rl.steps - (saved.step if saved else 0)
    cpu = state.device.type == "cpu"
    arguments = trl_arguments(trl_settings(config, folder, state.num_processes, steps, cpu))
    run = _Run(policy, config, context, folder, evaluate, on_step, how_sharded(arguments))
    run.start(saved, log)
    if run.done < config.rl.steps:
        _learn(_trainer(policy, arguments, run), config)
    run.evaluate(config.rl.steps)
    return run.policy


def _learn(trainer: GRPOTrainer, config: RunConfig) -> None:
    try:
        trainer.train()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"{config.name}: out of memory; lower rl.micro_batch or rl.max_new_tokens, or set "
            "model.gradient_checkpointing=true or model.lora={}"
        ) from None


def _trainer(policy: Policy, arguments: GRPOConfig, run: _Run) -> GRPOTrainer:
    try:
        trainer = GRPOTrainer(
            model=policy.model,
            reward_funcs=reward,
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": run.keys()}),
            processing_class=policy.tokenizer,
            rollout_func=run.rollout,
            callbacks=[run],
        )
    except ConnectionError as error:  # TRL's, when no vLLM server answers
        raise UserError(f"trl: {' '.join(str(error).split())}") from None
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Run(TrainerCallback):
    """What TRL's trainer asks for episodes, and what writes the run folder after each of its steps.

    Attributes:
        policy: The policy as plain modules: the trainer's own, or a whole copy of it where the trainer cuts it up.
        done: Steps that were done before this process started.
    """

    def __init__(
        self,
        policy: Policy,
        config: RunConfig,
        context: RunContext,
        folder: Path,
        evaluate: Evaluate,
        on_step: OnStep,
        sharding: Sharding,
    ) -> None:
        self.process = PartialState()
        self.policy, self.config, self.context, self.folder = policy, config, context, folder
        self.sharding, self.done = sharding, 0
        self._evaluate, self._on_step = evaluate, on_step
        self._states = folder / "checkpoints"
        self._moments: Moments = {}
        self._trainer: Any = None
        self._copied = -1
        self._rows: list[dict[str, Any]] = []

    def start(self, saved: State | None, log: Log) -> None:
        """Loads a checkpoint, checks the prefix and fits the pilot, with the whole policy: a trainer may cut it up.

        Raises:
            UserError: The state is damaged, the launcher's settings do not go with this back end, or there are too few
                requests for a step.
        """
        if any(parameter.is_meta for parameter in self.policy.model.parameters()):
            raise UserError(
                "accelerate: set fsdp_cpu_ram_efficient_loading: false; every process samples from the model"
            )
        if saved and self.sharding in ("zero", "zero3"):
            raise UserError(f"{self._states}: DeepSpeed runs cannot be resumed; use FSDP2, or --exists overwrite")
        prompts, asked = pilot_prompts(self.policy, self.config, self.context), self.config.rl.prompts_per_step
        if len(prompts) < asked:
            raise UserError(
                f"{self.config.name}: rl.prompts_per_step={asked}, and the scenario '{self.context.scenario.name}' has "
                f"{len(prompts)} requests to train on; lower it (TRL takes whole steps)"
            )
        why = why_padded(self.policy, prompts)
        self.context = replace(self.context, engine=Engine(why))
        if why and self.process.is_main_process:
            log(f"replies are sampled without a shared prefix, which is slower: {why}")
        if self.process.is_main_process:  # on the policy before training, so before a checkpoint is loaded
            fit_pilot(self.policy, self.config, self.context, self.folder)
            if saved:
                self._evaluate(self.policy, 0, self.context.engine)
        known = self._resume(saved) if saved else ""
        if self.process.is_main_process:
            self._rows = keep_rows(self.folder / METRICS, self.done, known)
            check_stored(self.folder, self.config, self.done)
        self.process.wait_for_everyone()
        pilot = fit_pilot(self.policy, self.config, self.context, self.folder)
        self._correction = pilot.correction
        self._calibrated = pilot.mitigations
        if self.sharding in ("fsdp2", "zero3"):
            self.policy.model.cpu()  # the trainer takes its shards from there
            self.policy = replace(self.policy, model=copy.deepcopy(self.policy.model))

    def _resume(self, saved: State) -> str:
        """Goes on from a checkpoint; returns the digest of the rows of its steps."""
        optimiser = make_optimiser(self.policy.model, self.config.rl)
        extra = saved.load(self.policy.model, [optimiser])
        self._moments = read_moments(self.policy.model, optimiser, keep=True)
        self.done = saved.step
        return str(extra.get("rows", ""))

    def keys(self) -> list[str]:
        """TRL's dataset: a key for each prompt of each step that is still to do."""
        steps = range(self.done + 1, self.config.rl.steps + 1)
        return [f"{step}/{number}" for step in steps for number in range(self.config.rl.prompts_per_step)]

    def evaluate(self, step: int) -> None:
        """Evaluates on the first process; the others wait for it at their next exchange."""
        self._refresh(step)
        if self.process.is_main_process:
            self._evaluate(self.policy, step, self.context.engine)

    def rollout(self, keys: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        """TRL's ``rollout_func``: this process's share of the step's episodes, each group whole."""
        self._trainer = trainer
        step = self.done + int(trainer.state.global_step) // self.config.rl.epochs + 1
        self._started, self._timer = time.perf_counter(), PhaseTimer()
        mitigations = at_step(self._calibrated, Schedule(step, self.config.rl.steps))
        self.context = replace(self.context, mitigations=mitigations)
        first = self._first_group(keys, step)
        if (step - 1) % self.config.evaluation.every == 0:
            self.evaluate(step - 1)
        if not trainer.args.use_vllm:
            self._refresh(step - 1)
        own = self._sample_own(step, first, len(keys) // self.config.rl.group_size)
        with self._timer("judging"):
            judge(own, self.context.monitors)
            episodes: list[Episode] = gather_object(own)
            self._reward(episodes)
        own_groups = self._groups[first : first + len(keys) // self.config.rl.group_size]
        stop = self.policy.tokenizer.eos_token_id
        return rollout_fields(own_groups, self.config.rl.learn, int(stop))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gives the trainer's optimiser the moments of the checkpoint."""
        if self._moments:
            write_moments(kwargs["model"], kwargs["optimizer"], self._moments)
            self._moments = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes the gradient of a step that teaches nothing away: zeros would still move AdamW by its momentum."""
        if not any(self._advantages.advantages) and not (self.config.rl.kl and self._trained_tokens()):
            kwargs["model"].zero_grad(set_to_none=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Writes what a step left: its row of metrics, its episodes and its checkpoint."""
        if logs is None or "grad_norm" not in logs:
            return
        rl = self.config.rl
        groups, epoch = divmod(int(state.global_step), rl.epochs)
        step = self.done + groups + (epoch > 0)
        if not math.isfinite(logs["grad_norm"]):
            raise UserError(
                f"{self.config.name}: step {step}: the gradient is not finite; lower rl.learning_rate, or use "
                "model.dtype=float32"
            )
        if epoch:
            return
        if self.process.is_main_process:
            row = self._row(step, logs)
            self._rows.append(row)
            append_row(self.folder / METRICS, row)
            write_episodes(rollouts_path(self.folder, step), self._episodes, self.config.name)
            record(self.folder, rollouts_path(self.folder, step))
            self._on_step(row)
        if step % rl.checkpoint_every == 0 or step == rl.steps:
            self._save(step, kwargs["model"], kwargs["optimizer"])
        release_memory()

    def _first_group(self, keys: Sequence[str], step: int) -> int:
        """The number of the first prompt of this process, after a look at whether TRL deals out what we count on."""
        size, first = self.config.rl.group_size, int(keys[0].partition("/")[2])
        share = self.config.rl.prompts_per_step // self.process.num_processes
        expected = [f"{step}/{number}" for number in range(first, first + share) for _ in range(size)]
        if keys != expected or first != share * self.process.process_index:
            raise RuntimeError(
                f"TRL gave process {self.process.process_index} other prompts of step {step} than expected"
            )
        return first

    def _sample_own(self, step: int, first: int, count: int) -> list[Episode]:
        scenario, seed = self.context.scenario, run_seed(self.config.seed, step)
        prompts = scenario.prompts("train", scenario.monitored_tier, self.config.rl.prompts_per_step, seed)
        with self._timer("rollout"):
            episodes = rollout(
                self.policy,
                prompts[first : first + count],
                group_size=self.config.rl.group_size,
                max_new_tokens=self.config.rl.max_new_tokens,
                seed=seed,
                step=step,
                first_group=first,
                share_scratchpad=self.config.rl.learn == "output",
                sampler=vllm_sampler(self._trainer) if self._trainer.args.use_vllm else None,
                timer=self._timer,
                engine=self.context.engine,
            )
            context, budget = self.context, self.config.rl.max_new_tokens
            ask_extra_turns(
                self.policy, episodes, context.mitigations, budget, self._timer, context.answerer, context.engine
            )
            return episodes

    def _reward(self, episodes: list[Episode]) -> None:
        """Rewards the step's episodes and notes the advantages that TRL will find."""
        rl = self.config.rl
        compose(episodes, self.context.preference, self._correction, self.context.mitigations, rl)
        self._episodes, self._groups = episodes, grouped(episodes)
        self._advantages: Advantages = step_advantages(self._groups, self.context.mitigations, rl.advantage_scale)

    def _row(self, step: int, logs: Mapping[str, float]) -> dict[str, Any]:
        rl = self.config.rl
        stats = LossStats(logs["loss"], self._trained_tokens(), 1.0, 0.0, 0.0, 0)
        options = {"clip_fraction": logs["clip_ratio/region_mean"]} if rl.epochs > 1 else {}
        options |= {"kl": logs["kl"]} if rl.kl else {}
        seconds = self._timer.seconds | {"total": time.perf_counter() - self._started}
        seconds["training"] = seconds["total"] - seconds["rollout"] - seconds["judging"]
        return (
            step_metrics(step, self._episodes, self._advantages, stats, logs["grad_norm"], self.context.thresholds)
            | options
            | {name: value for name, value in logs.items() if name.startswith("sampling/")}
            | {f"seconds_{name}": value for name, value in seconds.items()}
        )

    def _trained_tokens(self) -> int:
        return sum(sum(token_mask(e, self.config.rl.learn)) for e in self._episodes)

    def _refresh(self, step: int) -> None:
        """Brings the whole copy up to the weights after so many steps, where there is a copy."""
        if self._trainer is None or self.policy.model is self._trainer.model or self._copied == step:
            return
        self.policy.model.to(self.process.device)
        copy_weights(self._trainer.model, self.policy.model)
        self._copied = step

    def _save(self, step: int, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """A checkpoint that either back end can go on from."""
        if self.sharding in ("zero", "zero3"):
            return
        self._refresh(step)
        main = self.process.is_main_process
        moments = read_moments(model, optimiser, keep=main)
        if main:
            plain = make_optimiser(self.policy.model, self.config.rl)
            write_moments(self.policy.model, plain, moments)
            save_state(self._states, step, self.policy.model, [plain], {"rows": rows_digest(self._rows)})


def how_sharded(arguments: GRPOConfig) -> Sharding:
    """How ``accelerate launch`` or the options ``trl.fsdp`` and ``trl.deepspeed`` want the training state divided.

    Raises:
        UserError: FSDP of the first version.
    """
    if arguments.deepspeed_plugin is not None:
        return "zero3" if arguments.deepspeed_plugin.zero_stage == 3 else "zero"
    version = str((arguments.fsdp_plugin_args or {}).get("fsdp_version", ""))
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        version = version or os.environ.get("FSDP_VERSION", "1")
    if version not in ("", "2"):
        raise UserError("accelerate: fsdp_version: this back end runs FSDP2 only; set fsdp_version: 2")
    return "fsdp2" if version else "none"


def _quiet() -> None:
    """Keeps TRL from printing each dropped episode, and that ``rollout_func`` is experimental: it is pinned."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    dropped = "All reward functions returned None"
    logging.getLogger("trl.trainer.grpo_trainer").addFilter(lambda record: dropped not in record.getMessage())
