"""The same step by TRL's ``GRPOTrainer``, in the settings that made it fastest on a CPU (see docs/benchmarks.md)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.ours import Step
from benchmarks.workload import GROUP, Job, build_model, build_tokenizer, reward, seconds

MICRO_BATCH = 8
ROUND = 64
"""Episodes that are generated together: caches of 256 rows of 1,200 tokens do not fit the processor's."""

disable_progress_bar()


class _Stopwatch(TrainerCallback):
    """Times every round of episodes, from their generation to their gradients or the optimiser's step."""

    def __init__(self, size: int, micro_batch: int, between: Callable[[], None], advance: Callable[[], None]) -> None:
        self.rounds: list[Step] = []
        self.tokens: list[int] = []
        self._size, self._micro_batch, self._between, self._advance = size, micro_batch, between, advance
        self._micro_batches = 0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._start()

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        self._micro_batches += 1
        if self._micro_batches * self._micro_batch % self._size == 0:
            self._stop()
            self._start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._micro_batches += 1
        self._stop()

    def _start(self) -> None:
        self._between()
        self._advance()
        self._started = seconds()

    def _stop(self) -> None:
        self.rounds.append(Step(self._size, sum(self.tokens), seconds() - self._started, {}))
        self.tokens.clear()


def trl_rounds(
    job: Job,
    between: Callable[[], None],
    advance: Callable[[], None],
    model: Any = None,
    low: bool = False,
    micro_batch: int = MICRO_BATCH,
) -> list[Step]:
    """Takes one step with TRL; it generates and learns in rounds of ``ROUND`` episodes.

    Args:
        job: What to do.
        between: Called before every round, outside of its time.
        advance: Called at the start of every round.
        model: What is trained, if not the untrained model of the other measurements.
        low: Whether products are of bfloat16.
        micro_batch: Rows of a forward pass.

    Returns:
        One entry a round; the last one has the optimiser's step too.
    """
    size = min(ROUND, job.episodes)
    model = build_model() if model is None else model
    tokenizer = build_tokenizer(model.config.vocab_size)
    stops = job.stop_ids or [1]
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = stops, 0
    prompts = [tokenizer.decode(ids) for ids in job.prompts(1)]
    stopwatch = _Stopwatch(size, micro_batch, between, advance)

    def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
        stopwatch.tokens += [len(ids) for ids in completion_ids]
        return [reward(ids) for ids in completion_ids]

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=low,
            activation_checkpointing=False,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=job.episodes // micro_batch,
            steps_per_generation=size // micro_batch,
            num_generations=GROUP,
            max_completion_length=job.completion,
            cache_implementation="static",
            generation_kwargs=None if job.ragged else {"min_new_tokens": job.completion},
            shuffle_dataset=False,
            learning_rate=1e-5,
            lr_scheduler_type="constant",
            beta=0.0,
            loss_type="dapo",
            max_steps=1,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=rewards,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
            callbacks=[stopwatch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return stopwatch.rounds
