"""The tables of docs/composition.md: which blocks can be in which, and which methods have which blocks.

`python tests/composition_tables.py` writes them anew; a test compares.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import models
from adapters import Average, BatchSplit, Fuse, Gate, MultiTask, Parallel, Split, Stack

DOCUMENT = Path(__file__).parents[1] / "docs" / "composition.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
BLOCKS: dict[str, Callable[..., Any]] = {
    "Stack": Stack,
    "Fuse": lambda *children: Fuse(*children, name="fused"),
    "Gate": lambda *children: Gate(*children, name="gated"),
    "Split": lambda *children: Split(*children, splits=[2, 4]),
    "Average": Average,
    "Parallel": Parallel,
    "BatchSplit": lambda *children: BatchSplit(*children, batch_sizes=[1, 1]),
    "MultiTask": MultiTask,
}
METHODS = {
    "bottlenecks": "double_seq_bn[reduction_factor=4]",
    "LoRA and its relatives": "lora[r=2, attn_matrices=['q', 'k', 'v', 'o']]",
    "IA³": "ia3",
    "prefix tuning": "prefix_tuning[prefix_length=3, bottleneck_size=8]",
    "prompt tuning": "prompt_tuning[prompt_length=3]",
    "ReFT": "loreft",
    "BitFit, LayerNorm tuning": "bitfit|ln_tuning",
    "unions": "lora[r=2]|seq_bn[reduction_factor=4]",
}


def answer(model: Any, block: Any) -> str:
    """Whether a forward pass with a block works, or in short why not."""
    try:
        model.set_active_adapters(block)
        ids = models.inputs("bert")["input_ids"]
        tasks = {"task_ids": [0, 1]} if any(isinstance(b, MultiTask) for b in block.blocks()) else {}
        with torch.no_grad():
            model(ids, **tasks)
    except ValueError:
        return "–"
    return "✓"


def with_four(preset: str) -> Any:
    model: Any = models.adapted("bert")
    for name in "abcd":
        model.add_adapter(name, preset)
    for block, name in ((Fuse("b", "c"), "fused"), (Gate("b", "c"), "gated")):
        with contextlib.suppress(ValueError):
            model.add_adapter_fusion(block, name=name)
    return model


def nestings() -> str:
    """Rows are the outer blocks, columns the inner ones."""
    model = with_four("seq_bn[reduction_factor=4]")
    lines = [f"| outer \\ inner | {' | '.join(BLOCKS)} |", "|---" * (len(BLOCKS) + 1) + "|"]
    for outer, make in BLOCKS.items():
        cells = []
        for inner, make_inner in BLOCKS.items():
            first = make_inner("b", "c")
            if outer == "Split" and inner == "Split":
                first = Split("b", "c", splits=[1, 1])
            if outer == "BatchSplit" and inner == "BatchSplit":
                first = BatchSplit("b", "c", batch_sizes=[1, 0])
            # A gate is made for its adapters, in their order, so these are the last ones of its children.
            second = "c" if outer in ("Fuse", "Gate") else "a"
            first = Stack(first, "b") if outer in ("Fuse", "Gate") else first
            cells.append(answer(model, make(first, second)))
        lines.append(f"| `{outer}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def methods() -> str:
    """Rows are the methods, columns the blocks."""
    lines = [f"| | {' | '.join(BLOCKS)} |", "|---" * (len(BLOCKS) + 1) + "|"]
    for title, preset in METHODS.items():
        model = with_four(preset)
        cells = [answer(model, make("b", "c")) for make in BLOCKS.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables() -> str:
    return f"{BEGIN}\n\n{nestings()}\n\n{methods()}\n\n{END}"


if __name__ == "__main__":
    text = DOCUMENT.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOCUMENT.write_text(before + tables() + after)
