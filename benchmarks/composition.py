"""Several adapters in one pass: time over one adapter, or over the bare model (eval, no_grad, one thread).

Run: `python benchmarks/composition.py [rows parallel fuse switch …] [--seconds 8]`
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from measure import Call, clock, emit, emit_error, paired_ratios, quiet_single_thread
from models import adapted, bert_base, bert_small

Built = tuple[Call, Call]
"""What is timed: the reference, and the candidate."""


def blocks() -> Any:
    """The module of composition blocks, which PEFT has not."""
    return import_module("adapters.composition")


@dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        title: Its name.
        build: Makes what is timed; raises where a library has no such thing.
    """

    title: str
    build: Callable[[], Built]


def inputs(rows: int, tokens: int) -> dict[str, Tensor]:
    ids = torch.randint(5, 1000, (rows, tokens))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def shuffled(count: int, rows: int) -> list[str]:
    """For each row an adapter, in an order without runs."""
    return [f"a{(7 * row + 3) % count}" for row in range(rows)]


def rows_of_own(config: str, count: int, tokens: int, loaded: int, grouped: bool = False) -> Built:
    """32 rows that go through `count` adapters, over the same rows through one."""
    bare, given = bert_small().eval(), inputs(32, tokens)
    one, many = adapted(bare, config), adapted(bare, config, loaded, active=False)
    if grouped:  # what 1.3 has: rows in groups, of a size that is set beforehand
        many.set_active_adapters(blocks().BatchSplit(*(f"a{i}" for i in range(count)), batch_sizes=32 // count))
        return lambda: one(**given), lambda: many(**given)
    order = shuffled(count, 32)
    return lambda: one(**given), lambda: many(**given, adapter_names=order)


def rows_of_resident(config: str, few: int, lots: int) -> Built:
    """32 rows through 32 adapters of many that are loaded, over the same with fewer loaded."""
    bare, given, order = bert_small().eval(), inputs(32, 16), shuffled(32, 32)
    first, second = (adapted(bare, config, loaded, active=False) for loaded in (few, lots))
    return lambda: first(**given, adapter_names=order), lambda: second(**given, adapter_names=order)


def parallel(config: str, count: int, skipped: int = 0) -> Built:
    """N adapters on one row of 16 tokens, over a bare forward pass of N rows."""
    bare, given = bert_small().eval(), inputs(1, 16)
    model = adapted(bare, config, count, active=False)
    model.set_active_adapters(blocks().Parallel(*(f"a{i}" for i in range(count))), skip_layers=list(range(skipped)))
    repeated = {name: value.repeat(count, 1) for name, value in given.items()}
    return lambda: bare(**repeated), lambda: model(**given)


def bare_rows() -> Built:
    """What the layers below the first that differs save: one row for eight."""
    bare, given = bert_small().eval(), inputs(1, 16)
    repeated = {name: value.repeat(8, 1) for name, value in given.items()}
    return lambda: bare(**repeated), lambda: bare(**given)


def fused(bare: nn.Module, count: int) -> Any:
    names = [f"a{i}" for i in range(count)]
    model = adapted(bare, "seq_bn", count, active=False)
    model.add_adapter_fusion(names)
    model.train_adapter_fusion(blocks().Fuse(*names))
    return model.eval()


def fusion(count: int, rows: int, tokens: int) -> Built:
    """A fusion of N adapters over the bare model."""
    bare, given = bert_base().eval(), inputs(rows, tokens)
    model = fused(bare, count)
    return lambda: bare(**given), lambda: model(**given)


def step(model: Any, given: dict[str, Tensor]) -> Call:
    trained = [p for p in model.parameters() if p.requires_grad]

    def run() -> None:
        with torch.enable_grad():
            loss = model(**given)[0].pow(2).mean()
            torch.autograd.grad(loss, trained, allow_unused=True)

    return run


def fusion_training(count: int) -> Built:
    """A training step of a fusion of N adapters, over one of a single adapter."""
    bare, given = bert_base().eval(), inputs(8, 64)
    single = adapted(bare, "seq_bn")
    single.train_adapter("a0")
    model = fused(bare, count).train()
    return step(single, given), step(model, given)


def dropped_training(skipped: int) -> Built:
    """A training step without the adapters of the first n layers, over one with all."""
    bare, given = bert_base().eval(), inputs(8, 64)
    models = []
    for skip in (0, skipped):
        model = adapted(bare, "seq_bn")
        model.train_adapter("a0")
        model.set_active_adapters("a0", skip_layers=list(range(skip)))
        models.append(model)
    return step(models[0], given), step(models[1], given)


def rows_cases() -> Iterator[Case]:
    for config in ("seq_bn", "lora", "double_seq_bn", "ia3", "dora", "loreft", "prefix_tuning_flat"):
        for tokens in (16, 64):
            title = f"32 rows × 32 adapters, {config}, 32×{tokens}, over one adapter"
            yield Case(title, partial(rows_of_own, config, 32, tokens, 32))
    for config in ("seq_bn", "lora"):
        title = f"32 rows × 8 adapters, {config}, 32×16, over one adapter"
        yield Case(title, partial(rows_of_own, config, 8, 16, 8))
        title = f"32 rows in 8 groups, {config}, 32×16, over one adapter"
        yield Case(title, partial(rows_of_own, config, 8, 16, 8, grouped=True))
    yield Case("32 of 1000 resident, seq_bn, over 32 of 32", partial(rows_of_resident, "seq_bn", 32, 1000))


def parallel_cases() -> Iterator[Case]:
    for config in ("seq_bn", "lora"):
        for count in (2, 4, 8):
            title = f"Parallel of {count}, {config}, 1×16, over the bare {count}-fold batch"
            yield Case(title, partial(parallel, config, count))
        title = f"Parallel of 8, {config}, 1×16, lower half dropped, over the bare 8-fold batch"
        yield Case(title, partial(parallel, config, 8, skipped=3))
    yield Case("bare, 1×16, over the bare 8-fold batch", bare_rows)


def fuse_cases() -> Iterator[Case]:
    for count in (3, 8):
        for rows, tokens in ((1, 16), (8, 64)):
            yield Case(f"Fuse of {count}, {rows}×{tokens}, over bare", partial(fusion, count, rows, tokens))
        yield Case(f"Fuse of {count}, training step, over seq_bn", partial(fusion_training, count))


def drop_cases() -> Iterator[Case]:
    for skipped in (3, 6, 9):
        title = f"AdapterDrop, first {skipped} of 12 layers, training step, over all layers"
        yield Case(title, partial(dropped_training, skipped))


SECTIONS: dict[str, Callable[[], Iterator[Case]]] = {
    "rows": rows_cases,
    "parallel": parallel_cases,
    "fuse": fuse_cases,
    "drop": drop_cases,
}


def measure_switching() -> None:
    """Milliseconds to activate another adapter, the first time and again, with few and many loaded."""
    for loaded in (10, 1000):
        model = adapted(bert_small().eval(), "seq_bn", loaded, active=False)
        for title in ("first", "again"):
            names = [f"a{i}" for i in range(min(loaded, 200))]
            times = [1000 * clock(partial(model.set_active_adapters, name)) for name in names]
            emit(f"switch the active adapter ({title}), {loaded} loaded", "ms", times)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sections = [*SECTIONS, "switch"]
    parser.add_argument("sections", nargs="*", default=sections, metavar="section", help=", ".join(sections))
    parser.add_argument("--seconds", type=float, default=8.0, help="time for each case")
    parser.add_argument("--only", default="", help="a part of the names of the cases to run")
    arguments = parser.parse_args()
    quiet_single_thread()
    for section in arguments.sections:
        for case in SECTIONS[section]() if section in SECTIONS else ():
            if arguments.only not in case.title:
                continue
            try:
                reference, candidate = case.build()
                emit(case.title, "x", paired_ratios(reference, candidate, arguments.seconds, least=15))
            except Exception as error:  # one case that a library cannot run must not end the others
                emit_error(case.title, error)
        if section == "switch":
            measure_switching()


if __name__ == "__main__":
    main()
