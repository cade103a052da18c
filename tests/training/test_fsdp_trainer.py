"""`AdapterTrainer` under FSDP: two processes end as one does, write adapters only, resume, and find the best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_distributed import TORCHRUN, assert_close, run

pytest.importorskip("accelerate", reason="the Trainer needs it")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "version", "optimizer"),
    [
        # On the CPU, the first FSDP of torch mixes up the two averages of Adam when it collects them, …
        ("flexible", "1", "sgd"),
        # … and the second one cannot read an optimizer that has nothing to remember.
        ("flexible", "2", "adamw_torch"),
        ("lora", "2", "adamw_torch"),
    ],
)
def test_fsdp(kind: str, version: str, optimizer: str, tmp_path: Path) -> None:
    means = {} if kind == "flexible" else {"average_tokens_across_devices": False}  # see test_ddp
    options: dict[str, Any] = {**means, "optim": optimizer, "load_best_model_at_end": True}
    run((), "distributed_run.py", str(tmp_path / "one"), kind, "4", json.dumps(options))
    train(tmp_path / "two", kind, version, options)
    assert_close(tmp_path / "one", tmp_path / "two")
    config = json.loads((tmp_path / "two" / "a" / "adapter_config.json").read_text())
    assert config["model_class"] in ("BertAdapterModel", "BertForSequenceClassification")
    train(tmp_path / "parts", kind, version, {**options, "load_best_model_at_end": False, "stop": 2})
    train(tmp_path / "parts", kind, version, {**options, "resume": True})
    assert_close(tmp_path / "two", tmp_path / "parts", 0.0)
    whole, parts = (json.loads((tmp_path / name / "losses.json").read_text()) for name in ("two", "parts"))
    assert whole == parts


def train(folder: Path, kind: str, version: str, options: dict[str, Any]) -> None:
    """Train in two processes."""
    run(TORCHRUN, "fsdp_run.py", str(folder), kind, version, json.dumps(options))
