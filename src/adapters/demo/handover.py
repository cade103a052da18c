"""What the training process leaves in the output folder for the process that loads the adapter again.

    adapter/                  the adapter and its head, as `save_adapter` writes them
    test-set.json             the test docstrings and what they document
    test-logits.safetensors   what the model made of them at the end of training, shape (N, C)

Shapes: N test texts, C labels.
"""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from .harvest import Example

ADAPTER_FOLDER = "adapter"
_TEST_SET = "test-set.json"
_LOGITS = "test-logits.safetensors"


def write_test_set(folder: Path, examples: list[Example], logits: Tensor) -> None:
    """Write the test examples and their logits (N, C)."""
    rows = [asdict(example) for example in examples]
    (folder / _TEST_SET).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    save_file({"logits": logits.contiguous()}, folder / _LOGITS)


def read_test_set(folder: Path) -> tuple[list[Example], Tensor]:
    """The test examples and their logits (N, C) at the end of training."""
    rows = json.loads((folder / _TEST_SET).read_text(encoding="utf-8"))
    return [Example(**row) for row in rows], load_file(folder / _LOGITS)["logits"]


def size_on_disk(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
