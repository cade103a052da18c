"""One process of an `AdapterTrainer` with FSDP on the CPU, run by torchrun; see test_fsdp_trainer.py.

accelerate takes a request for FSDP only with an accelerator (it uses DDP on the CPU, or raises). torch can do it with
gloo, so the state of accelerate is made to say that it is on.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from distributed_run import MODELS
from tiny_runs import Interruption, losses, rows
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from adapters import AdapterTrainer

_of_accelerator, _of_process = AcceleratorState.__init__, PartialState.__init__


@functools.wraps(_of_accelerator)
def _with_fsdp(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    _of_accelerator(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin


@functools.wraps(_of_process)
def _on_cpu(self: Any, *args: Any, **kwargs: Any) -> None:
    _of_process(self, *args, **kwargs)
    self.device = torch.device("cpu")  # FSDP takes "cpu:0" for another one


AcceleratorState.__init__, PartialState.__init__ = _with_fsdp, _on_cpu


class Divided(TrainerCallback):
    """Looks whether the model is divided, and the base model not in the checkpoints."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model: nn.Module = kwargs["model"]
        assert sum(isinstance(part, (FSDPModule, FullyShardedDataParallel)) for part in model.modules()) > 2

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        assert not [path.name for path in folder.iterdir() if "model" in path.name]


def main(folder: str, kind: str, version: str, options: str) -> None:
    """Train four steps with two rows in each process, and write what was logged."""
    given = json.loads(options)
    stop, resume = given.pop("stop", None), given.pop("resume", False)
    fsdp = {
        "version": int(version), "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": ["BertLayer"],
        "sync_module_states": False, **({"use_orig_params": True} if version == "1" else {}),
    }  # fmt: skip
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=4,
        save_steps=2,
        logging_steps=1,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        learning_rate=1e-2,
        max_grad_norm=0.0,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        eval_strategy="steps",
        eval_steps=2,
        fsdp="full_shard auto_wrap" if transformers.__version__.startswith("5.5.") else True,
        fsdp_config=fsdp,
        **given,
    )
    callbacks: list[TrainerCallback] = [Divided(), *([] if stop is None else [Interruption(stop)])]
    trainer = AdapterTrainer(
        MODELS[kind](), arguments, train_dataset=rows(16), eval_dataset=rows(16), callbacks=callbacks
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume or None)
    trainer.save_model(folder)
    if trainer.is_world_process_zero():
        (Path(folder) / "losses.json").write_text(json.dumps(losses(trainer)))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
