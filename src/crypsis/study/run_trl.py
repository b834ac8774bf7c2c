"""One RL run by TRL: ``run_by_trl(config, folder)`` is called by every process that Accelerate or torchrun starts."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from crypsis.locks import locked
from crypsis.rl.resume import REPAIRED
from crypsis.run_config import RunConfig
from crypsis.store import Exists, prepare_folder
from crypsis.study.context import load_context, with_kept_dtype
from crypsis.study.run import LOCK_WAIT, finish, run_log, stored_evaluation
from crypsis.types import UserError

OLDEST, TESTED, BEFORE = (1, 16), (1, 16), (2, 0)
"""Versions of TRL: the oldest with ``rollout_func`` as it is used here, the newest that the tests of the same step have
compared (tests/golden/test_against_trl.py), and the first that is refused."""
T = TypeVar("T")


def run_by_trl(
    config: RunConfig,
    folder: Path,
    exists: Exists = "resume",
    on_step: Callable[[Mapping[str, Any]], None] = lambda _: None,
    log: Callable[[str], None] = lambda _: None,
    on_start: Callable[[], None] = lambda: None,
) -> Path:
    """Trains, evaluates and stores one run as ``crypsis.study.run.run_one`` does; the first process writes.

    Raises:
        UserError: TRL is missing, the folder is in use or was made with another config, or the config names an unknown
            plug-in.
    """
    note = check_installed()
    begun = time.monotonic()
    import torch
    from accelerate import PartialState

    from crypsis.rl.trl import backend as trl_backend
    from crypsis.rl.trl.refusals import refuse
    from crypsis.rl.trl.settings import DEFAULTS, trl_settings

    patience = timedelta(seconds=config.trl.get("ddp_timeout", DEFAULTS["ddp_timeout"]))
    process = PartialState(cpu=config.model.device == "cpu" or not torch.cuda.is_available(), timeout=patience)
    main = process.is_main_process
    # What the user may have got wrong is refused before anything is written.
    # Either back end goes on from the other's checkpoints, so both count the same code.
    measured: list[str] = []
    asked = config
    config = first(lambda: with_kept_dtype(asked, folder, exists, measured.append))
    context = load_context(config, digests=main, code="crypsis.study.run")
    config = context.config
    trl_settings(config, folder, process.num_processes, config.rl.steps, cpu=True)
    refuse(context.policy, config, context)
    with locked(folder, wait=LOCK_WAIT) if main else nullcontext():
        if first(lambda: prepare_folder(folder, config, exists, inputs=context.digests, repairs=REPAIRED)):
            return folder
        context.check_access()
        if main:
            on_start()
        evaluate, log = stored_evaluation(context, folder), run_log(folder, log)
        for line in (*measured, *filter(None, [note])):
            log(line)
        trained = trl_backend.train(context.policy, config, context, folder, evaluate, on_step, log)
        if main:
            more = {"backend": _backend(process), "seconds": time.monotonic() - begun}
            finish(replace(context, policy=trained), folder, **more)
        process.wait_for_everyone()
    return folder


def _backend(process: Any) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("trl", "accelerate")}
    return {"name": "trl", **versions, "processes": process.num_processes}


def check_installed() -> str:
    """Refuses to start without the extra, or with a TRL that this back end was not written for.

    Returns:
        A line on a TRL that is newer than those tested, or nothing.

    Raises:
        UserError: What to install.
    """
    note = ""
    for package in ("trl", "accelerate", "datasets"):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise UserError(f"--backend trl: {package} is not installed; pip install 'crypsis[trl]'") from None
        if package != "trl":
            continue
        found = tuple(int(part) for part in version.split(".")[:2])
        if not OLDEST <= found < BEFORE:
            raise UserError(f"--backend trl: needs trl >=1.16,<2, found {version}; pip install 'crypsis[trl]'")
        if found > TESTED:
            note = (
                f"trl {version} is newer than the newest that was compared with the core ({TESTED[0]}.{TESTED[1]}); "
                "pytest tests/golden/test_against_trl.py compares it"
            )
    return note


def first(work: Callable[[], T]) -> T:
    """What ``work`` gives in the first process, told to all of them; its mistakes of the user end them all.

    Raises:
        UserError: In the first process; the others leave without a word.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    told: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            told = [work(), None]
        except UserError as error:
            told = [None, str(error)]  # its words: not every error can be sent
    broadcast_object_list(told)
    if told[1] is not None:
        if PartialState().is_main_process:
            raise UserError(told[1])
        raise SystemExit(2)
    result: T = told[0]
    return result
