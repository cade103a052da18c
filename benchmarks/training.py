"""Cost of training an adapter on bert-base 8×128: time of forward + backward, and the activations kept for backward.

Run: `python benchmarks/training.py [seq_bn …] [--seconds 60]`

Times are ratios to the bare model's forward pass (eval, no_grad), measured in interleaved pairs; one thread.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from measure import emit, emit_error, paired_ratios, quiet_single_thread
from models import SHAPES, adapted, twin

METHODS = {
    "seq_bn": "seq_bn",
    "double_seq_bn": "double_seq_bn",
    "par_bn, reduction 16": "par_bn[reduction_factor=16]",
    "compacter": "compacter",
    "lora r 8 (q, v)": "lora",
    "ia3": "ia3",
    "dora": "dora",
    "vera": "vera",
    "prefix 30": "prefix_tuning",
    "prefix 30 flat": "prefix_tuning_flat",
    "prompt 10": "prompt_tuning",
    "loreft": "loreft",
    "seq_bn, first 6 dropped": "seq_bn",
}
DROPPED = {"seq_bn, first 6 dropped": range(6)}
"""Layers whose adapters are left out (AdapterDrop)."""
FULL = "full fine-tuning"
SHAPE = "bert-base/8x128"


def trainable(bare: nn.Module, title: str) -> Any:
    """A model in training mode (dropout included): all of it, or one adapter on the frozen base."""
    if title == FULL:
        return twin(bare).train()
    model = adapted(bare, METHODS[title])
    model.train_adapter("a0")
    if title in DROPPED:
        model.set_active_adapters("a0", skip_layers=list(DROPPED[title]))
    return model.train()


def loss(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    hidden: Tensor = model(**inputs)[0]
    return hidden.square().mean()


def step(model: Any, inputs: dict[str, Tensor]) -> None:
    torch.autograd.backward(loss(model, inputs))
    model.zero_grad(set_to_none=True)


def saved_bytes(model: nn.Module, inputs: dict[str, Tensor]) -> int:
    """Bytes that autograd keeps between forward and backward: each storage once, without parameters and buffers."""
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, torch.UntypedStorage] = {}  # holds the storages, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(model, inputs)
    return sum(storage.nbytes() for storage in saved.values())


def measure(bare: nn.Module, title: str, seconds: float) -> None:
    inputs = SHAPES[SHAPE].inputs()
    model = trainable(bare, title)
    emit(f"training {title}: activations kept", "MB", [saved_bytes(model, inputs) / 1e6])

    @torch.no_grad()
    def forward() -> None:
        bare(**inputs)

    emit(f"training {title}: step over bare forward", "x", paired_ratios(forward, lambda: step(model, inputs), seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "methods", nargs="*", default=[FULL, *METHODS], metavar="method", help=f"{FULL}, {', '.join(METHODS)}"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each method")
    arguments = parser.parse_args()
    quiet_single_thread()
    bare = SHAPES[SHAPE].build().eval()
    for title in arguments.methods:
        try:
            measure(bare, title, arguments.seconds)
        except Exception as error:  # one method that a library cannot run must not end the others
            emit_error(f"training {title}: step over bare forward", error)


if __name__ == "__main__":
    main()
