"""Several tasks in one pass: all of them for each text, or another one for each text of a batch.

    python examples/parallel_inference.py
    python examples/parallel_inference.py --adapters adapters/sst2 --adapters adapters/mrpc

computes what each adapter and its head say of some texts in several ways, checks that they say the same, and measures:

    every one of 4 tasks for 8 texts
      one after the other   308.9 ms   1.00 times as fast
      Parallel              263.4 ms   1.17 times as fast
    another task for each of 8 texts
      one by one            181.1 ms   1.00 times as fast
      adapter_names          67.7 ms   2.67 times as fast
      BatchSplit             63.0 ms   2.88 times as fast

Without `--adapters` there are four that have learned nothing, with heads at random: their answers mean nothing, and the
times are those of any.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from text_tasks import load, packaged_model
from torch import Tensor
from transformers import AutoTokenizer

from adapters import BatchSplit, Parallel

TEXTS = [
    "A moving film with a wonderful cast.",
    "Two hours of my life that I will not get back.",
    "The company said profits rose last year.",
    "She sings better than anyone I know.",
    "Nobody knows where the ship sank.",
    "The weather in Oslo is cold and clear today.",
    "This plot has more holes than a fishing net.",
    "He bought the house that his parents had sold.",
]


def with_adapters(model: Any, folders: list[Path]) -> list[str]:
    """Load adapters with their heads, or add some that differ at random; their names."""
    if folders:
        return [model.load_adapter(folder, load_as=folder.name) for folder in folders]
    names = ["moods", "topics", "places", "times"]
    for name in names:
        model.add_adapter(name, config="seq_bn")
        model.add_classification_head(name, num_labels=2)
        for modules in model.get_adapter(name).values():
            for parameter in (p for module in modules.values() for p in module.parameters()):
                torch.nn.init.normal_(parameter, std=0.05)  # a new adapter changes nothing
    return names


def alone(model: Any, name: str, batch: Any) -> Tensor:
    """What one task says. Shape: (B, labels)."""
    model.set_active_adapters(name)
    logits: Tensor = model(**batch).logits
    return logits


def in_parallel(model: Any, names: list[str], batch: Any) -> list[Tensor]:
    """What each task says of all texts, in one pass."""
    model.set_active_adapters(Parallel(*names))
    return [one.logits for one in model(**batch)]


def by_rows(model: Any, wanted: list[str], batch: Any) -> list[Tensor]:
    """What the task of each text says of it, in one pass. The tasks are in any order."""
    output = model(**batch, adapter_names=wanted)
    left = {name: iter(output[name].logits) for name in output.head_names}
    return [next(left[name]) for name in wanted]


def in_blocks(model: Any, names: list[str], sizes: list[int], batch: Any) -> list[Tensor]:
    """The same where the first texts are of the first task, the next ones of the second …"""
    model.set_active_adapters(BatchSplit(*names, batch_sizes=sizes))
    return [row for one in model(**batch) for row in one.logits]


def milliseconds(ways: list[Callable[[], object]], rounds: int) -> list[float]:
    """The median time of each way; they take turns."""
    taken: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds + 2):  # the first ones warm up
        for times, way in zip(taken, ways, strict=True):
            started = time.perf_counter()
            way()
            if turn >= 2:
                times.append(1000 * (time.perf_counter() - started))
    return [statistics.median(times) for times in taken]


def check(found: list[Tensor], wanted: list[Tensor]) -> None:
    """See whether two ways say the same."""
    if not all(torch.allclose(one, other, atol=1e-4) for one, other in zip(found, wanted, strict=True)):
        raise SystemExit("Two ways to compute the same differ.")


def main(
    adapters: Annotated[list[Path], typer.Option(help="A folder of save_adapter; once for each.")] = [],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each way.")] = 50,
    model: Annotated[str | None, typer.Option(help="A folder or name; by default all-MiniLM-L6-v2.")] = None,
) -> None:
    """Compare several tasks in one pass with one after the other."""
    torch.manual_seed(0)
    name = model or packaged_model()
    made = load(name)
    names = with_adapters(made.eval(), adapters)
    if len(names) < 2:
        raise SystemExit("Give --adapters at least twice.")
    tokenizer = AutoTokenizer.from_pretrained(name)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    single = [tokenizer(text, return_tensors="pt") for text in TEXTS]
    mixed = [names[i % len(names)] for i in range(len(TEXTS))]  # a task for each text
    sizes = [mixed.count(one) for one in names]
    in_order = sorted(mixed, key=names.index)

    with torch.inference_mode():
        every = [alone(made, one, batch) for one in names]
        check(in_parallel(made, names, batch), every)
        rows = [every[names.index(one)][i] for i, one in enumerate(mixed)]
        check(by_rows(made, mixed, batch), rows)
        check(in_blocks(made, names, sizes, batch), [every[names.index(one)][i] for i, one in enumerate(in_order)])
        every_task: dict[str, Callable[[], object]] = {
            "one after the other": lambda: [alone(made, one, batch) for one in names],
            "Parallel": lambda: in_parallel(made, names, batch),
        }
        task_of_text: dict[str, Callable[[], object]] = {
            "one by one": lambda: [alone(made, one, text) for one, text in zip(mixed, single, strict=True)],
            "adapter_names": lambda: by_rows(made, mixed, batch),
            "BatchSplit": lambda: in_blocks(made, names, sizes, batch),
        }
        report(f"every one of {len(names)} tasks for {len(TEXTS)} texts", every_task, rounds)
        report(f"another task for each of {len(TEXTS)} texts", task_of_text, rounds)


def report(title: str, ways: dict[str, Callable[[], object]], rounds: int) -> None:
    """Measure, and print it."""
    print(title)
    times = milliseconds([*ways.values()], rounds)
    for name, time_taken in zip(ways, times, strict=True):
        print(f"  {name:<20} {time_taken:6.1f} ms  {times[0] / time_taken:5.2f} times as fast")


if __name__ == "__main__":
    typer.run(main)
