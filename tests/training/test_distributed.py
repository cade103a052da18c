"""Two processes train what one would, and write it: DDP with the `AdapterTrainer`, FSDP in a plain loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("accelerate", reason="the Trainer needs it")
HERE = Path(__file__).parent
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = ("accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1", "--main_process_port=0")


def run(launcher: tuple[str, ...], script: str, *arguments: str) -> None:
    """Run a script of this folder in new processes."""
    launch = ["-m", *launcher] if launcher else []
    paths = os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = subprocess.run(
        [sys.executable, *launch, str(HERE / script), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr[-3000:]


def assert_close(one: Path, other: Path, tolerance: float = 1e-6) -> None:
    """That two folders hold the same adapters, none of them empty."""
    paths = [path.relative_to(one) for path in one.rglob("*.safetensors")]
    names = sorted(path for path in paths if "checkpoint" not in str(path))
    assert {"adapter.safetensors", "model_head.safetensors"} <= {name.name for name in names}
    for name in names:
        expected, found = load_file(one / name), load_file(other / name)
        assert found.keys() == expected.keys() and all(tensor.numel() for tensor in found.values())
        for key, tensor in found.items():
            torch.testing.assert_close(tensor, expected[key], rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate launch"])
@pytest.mark.parametrize("kind", ["flexible", "static", "lora", "fusion"])
def test_ddp(kind: str, launcher: tuple[str, ...], tmp_path: Path) -> None:
    """Also after an interruption."""
    # Losses of transformers' own classes that are means already would be multiplied by the number of processes.
    options = {} if kind in ("flexible", "fusion") else {"average_tokens_across_devices": False}
    run((), "distributed_run.py", str(tmp_path / "one"), kind, "4", json.dumps(options))
    run(launcher, "distributed_run.py", str(tmp_path / "two"), kind, "4", json.dumps(options))
    assert_close(tmp_path / "one", tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "losses.json").read_text()) for name in ("one", "two"))
    assert [entry[:2] for entry in one] == [entry[:2] for entry in two]
    assert [entry[2] for entry in two] == pytest.approx([entry[2] for entry in one], rel=1e-4)
    if launcher == TORCHRUN:
        parts = str(tmp_path / "parts")
        run(launcher, "distributed_run.py", parts, kind, "4", json.dumps({**options, "stop": 2}))
        run(launcher, "distributed_run.py", parts, kind, "4", json.dumps({**options, "resume": True}))
        assert_close(tmp_path / "two", tmp_path / "parts", 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("is_plain", [False, True], ids=["AdapterTrainer", "Trainer"])
def test_checkpoints_of_accelerate_launch(is_plain: bool, tmp_path: Path) -> None:
    """They hold adapters alone, are those of one process, and a training is resumed from them, also by the best."""
    options = {"load_best_model_at_end": True, "optim": "adamw_torch", "plain": is_plain}
    one, two, parts = (tmp_path / name for name in ("one", "two", "parts"))
    for launcher, folder, more in (
        ((), one, {}),
        (ACCELERATE, two, {}),
        (ACCELERATE, parts, {"stop": 2}),
        (ACCELERATE, parts, {"resume": True}),
    ):
        run(launcher, "distributed_run.py", str(folder), "fusion", "4", json.dumps(options | more))
    for name in ("checkpoint-2", "checkpoint-4"):
        assert_close(one / name, two / name, 1e-4)
        assert not list((two / name).glob("model*.safetensors"))
    assert_close(two / "checkpoint-4", parts / "checkpoint-4", 0.0)
    saved = "model.safetensors" if is_plain else "trained_state.safetensors"  # what the best has left
    expected, found = load_file(two / saved), load_file(parts / saved)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert (two / "losses.json").read_text() == (parts / "losses.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["DDP", "FSDP1", "FSDP2"])
@pytest.mark.parametrize("method", ["lora[r=2]", "double_seq_bn[reduction_factor=4]"])
@pytest.mark.parametrize("kind", ["static", "flexible"])
def test_plain_loops(kind: str, method: str, how: str, tmp_path: Path) -> None:
    """A part of an adapter is never written: that is an error, which says what to do."""
    run((), "sharded_loop.py", str(tmp_path / "one"), "none", method, kind)
    run(TORCHRUN, "sharded_loop.py", str(tmp_path / "two"), how, method, kind)
    assert_close(tmp_path / "one", tmp_path / "two")
