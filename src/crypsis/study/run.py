"""One RL run: ``run_one(config, folder)`` is idempotent, resumable, and the only thing that executors call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crypsis.config import digest
from crypsis.evaluation.evaluate import StoredEvaluation
from crypsis.identity.configs import identity, inputs_of
from crypsis.identity.files import content_digest
from crypsis.jsonlines import append_line
from crypsis.locks import locked
from crypsis.mitigations.hooks import AsksExtraTurn, SteersEvaluations
from crypsis.models import save_policy
from crypsis.parallel import Ranks, together
from crypsis.rl import loop
from crypsis.rl.context import RunContext
from crypsis.rl.resume import REPAIRED
from crypsis.run_config import RLConfig, RunConfig
from crypsis.store import CONFIG, INPUTS, LOG, METRICS, PROVENANCE, Exists, finish_folder, prepare_folder
from crypsis.study.context import load_context, run_inputs, with_kept_dtype

OWN = (
    *(CONFIG, INPUTS, PROVENANCE, METRICS, LOG, "pilot.json", "evals", "rollouts", "transplants", "monitors", "model"),
    *("checkpoints", "trl"),
)
"""What a run leaves. A report beside it is written again whenever it is asked for, so it gets no digests."""
LOCK_WAIT = 5.0
"""Seconds: a worker whose parent was killed needs a moment to notice and let go of its folder."""


def run_one(
    config: RunConfig,
    folder: Path,
    exists: Exists = "resume",
    on_step: Callable[[Mapping[str, Any]], None] = lambda _: None,
    log: Callable[[str], None] = lambda _: None,
    on_start: Callable[[], None] = lambda: None,
    shared: Path | None = None,
    study: Path | None = None,
) -> Path:
    """Trains, evaluates and stores one run; a finished folder is left as it is, a killed one is resumed.

    What the run says to its user also goes to ``log.txt``. What it has in common with other runs of a study, the
    evaluation of the policy that they start from, is computed once in the folder ``shared``, if there is one. Paths
    within the folder ``study`` are stored relative to it, so that it can be moved. ``on_start`` is called when the
    folder is ready and something is left to compute.

    Raises:
        UserError: The folder is in use or was made with another config or other inputs, or the config names an unknown
            plug-in.
    """
    begun = time.monotonic()
    with locked(folder, wait=LOCK_WAIT):
        # Everything that the user may have got wrong comes before the folder is marked as this config's.
        measured: list[str] = []
        context = load_context(with_kept_dtype(config, folder, exists, measured.append))
        config = context.config
        if prepare_folder(folder, config, exists, inputs=context.digests, root=study, repairs=REPAIRED):
            return folder
        context.check_access()
        on_start()
        evaluate, log = stored_evaluation(context, folder, shared), run_log(folder, log)
        for line in measured:
            log(line)
        with together(config.rl.processes, _assist, config, folder) as ranks:
            loop.train(context.policy, config, context, folder, evaluate, on_step, ranks, log)
        finish(context, folder, seconds=time.monotonic() - begun)
    return folder


def stored_evaluation(context: RunContext, folder: Path, shared: Path | None = None) -> StoredEvaluation:
    """What a run evaluates with; runs with the same key share the evaluation of step 0."""
    config = context.config
    asking = [
        m
        for m in context.mitigations
        if isinstance(m, SteersEvaluations) or (isinstance(m, AsksExtraTurn) and m.asks_in_evaluations)
    ]
    plain = {"name": "", "organism": "", "arm": "", "label": "", "mitigations": [], "trl": {}}
    start = config.model_copy(update=plain | {"rl": RLConfig(max_new_tokens=config.rl.max_new_tokens)})
    inputs = run_inputs(start, context.scenario, __name__)
    key = digest([identity(start, inputs), *([m.name, identity(m, inputs_of(m))] for m in asking)])
    return StoredEvaluation(
        folder,
        config.name,
        context.scenario,
        context.monitors,
        config.evaluation,
        config.rl.max_new_tokens,
        config.seed,
        context.mitigations,
        context.answerer,
        shared / key if shared else None,
    )


def run_log(folder: Path, to_user: Callable[[str], None]) -> Callable[[str], None]:
    """Logs a line to the user and to the log of the run folder."""
    path = folder / LOG
    known = set(path.read_text(encoding="utf-8", errors="replace").splitlines()) if path.exists() else set()

    def log(line: str) -> None:
        if line not in known:  # steps that a resumed run does again have said it already
            append_line(path, line)
        to_user(line)

    return log


def finish(context: RunContext, folder: Path, **more: Any) -> None:
    """Saves the trained policy, and last of all provenance (with ``more``) and result."""
    save_policy(context.policy, folder / "model")
    result = {"steps": context.config.rl.steps, "model": content_digest(folder / "model")}
    model = context.config.model.model_dump(mode="json")
    finish_folder(folder, result, context.digests, only=OWN, model=model, **more)


def _assist(ranks: Ranks, config: RunConfig, folder: Path) -> None:
    context = load_context(config, digests=False)
    loop.assist(context.policy, context.config, context, folder, ranks)
