"""One process of a plain loop with a divided model, run by torchrun with tests/ on the path: test_distributed.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_runs import flexible, rows, static
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel
from transformers.models.bert.modeling_bert import BertLayer

from adapters.checkpoints.files import AdapterFileError
from adapters.training import checkpoints, gathered

OPTIONS = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def wrapped(model: Any, how: str) -> Any:
    """A model as it is wrapped for training."""
    if how == "DDP":
        return DistributedDataParallel(model, find_unused_parameters=True)
    if how == "FSDP1":
        policy = ModuleWrapPolicy([BertLayer])
        return FullyShardedDataParallel(
            model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
        )
    if how == "FSDP2":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in model.bert.encoder.layer:
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    return model


def main(folder: str, how: str, method: str, kind: str) -> None:
    """Train three steps, each process on its rows, and save."""
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if count > 1:
        dist.init_process_group("gloo")
    model = static(method, **OPTIONS) if kind == "static" else flexible(method, **OPTIONS)
    outer = wrapped(model, how)
    optimizer = torch.optim.SGD([p for p in outer.parameters() if p.requires_grad], lr=0.1)
    data = rows(8)[rank::count]
    batch = {key: torch.stack([row[key] for row in data]) for key in data[0]}
    for _ in range(3):
        optimizer.zero_grad()
        outer(**batch).loss.backward()
        optimizer.step()
    if how.startswith("FSDP"):
        try:
            model.save_adapter(f"{folder}-{rank}", "a")
            raise AssertionError("a part was saved")
        except AdapterFileError as error:
            assert "adapters.training.gathered" in str(error), error
    with gathered(outer):
        if rank == 0:
            checkpoints.write(model, Path(folder))
    outer(**batch).loss.backward()  # the model goes on
    if count > 1:
        dist.barrier()
        del outer  # torch hangs now and then if what DDP has wrapped around any model is freed after its group
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
