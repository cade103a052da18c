"""What adapters cost outside the forward pass, on bert-base with seq_bn: start, growth, disk, memory, import.

Run: `python benchmarks/lifecycle.py [init add activate files loading memory import] [--repeats 9]`
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import adapters
from measure import clock, emit, emit_error, paired_ratios, quiet_single_thread
from models import adapted, bert_base, twin

CONFIG = "seq_bn"


def measure_init(repeats: int) -> None:
    bare = bert_base().eval()
    times = []
    for _ in range(repeats):
        model = twin(bare)
        times.append(clock(partial(adapters.init, model)))
    emit("init()", "ms", [1e3 * seconds for seconds in times])


def seconds_to_add(model: Any, name: str) -> float:
    return clock(lambda: model.add_adapter(name, config=CONFIG))


def measure_add(repeats: int) -> None:
    """Adapter number 1 (to a fresh model) and number n (to one that holds n - 1), in interleaved pairs."""
    bare = bert_base().eval()
    crowded = adapted(bare, CONFIG, loaded=1, active=False)
    loaded = 1
    for number in (100, 300):
        for index in range(loaded, number - 1):
            crowded.add_adapter(f"a{index}", config=CONFIG)
        loaded = number - 1
        first, last = [], []
        for _ in range(repeats + 1):
            first.append(seconds_to_add(adapted(bare, CONFIG, loaded=0, active=False), "new"))
            last.append(seconds_to_add(crowded, "new"))
            crowded.delete_adapter("new")
        if number == 100:
            emit("add_adapter number 1", "ms", [1e3 * seconds for seconds in first[1:]])
        ratios = [after / before for before, after in zip(first, last, strict=True)]
        emit(f"add_adapter number {number}, over number 1", "x", ratios[1:])


def seconds_to_activate(model: Any) -> float:
    model.set_active_adapters(None)
    return clock(lambda: model.set_active_adapters("a0"))


def measure_activate(repeats: int) -> None:
    bare = bert_base().eval()
    alone, crowded = adapted(bare, CONFIG, loaded=1), adapted(bare, CONFIG, loaded=100)
    pairs = [(seconds_to_activate(alone), seconds_to_activate(crowded)) for _ in range(5 * repeats)][repeats:]
    emit("set_active_adapters, 1 loaded", "ms", [1e3 * one for one, _ in pairs])
    emit("set_active_adapters, 100 loaded", "ms", [1e3 * many for _, many in pairs])

    inputs = torch.ones(1, 16, dtype=torch.long)

    def activate_and_run() -> None:
        crowded.set_active_adapters("a1")
        crowded.set_active_adapters("a0")
        crowded(inputs)

    # A library may put the work off to the next forward pass: what two switches cost there and then.
    with torch.no_grad():
        ratios = paired_ratios(lambda: crowded(inputs), activate_and_run, seconds=0.5 * repeats)
    emit("two switches and a forward, over a forward, 100 loaded", "x", ratios)


def measure_files(repeats: int) -> None:
    bare = bert_base().eval()
    alone, crowded = adapted(bare, CONFIG, loaded=1, active=False), adapted(bare, CONFIG, loaded=100, active=False)
    with tempfile.TemporaryDirectory() as folder:
        saving = [clock(lambda: alone.save_adapter(folder, "a0")) for _ in range(repeats + 1)]
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        emit("save_adapter", "ms", [1e3 * seconds for seconds in saving[1:]])
        emit("size on disk", "MB", [size / 1e6])
        for model, loaded in ((alone, 1), (crowded, 100)):
            loading = []
            for _ in range(repeats + 1):
                loading.append(clock(partial(model.load_adapter, folder, load_as="new")))
                model.delete_adapter("new")
            emit(f"load_adapter, {loaded} loaded", "ms", [1e3 * seconds for seconds in loading[1:]])


def resident_megabytes() -> float:
    """Resident memory of this process, after the allocator has given back what it can (Linux)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measure_loading(repeats: int) -> None:
    """Load 100 files, each after its bytes were read and kept: the times, and the memory, that both take."""
    model = adapted(bert_base().eval(), CONFIG, loaded=1, active=False)
    times: dict[str, list[float]] = {"read": [], "load": []}
    kept: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(number) for number in range(100)]
        for path in paths:
            model.save_adapter(path, "a0")
        model.load_adapter(paths[0], load_as="warm")
        before = resident_megabytes()
        for number, path in enumerate(paths):
            file = path / "adapter.safetensors"
            times["read"].append(clock(lambda file=file: kept.append(file.read_bytes())))
            times["load"].append(clock(partial(model.load_adapter, path, load_as=f"new{number}")))
        after, size = resident_megabytes(), sum(map(len, kept)) / 1e6
    ratios = [load / read for read, load in zip(times["read"], times["load"], strict=True)]
    emit("load_adapter, one of 100", "ms", [1e3 * seconds for seconds in times["load"]])
    emit("load_adapter, over reading and keeping its bytes", "x", ratios)
    emit("load_adapter, last 10 of 100 over first 10", "x", [sum(times["load"][-10:]) / sum(times["load"][:10])])
    emit("memory of 100 loaded adapters, over their files", "x", [(after - before - size) / size])


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def parameter_megabytes(model: nn.Module) -> float:
    return sum(parameter.nbytes for parameter in model.parameters()) / 1e6


def measure_memory(repeats: int) -> None:
    """Add, activate and use 20 adapters, delete them: what an adapter takes, and what stays behind."""
    model = adapted(bert_base().eval(), CONFIG, loaded=1)
    model.delete_adapter("a0")  # the first adapter's one-time allocations are no leak
    inputs = torch.ones(1, 16, dtype=torch.long)
    before = parameter_megabytes(model), resident_megabytes(), live_tensors()
    for number in range(20):
        model.add_adapter(f"b{number}", config=CONFIG)
        model.set_active_adapters(f"b{number}")
        with torch.no_grad():
            model(inputs)
    loaded = parameter_megabytes(model), resident_megabytes(), live_tensors()
    for number in range(20):
        model.delete_adapter(f"b{number}")
    after = parameter_megabytes(model), resident_megabytes(), live_tensors()
    emit("memory of one adapter: parameters", "MB", [(loaded[0] - before[0]) / 20])
    emit("memory of one adapter: resident", "MB", [(loaded[1] - before[1]) / 20])
    emit("left after deleting 20: parameters", "MB", [after[0] - before[0]])
    emit("left after deleting 20: resident", "MB", [after[1] - before[1]])
    emit("left after deleting 20: live tensors", "n", [after[2] - before[2]])


def seconds_to_import(statements: str) -> float:
    """Import time in a fresh interpreter, from compiled files, without the interpreter's own start."""
    timed = f"from time import perf_counter as now; t = now(); {statements}; print(now() - t)"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", timed], check=True, capture_output=True, env=environment)
    return float(done.stdout.split()[-1])


def measure_import(repeats: int) -> None:
    """Over `import transformers` alone, and over what any program that holds a model imports.

    Transformers 4 imports torch at once, transformers 5 when it is first needed: only the second line compares the
    libraries on equal terms.
    """
    bases = {
        "import transformers": "import transformers",
        "torch and a transformers model": "import torch, transformers; transformers.BertModel",
    }
    for title, base in bases.items():
        pairs = [(seconds_to_import(base), seconds_to_import(f"{base}; import adapters")) for _ in range(repeats + 1)]
        emit(f"import adapters, over {title}", "x", [both / alone for alone, both in pairs[1:]])


SECTIONS: dict[str, Callable[[int], None]] = {
    "init": measure_init,
    "add": measure_add,
    "activate": measure_activate,
    "files": measure_files,
    "loading": measure_loading,
    "memory": measure_memory,
    "import": measure_import,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--repeats", type=int, default=9, help="measurements of each time (the median is reported)")
    arguments = parser.parse_args()
    quiet_single_thread()
    for section in arguments.sections:
        try:
            SECTIONS[section](arguments.repeats)
        except Exception as error:  # one section that a library cannot run must not end the others
            emit_error(f"lifecycle {section}", error)


if __name__ == "__main__":
    main()
