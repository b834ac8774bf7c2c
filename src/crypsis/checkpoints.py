"""Resumable training states: safetensors, digested, atomically renamed, last k kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crypsis.states import DIGEST, META, TENSORS, is_whole
from crypsis.store import file_digest, new_folder, read_json, steps_of, write_json
from crypsis.types import UserError

KEPT = 2


@dataclass(frozen=True, slots=True)
class State:
    """A saved training state: weights, optimiser moments and the caller's own numbers."""

    folder: Path
    step: int

    def load(self, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
        """Restores model and optimisers in place and returns the caller's numbers.

        Raises:
            UserError: The state is damaged, or that of another model.
        """
        if not is_whole(self.folder):
            raise UserError(
                f"{self.folder}: this checkpoint is damaged; "
                f"delete the folder {self.folder} and run the same command again to go on from the one before it"
            )
        tensors = load_file(self.folder / TENSORS)
        meta = read_json(self.folder / META)
        weights = {name: tensors[f"model.{name}"] for name in meta["weights"]}
        self._check_fits(weights, model)
        model.load_state_dict(weights, strict=False)
        for number, (optimiser, groups) in enumerate(zip(optimisers, meta["groups"], strict=True)):
            optimiser.load_state_dict({"state": _moments(tensors, number), "param_groups": groups})
        extra: dict[str, Any] = meta["extra"]
        return extra

    def _check_fits(self, weights: Mapping[str, Tensor], model: nn.Module) -> None:
        found = {name: tuple(w.shape) for name, w in weights.items()}
        wanted = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                raise UserError(
                    f"{self.folder}: this checkpoint is of another model ({name}: {found.get(name, 'missing')} there, "
                    f"{wanted.get(name, 'not trained')} here); use --exists overwrite or another --out"
                )


def save_state(
    folder: Path, step: int, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer], extra: Mapping[str, Any]
) -> None:
    """Writes ``folder/step-NNNN`` and deletes all but the last KEPT states.

    Args:
        folder: Where the states of this training live.
        step: Steps done so far.
        model: Its trained parameters are saved (all that are in ``requires_grad``).
        optimisers: In an order that ``State.load`` gets again.
        extra: JSON-able numbers of the caller.
    """
    weights = {n: p.detach().contiguous() for n, p in model.named_parameters() if p.requires_grad}
    tensors: dict[str, Tensor] = {f"model.{n}": p for n, p in weights.items()}
    groups = []
    for number, optimiser in enumerate(optimisers):
        state = optimiser.state_dict()
        groups.append(state["param_groups"])
        for index, moments in state["state"].items():
            tensors |= {f"optimiser.{number}.{index}.{k}": torch.as_tensor(v).contiguous() for k, v in moments.items()}
    with new_folder(folder / f"step-{step:04d}") as target:
        save_file(tensors, target / TENSORS)
        meta = {"step": step, "weights": sorted(weights), "groups": groups, "extra": dict(extra)}
        (target / META).write_text(json.dumps(meta))
        write_json(target / DIGEST, file_digest([target / TENSORS, target / META]))
    for old in steps_of(folder)[:-KEPT]:
        shutil.rmtree(folder / f"step-{old:04d}")


def latest_state(folder: Path) -> State | None:
    """The newest state of a folder, or None."""
    steps = steps_of(folder)
    return State(folder / f"step-{steps[-1]:04d}", steps[-1]) if steps else None


def _moments(tensors: Mapping[str, Tensor], number: int) -> dict[int, dict[str, Tensor]]:
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, *rest = name.split(".")
        if kind == "optimiser" and int(rest[0]) == number:
            found.setdefault(int(rest[1]), {})[rest[2]] = tensor
    return found
