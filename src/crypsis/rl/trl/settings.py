"""How a run's config reads to TRL's ``GRPOTrainer``: the algorithm written out, nothing of it left to a default.

TRL's defaults are another algorithm (linear decay, bf16, whole sequences dropped by importance sampling under vLLM), so
``fixed_settings`` names each of them, and the ``trl`` section of a config may only set what is left.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

from trl import GRPOConfig
from trl.import_utils import is_vllm_available

from crypsis.config import did_you_mean
from crypsis.rl.learner import BETAS
from crypsis.run_config import RLConfig, RunConfig
from crypsis.types import UserError

DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "disable_tqdm": True,
    "ddp_find_unused_parameters": False,
    "ddp_timeout": 7200,  # seconds: the other processes wait while the first one evaluates
    # Truncated importance sampling (Yao et al. 2025) against what vLLM says it sampled from; idle without vLLM.
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "token_truncate",
    "vllm_importance_sampling_clip_max": 2.0,
}
"""What the ``trl`` section may change: TRL's defaults for these, made explicit or replaced."""


def fixed_settings(rl: RLConfig) -> dict[str, Any]:
    """The algorithm, in TRL's words: the loss, sampling distribution and optimiser of ``crypsis.rl.loop``."""
    return {
        "num_generations": rl.group_size,
        "max_completion_length": rl.max_new_tokens,
        # Training samples come from the policy itself, so that they are on policy.
        "temperature": rl.temperature,
        "top_p": rl.top_p,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "generation_kwargs": None,
        # The sum over the step's trained tokens, divided by their number, of all processes and micro-batches.
        "loss_type": "dapo",
        "scale_rewards": rl.advantage_scale,
        "multi_objective_aggregation": "sum_then_normalize",
        "reward_weights": None,
        "beta": rl.kl,
        "use_bias_correction_kl": False,
        # Optimiser steps on the same episodes; TRL's ratios are against the policy when it sampled, as ours.
        "num_iterations": rl.epochs,
        "epsilon": rl.clip,
        "epsilon_high": None,
        "delta": None,
        "importance_sampling_level": "token",
        "off_policy_mask_threshold": None,
        "top_entropy_quantile": 1.0,
        "entropy_coef": 0.0,
        "use_adaptive_entropy": False,
        "router_aux_loss_coef": 0.0,
        # TRL takes a completion for truncated by its last token, and leaves its reward in the group's baseline.
        "mask_truncated_completions": False,
        "disable_dropout": True,
        "sync_ref_model": False,
        "learning_rate": rl.learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "optim": "adamw_torch",
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": rl.max_grad_norm,
    }


def batch_sizes(rl: RLConfig, processes: int) -> tuple[int, int]:
    """Rows per forward pass and forward passes per step, for one of so many processes.

    Raises:
        UserError: The prompts cannot be dealt out whole: TRL would split groups over processes without a word.
    """
    if rl.prompts_per_step % processes:
        raise UserError(
            f"rl.prompts_per_step: {rl.prompts_per_step} prompts do not divide among {processes} processes, and a "
            f"group must not be split; take a multiple of {processes}"
        )
    rows = rl.prompts_per_step // processes * rl.group_size
    micro_batch = next(size for size in range(min(rl.micro_batch, rows), 0, -1) if rows % size == 0)
    return micro_batch, rows // micro_batch


def trl_settings(config: RunConfig, folder: Path, processes: int, steps: int, cpu: bool) -> dict[str, Any]:
    """All arguments of ``GRPOConfig`` for ``steps`` steps of a run.

    Args:
        config: The run.
        folder: Its folder.
        processes: How many processes share a step.
        steps: Steps that are still to do.
        cpu: Whether there is no accelerator.

    Raises:
        UserError: The ``trl`` section names an option that TRL does not have or that is not free, groups would be
            split over processes, or the run asks for what TRL would do otherwise.
    """
    micro_batch, passes = batch_sizes(config.rl, processes)
    fixed = fixed_settings(config.rl) | {
        "output_dir": str(folder / "trl"),
        "seed": config.seed,
        "max_steps": steps * config.rl.epochs,  # TRL counts steps of the optimiser
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": passes,
        "steps_per_generation": passes,
        "generation_batch_size": None,
        "shuffle_dataset": False,
        "remove_unused_columns": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "no",
        "use_cpu": cpu,
        # With an adapter the weights below it have the type themselves.
        "bf16": config.model.dtype == "bfloat16" and config.model.lora is None,
        "fp16": False,
        "activation_checkpointing": config.model.gradient_checkpointing,
    }
    if config.rl.processes > 1:
        raise UserError("rl.processes: is for the core; with --backend trl, torchrun or accelerate start the processes")
    if config.rl.kl_on not in (None, config.rl.learn):
        raise UserError(f"rl.kl_on={config.rl.kl_on}: a KL penalty on some tokens needs --backend core")
    if config.rl.kl and config.model.lora is not None:
        # TRL's reference is the adapter as it stands when the trainer starts: in a resumed run, a trained one.
        raise UserError("rl.kl: --backend trl has no reference for an adapter; set rl.kl=0, or take --backend core")
    if config.rl.learn == "output" and config.trl.get("use_vllm"):
        raise UserError("rl.learn=output: vLLM does not sample a shared scratchpad; leave trl.use_vllm out")
    known = [field.name for field in dataclasses.fields(GRPOConfig) if field.init]
    if config.trl.get("use_vllm") and not is_vllm_available():
        raise UserError("trl.use_vllm: vllm is not installed; pip install 'trl[vllm]'")
    for option in config.trl:
        if option in fixed:
            raise UserError(f"trl.{option}: crypsis sets this from rl and model, for both back ends; leave it out")
        if option.startswith("gradient_checkpointing"):
            raise UserError(f"trl.{option}: set model.gradient_checkpointing, for both back ends")
        if option not in known:
            raise UserError(f"trl.{option}: TRL's GRPOConfig has no such option{did_you_mean(option, known)}")
    return fixed | DEFAULTS | copy.deepcopy(config.trl)  # transformers writes into the options that it gets


def trl_arguments(settings: dict[str, Any]) -> GRPOConfig:
    """The settings as TRL takes them.

    Raises:
        UserError: TRL or transformers refuses a value, or several GPUs were left to one process.
    """
    try:
        arguments = GRPOConfig(**settings)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"trl: {' '.join(str(error).split())[:200]}") from None
    if arguments.n_gpu > 1:
        raise UserError(
            f"{arguments.n_gpu} GPUs are visible to one process; start one for each with torchrun or accelerate "
            "launch, or set CUDA_VISIBLE_DEVICES=0"
        )
    return arguments
