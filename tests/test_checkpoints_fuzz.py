"""Files with random damage: they load, or a clear error is raised and the model is as it was; nothing else happens."""

from __future__ import annotations

import copy
import functools
import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters import Fuse, Stack
from adapters.checkpoints.files import AdapterFileError
from adapters.registry import UnknownAdapterError
from test_api import auto, run

PRESETS = {
    "bottleneck": "double_seq_bn_inv[reduction_factor=8, ln_before=True]",
    "compacter": "compacter[phm_dim=2, reduction_factor=8]",
    "lora": "lora[r=2, use_gating=True]",
    "dora": "dora[r=2]",
    "vera": "vera[r=2]",
    "ia3": "ia3",
    "mtl": "mtl_lora[r=2]",
    "prefix": "prefix_tuning[prefix_length=3, bottleneck_size=4]",
    "prompt": "prompt_tuning[prompt_length=3]",
    "reft": "loreft[r=1]",
    "union": "seq_bn[reduction_factor=16] | lora[r=1]",
}
FUSION, SAFE_FUSION, SETUP = "adapter_fusion_config.json", "model_adapter_fusion.safetensors", "adapter_setup.json"
SECONDS = 5  # in which every file, however damaged, is loaded or refused


class Case:
    """A folder that is whole, a model to load it into, and what is to be damaged.

    Args:
        folder: The folder.
        load: Loads it.
    """

    def __init__(self, folder: Path, load: Callable[[Any, Path], object]) -> None:
        self.folder, self.load, self.model = folder, load, auto()
        for name in ("a", "b"):
            self.model.add_adapter(name, "seq_bn[reduction_factor=16]")
        self.model.add_classification_head("a", num_labels=2)
        self.model.set_active_adapters("b")

    def state(self) -> tuple[object, ...]:
        """All of the model that a load that fails leaves as it was, and what its user draws next."""
        model = self.model
        return (
            [(name, id(p), p._version, p.requires_grad) for name, p in model.named_parameters()],
            list(model._adapter_registry.adapters),
            list(model._adapter_registry.fusions),
            list(model.heads),
            (repr(model.active_adapters), repr(model.active_head), model.training),
            torch.get_rng_state().tolist(),
        )


@functools.cache
def cases(root: Path) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for name, preset in PRESETS.items():
        model = auto()
        model.add_adapter("x", preset)
        model.add_classification_head("x", num_labels=3, id2label={0: "p", 1: "q", 2: "r"})
        use_safetensors = len(found) % 2 == 0
        model.save_adapter(root / name, "x", use_safetensors=use_safetensors)
        found[name] = Case(root / name, lambda model, folder: model.load_adapter(folder))
    model = auto()
    for name in ("a", "b"):
        model.add_adapter(name, "seq_bn[reduction_factor=16]")
    model.add_adapter_fusion(["a", "b"])
    model.save_adapter_fusion(root / "fusion", "a,b")
    found["fusion"] = Case(root / "fusion", lambda model, folder: model.load_adapter_fusion(folder))
    model.save_adapter_setup(root / "setup", Stack("a", Fuse("a", "b")))
    found["setup"] = Case(root / "setup", lambda model, folder: model.load_adapter_setup(folder, set_active=True))
    return found


# -- damages --------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 7, 0.5, -2.5, 100, 10**5, 10**9, 2**63, 10**30, 1e308),
    *(float("nan"), float("inf"), "", "a", "x", "gelu", "lora", "../../out", "a/b", "\0", "\ud800", "ü" * 300),
    *("seq_bn", "seq_bn[r=1", "classification", "dependency_parsing"),
    *([], {}, [1], ["a"], [[]], {"a": 1}, [None], list(range(50)), {"architecture": "lora"}, {"x": {"y": "z"}}),
]  # fmt: skip


def damaged_json(data: bytes, draw: random.Random) -> bytes:
    """A value somewhere in it is another one, or is gone, or is there twice."""
    document = json.loads(data)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        holders = list(_holders(document))
        holder = draw.choice(holders) if holders else document
        key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        action = draw.choice(["replace"] * 6 + ["remove", "add", "rename", "move", "nest"])
        if action == "replace":
            holder[key] = copy.deepcopy(draw.choice(VALUES))
        elif action == "remove":
            del holder[key]
        elif action == "nest":
            holder[key] = functools.reduce(lambda inner, _: [inner], range(draw.choice([3, 300])), holder[key])
        elif action == "move":
            holder[key] = copy.deepcopy(draw.choice(holders or [document]))
        elif isinstance(holder, dict):
            holder[draw.choice(["zz", "r", "config", "architecture"])] = (
                holder[key] if action == "add" else holder.pop(key)
            )
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)) and value:
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


def damaged_bytes(data: bytes, draw: random.Random) -> bytes:
    """Bits flipped, mostly in front; a part cut off, doubled, or replaced."""
    changed = bytearray(data)
    action = draw.choice(["flip"] * 5 + ["cut", "double", "zero", "noise", "front"])
    start = draw.randrange(len(changed))
    end = min(len(changed), start + draw.choice([1, 8, 100, 10_000]))
    if action == "flip":
        for _ in range(draw.choice([1, 3, 30])):
            at = int(len(changed) * draw.random() ** draw.choice([1, 8]))
            changed[at] ^= 1 << draw.randrange(8)
    elif action == "cut":
        del changed[start:]
    elif action == "double":
        changed[start:start] = changed[start:end]
    elif action == "zero":
        changed[start:end] = bytes(end - start)
    elif action == "noise":
        changed[start:end] = draw.randbytes(end - start)
    else:
        changed[:8] = draw.randrange(2 ** draw.choice([8, 16, 32, 63])).to_bytes(8, "little")
    return bytes(changed)


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool, torch.complex64]
DTYPES.append(torch.float8_e4m3fn)


def damaged_tensors(tensors: dict[str, Tensor], draw: random.Random) -> dict[str, Any]:
    """Tensors of other shapes and types, missing ones, ones too many, other names."""
    found: dict[str, Any] = dict(tensors)
    for _ in range(draw.choice([1, 1, 3])):
        key = draw.choice(list(found) or ["x"])
        tensor = found.get(key, torch.zeros(2))
        changes: list[Callable[[], Any]] = [
            lambda t=tensor: t.to(draw.choice(DTYPES)),
            lambda t=tensor: t.T.contiguous() if t.ndim == 2 else t[None],
            lambda t=tensor: t.flatten().clone(),
            lambda t=tensor: t[:-1].clone() if t.ndim else t.clone(),
            lambda: torch.zeros(draw.choice([(), (0,), (1, 1, 1), (2**40, 0)])),
            lambda t=tensor: torch.full_like(t.float(), draw.choice([float("nan"), float("inf"), 1e38])),
        ]
        action = draw.choice(["change"] * 4 + ["remove", "add", "rename"])
        if action == "change":
            found[key] = draw.choice(changes)()
        elif action == "remove":
            found.pop(key, None)
        else:
            others = [key + ".x", "", ".", "x." + key, key.replace("0", "7"), key.replace("weight", "bias"), "ü"]
            other = draw.choice(others)
            found[other] = tensor.clone() if action == "add" else found.pop(key, tensor)
    return found


def as_safetensors(path: Path, draw: random.Random) -> None:
    save_file({key: t.contiguous() for key, t in damaged_tensors(load_file(path), draw).items()}, path)


def as_pytorch(path: Path, draw: random.Random) -> None:
    found = damaged_tensors(torch.load(path, weights_only=True), draw)
    odd: list[Callable[[], Any]] = [
        lambda: found,
        lambda: {**found, 3: torch.zeros(2)},
        lambda: {**found, "x": 3},
        lambda: list(found.values()),
        lambda: {key: torch.zeros(()).expand(2**20, 2**20) for key in found},
        lambda: {key: torch.zeros(3, 3).to_sparse() for key in found},
        lambda: {key: torch.zeros(3, device="meta") for key in found},
        lambda: {key: torch.nn.Parameter(torch.as_tensor(t).float()) for key, t in found.items()},
    ]
    torch.save(draw.choice(odd[:1] * 8 + odd[1:])(), path)


def damage(folder: Path, draw: random.Random) -> str:
    """Damage one file of a folder; says which, and how."""
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    before = path.read_bytes()
    if path.suffix == ".json" and draw.random() < 0.8:
        path.write_bytes(damaged_json(before, draw))
        return f"{path.name}: {path.read_text(errors='replace')[:2000]}"
    if path.suffix != ".json" and draw.random() < 0.6:
        (as_safetensors if path.suffix == ".safetensors" else as_pytorch)(path, draw)
        return f"tensors of {path.name}"
    path.write_bytes(damaged_bytes(before, draw))
    return f"bytes of {path.name}"


# -- the test -------------------------------------------------------------------------------------------------------


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt("took too long")

    former = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


def check(case: Case, folder: Path, draw: random.Random) -> bool:
    """Damage a copy, and load it: whether it was loaded. Raises for everything that may not be."""
    shutil.copytree(case.folder, folder)
    what = damage(folder, draw)
    before = case.state()
    try:
        with in_time(SECONDS):
            case.load(case.model, folder)
    except (AdapterFileError, UnknownAdapterError) as error:  # a fusion may be one of adapters that are not there
        assert str(error) and len(str(error)) < 50_000
        for now, then in zip(case.state(), before, strict=True):
            assert now == then, f"changed the model: {what}"
        return False
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error}\n{what}") from error
    run(case.model)
    return True


def fresh(case: Case) -> Case:
    """A case whose model has loaded nothing."""
    return Case(case.folder, case.load)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [25, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*PRESETS, "fusion", "setup"])
def test_damaged_files_load_or_are_refused(name: str, count: int, root: Path, tmp_path: Path) -> None:
    case = cases(root)[name]
    draw = random.Random(f"{name} {count}")
    loaded = 0
    for number in range(count):
        is_loaded = check(case, tmp_path / "x", draw)
        shutil.rmtree(tmp_path / "x")
        loaded += is_loaded
        if is_loaded:
            case = fresh(case)
        assert not [path for path in tmp_path.iterdir()], number
    assert 0 < loaded < count
