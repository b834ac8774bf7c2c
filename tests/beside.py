"""What the spawned processes of ``test_processes`` run."""

from __future__ import annotations

import os
from pathlib import Path

from crypsis.models import Policy, load_trainable
from crypsis.parallel import Ranks
from crypsis.rl import loop
from crypsis.run_config import RunConfig
from crypsis.study.context import load_context


def exact_policy(config: RunConfig) -> Policy:
    """In float64, where rounding does not change what is sampled."""
    policy = load_trainable(config.policy, config.model)
    policy.model.double()
    return policy


def assist(ranks: Ranks, config: RunConfig, folder: Path) -> None:
    loop.assist(exact_policy(config), config, load_context(config), folder, ranks)


def die(_: Ranks) -> None:
    os._exit(9)
