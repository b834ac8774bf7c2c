"""What torchrun starts for ``test_trl_backend.py``: the run of a config by TRL, once for each ``folder=sharding``.

Accelerate offers FSDP2 on accelerators alone, torch's ``fully_shard`` also on CPU processes: the one thing changed here
is which kind of distributed run Accelerate takes this for.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.tensor import DTensor

from crypsis.config import load_config
from crypsis.rl.trl import backend as trl_backend
from crypsis.rl.trl import weights as trl_weights
from crypsis.run_config import RunConfig
from crypsis.study.run_trl import run_by_trl

SHARDED = {"fsdp": True, "fsdp_config": {"version": 2}}
_set_up, _copy_weights = AcceleratorState.__init__, trl_weights.copy_weights


def _let_through(self: Any, *arguments: Any, fsdp_plugin: Any = None, **settings: Any) -> None:
    _set_up(self, *arguments, fsdp_plugin=fsdp_plugin, **settings)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def _copy_shards(source: nn.Module, target: nn.Module) -> None:
    parameters = list(source.parameters())
    assert all(isinstance(p, DTensor) and p.to_local().numel() < p.numel() for p in parameters), "nothing is sharded"
    _copy_weights(source, target)


def main() -> None:
    config = load_config(RunConfig, Path(sys.argv[1]))
    AcceleratorState.__init__ = _let_through
    vars(trl_backend)["copy_weights"] = _copy_shards
    for job in sys.argv[2:]:
        folder, _, sharding = job.partition("=")
        options = SHARDED if sharding == "fsdp2" else {}
        run_by_trl(config.model_copy(update={"trl": options}), Path(folder))


if __name__ == "__main__":
    main()
