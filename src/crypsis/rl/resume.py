"""What a resumed run relies on besides its checkpoint: stored episodes, evaluations and monitors. No torch here."""

from __future__ import annotations

from pathlib import Path

from crypsis.digests import Damage, DamagedError, damages, start_anew
from crypsis.disk import remove
from crypsis.run_config import RunConfig
from crypsis.states import is_whole
from crypsis.store import steps_of

REPAIRED: tuple[str, ...] = (
    *("config.yaml", "inputs.json", "provenance.json", "pilot.json", "result.json"),
    *("evals/", "transplants/", "rollouts/", "monitors/", "model/", "checkpoints/"),
)
"""What a run may be able to make again; ``check_stored`` refuses what it cannot."""


def check_stored(folder: Path, config: RunConfig, done: int) -> None:
    """Refuses to go on if something is damaged or lost that belongs to a step which is not done again.

    What belongs to a later step is deleted, and made again when its turn comes.

    Args:
        folder: The run folder.
        config: The run.
        done: Steps that the checkpoint has done; evaluations of the policy then and at the start are made again.

    Raises:
        DamagedError: Something cannot be made again.
    """
    for older in steps_of(folder / "checkpoints"):
        state = folder / "checkpoints" / f"step-{older:04d}"
        if older < done and not is_whole(state):
            remove(state)  # nobody needs it, and it must not be listed as it is
    for damage in [*damages(folder), *_never_listed(folder, config, done)]:
        kind, _, rest = damage.file.partition("/")
        if kind not in ("evals", "transplants", "rollouts", "monitors"):
            continue
        step = next((int(part[5:9]) for part in rest.split("/") if part.startswith("step-") and part[5:9].isdigit()), 0)
        if kind in ("evals", "transplants") and (step == 0 or step >= done):
            continue  # found unsound, and made again, when the policy of that step is there
        if step <= done:
            raise DamagedError(damage, start_anew(folder))
        if kind == "monitors":
            place = folder / damage.file
            remove(next(p for p in place.parents if p.name == f"step-{step:04d}"))


def made_again(folder: Path, file: str) -> bool:
    """Whether the command of a finished run makes a lost file again from what is left.

    Args:
        folder: The run folder.
        file: Path in it.
    """
    done = max(steps_of(folder / "checkpoints"), default=0)
    kind, _, name = file.partition("/")
    if kind in ("evals", "transplants"):
        return name in (f"step-{step:04d}.parquet" for step in (0, done))
    return kind in ("config.yaml", "inputs.json", "provenance.json", "pilot.json", "result.json", "model")


def _never_listed(folder: Path, config: RunConfig, done: int) -> list[Damage]:
    """Evaluations and episodes of steps that are done which nobody has listed and which are not there either."""
    steps = range(config.evaluation.every, done, config.evaluation.every)
    wanted = [f"evals/step-{step:04d}.parquet" for step in steps]
    wanted += [f"rollouts/step-{step:04d}.parquet" for step in range(1, done + 1)]
    return [Damage(folder, file, "is missing") for file in wanted if not (folder / file).exists()]
