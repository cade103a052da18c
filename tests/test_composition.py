"""Law 6 and 7: rows and copies of a batch that go through adapters of their own give what these give alone."""

from __future__ import annotations

import asyncio
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import adapters
import models
import zoo
from adapters import AdapterSetup, Average, BatchSplit, Fuse, Gate, MultiTask, Parallel, Split, Stack
from test_laws import close, same

PREFIX = "prefix_tuning[prefix_length=3, bottleneck_size=8]"
# Two configurations of each method: rows of one batch go through both.
METHODS: dict[str, tuple[str, str]] = {
    "seq_bn": ("seq_bn[reduction_factor=4]", "seq_bn[reduction_factor=8]"),
    "double_seq_bn": ("double_seq_bn[reduction_factor=4]", "double_seq_bn[reduction_factor=8]"),
    "par_bn": ("par_bn[reduction_factor=4]", "par_bn[reduction_factor=8, scaling=2.0]"),
    "adapter_plus": ("adapter_plus[reduction_factor=4]", "adapter_plus[reduction_factor=8]"),
    "gated": ("seq_bn[use_gating=True, ln_before=True]", "seq_bn[use_gating=True, ln_before=True]"),
    "seq_bn_inv": ("seq_bn_inv[reduction_factor=4]", "seq_bn_inv[reduction_factor=8]"),
    "compacter": ("compacter[phm_dim=2, reduction_factor=4]", "compacter[phm_dim=4, reduction_factor=4]"),
    "lora": ("lora[r=2]", "lora[r=4, alpha=16, attn_matrices=['q', 'k', 'v', 'o'], intermediate_lora=True]"),
    "lora_gated": ("lora[r=2, use_gating=True]", "lora[r=2]"),
    "ia3": ("ia3", "ia3"),
    "vera": ("vera[r=2]", "vera[r=4]"),
    "dora": ("dora[r=2]", "dora[r=4]"),
    "mtl_lora": ("mtl_lora[r=2, n_up_projection=2]", "mtl_lora[r=2, n_up_projection=3]"),
    "adalora": ("adalora[r=3, target_r=2]", "adalora[r=4, target_r=2]"),
    "loreft": ("loreft", "loreft[r=2]"),
    "direft": ("direft[suffix_positions=2]", "noreft[r=2]"),
    "prefix": (PREFIX, "prefix_tuning_flat[prefix_length=5]"),
    "prefix_gated": (f"{PREFIX[:-1]}, use_gating=True]", PREFIX),
    "prompt": ("prompt_tuning[prompt_length=3]", "prompt_tuning[prompt_length=3]"),
    "bitfit": ("bitfit", "bitfit"),
    "ln_tuning": ("ln_tuning", "ln_tuning"),
    "mam": (f"{PREFIX}|par_bn[reduction_factor=4]", f"{PREFIX}|par_bn[reduction_factor=8]"),
    "mixed": ("lora[r=2]", "double_seq_bn[reduction_factor=4]"),
    "mixed_matrix": ("dora[r=2]", "ia3"),
    "mixed_all": (f"{PREFIX}|seq_bn[reduction_factor=4]", "loreft|ia3"),
}
NAMES = ["bert", "gpt2", "llama", "t5", "vit"]
WITHOUT_BIAS = ("llama", "t5")
CASES = [(n, m) for n in NAMES for m in METHODS if not (m == "bitfit" and n in WITHOUT_BIAS)]
# The bare model's rows are compared bit by bit, but where their attention is computed with masked positions beside.
INEXACT = ("prefix", "prefix_gated", "mam", "mixed_all")
ROWS = ["b", None, "a", "b"]
every_case = pytest.mark.parametrize(("name", "method"), CASES, ids=[f"{n}-{m}" for n, m in CASES])


def randomised(model: Any, *names: str) -> Any:
    """Give each adapter weights of its own that show."""
    for name in names:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        with torch.no_grad():
            for parameter in dict.fromkeys(model._adapter_registry[name].parameters()):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def with_two(name: str, method: str, **config: object) -> Any:
    model: Any = models.adapted(name, **config)
    for adapter, preset in zip("ab", METHODS[method], strict=True):
        model.add_adapter(adapter, preset)
    for module in model.modules():  # that of interventions is there by default
        if isinstance(module.__dict__.get("dropout"), float):
            module.dropout = 0.0
    return randomised(model, "a", "b")


def batch(name: str, rows: int = 4) -> dict[str, Tensor]:
    """A batch, of which some rows are padded."""
    found = {}
    for key, value in models.inputs(name).items():
        repeated = torch.cat([value] * (rows // 2 + 1))[:rows]
        is_text = key.endswith("input_ids")
        shift = torch.arange(rows).view(-1, *[1] * (value.ndim - 1))
        found[key] = (repeated + 7 * shift) % 95 + 5 if is_text else repeated + shift * (key != "attention_mask")
    return found


def alone(model: Any, name: str, setup: Any, given: dict[str, Tensor] | None = None) -> list[Tensor]:
    """What all rows give with one setup."""
    model.set_active_adapters(setup)
    found = models.tensors(model(**(given or batch(name))))
    model.set_active_adapters(None)
    return found


def rows_of(outputs: Sequence[Tensor], rows: slice | int) -> list[Tensor]:
    return [output[rows] for output in outputs]


@every_case
def test_rows(name: str, method: str) -> None:
    """Each row gives what it gives alone, in any order; rows of the bare model too."""
    model = with_two(name, method)
    names = [n or "a" for n in ROWS] if method == "prompt" else ROWS
    wanted = {setup: alone(model, name, setup) for setup in ("a", "b", None)}
    for order in (names, names[::-1]):
        for gradients in (torch.no_grad(), torch.enable_grad()):
            with gradients:
                got = models.tensors(model(**batch(name), adapter_names=order))
            for row, adapter in enumerate(order):
                single = rows_of(wanted[adapter], row)
                assert close(rows_of(got, row), single, 1e-4)
                if adapter is None and method not in INEXACT:
                    assert close(rows_of(got, row), single, 1e-6)
    assert model.active_adapters is None
    assert same(models.tensors(model(**batch(name))), wanted[None])


@every_case
def test_copies_and_groups(name: str, method: str) -> None:
    """`Parallel` gives the single runs one after the other, `BatchSplit` and `MultiTask` their rows."""
    model = with_two(name, method)
    runs = {setup: alone(model, name, setup) for setup in ("a", "b", None)}
    setup = Parallel("b", "a") if method == "prompt" else Parallel("b", None, "a")
    wanted = [torch.cat(parts) for parts in zip(*(runs[child] for child in setup), strict=True)]
    assert close(alone(model, name, setup), wanted, 1e-4)
    wanted = [torch.cat([a[:3], b[3:]]) for a, b in zip(runs["a"], runs["b"], strict=True)]
    assert close(alone(model, name, BatchSplit("a", "b", batch_sizes=[3, 1])), wanted, 1e-4)
    model.set_active_adapters(MultiTask("a", "b"))
    for tasks in ([0, 0, 0, 1], ["a", "a", "a", "b"], torch.tensor([0, 0, 0, 1])):
        assert close(models.tensors(model(**batch(name), task_ids=tasks)), wanted, 1e-4)


@every_case
def test_blocks_of_one(name: str, method: str) -> None:
    """`Stack(a)`, the mean of equals, and pieces of one adapter are that adapter."""
    model = with_two(name, method)
    wanted = alone(model, name, "a")
    assert same(alone(model, name, Stack("a")), wanted)
    assert close(alone(model, name, Average("a", "a", weights=[1.0, 3.0])), wanted, 1e-4)
    if "prefix" not in METHODS[method][0] and method != "prompt":
        assert close(alone(model, name, Average("a", "b", weights=[1.0, 0.0])), wanted, 1e-4)
        halves = Split("a", "a", splits=_splits(name))
        if name != "t5":  # its decoder's sequence is another one
            # A gate averages over the tokens that it sees: in a piece these are the piece's.
            assert close(alone(model, name, halves), wanted, 1e-4) or "gated" in method


def _splits(name: str) -> list[int]:
    return [7, 10] if name == "vit" else [2, 4]


# -- training ---------------------------------------------------------------------------------------------------------

TRAINED = [
    (n, m) for n in ("bert", "gpt2", "t5") for m in ("seq_bn", "double_seq_bn", "lora", "dora", "loreft", "prefix")
]


def gradients(model: Any, name: str, given: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """Those of both adapters for a loss of every output."""
    model.zero_grad()
    for adapter in "ab":
        model._adapter_registry.set_trainable(adapter, True)
    models.loss(models.tensors(model(**given, **options))).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None and ".pooler" not in n}


@pytest.mark.parametrize(("name", "method"), TRAINED)
def test_rows_are_trained_as_alone(name: str, method: str) -> None:
    """The gradient of each adapter is that of its own rows; the same with checkpointed layers."""
    model = with_two(name, method)
    model.freeze_model(True)
    order = ["a", "b", "b", "a"]
    together = gradients(model, name, batch(name), adapter_names=order)
    assert together and all(".a." in n or ".b." in n for n in together)
    wanted: dict[str, Tensor] = {}
    total = models.tensors(model(**batch(name), adapter_names=order))
    weights = [torch.linspace(-1, 1, v.numel(), dtype=torch.float64).reshape(v.shape) for v in total]
    for adapter in "ab":
        rows = [row for row, own in enumerate(order) if own == adapter]
        model.set_active_adapters(adapter)
        model.zero_grad()
        given = {key: value[rows] for key, value in batch(name).items()}
        parts = zip(models.tensors(model(**given)), total, weights, strict=True)
        sum((v.double() - w[rows]).pow(2).sum() / t.numel() for v, t, w in parts).backward()
        wanted |= {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert together.keys() == wanted.keys()
    assert all(torch.allclose(together[n], wanted[n], rtol=1e-3, atol=1e-5) for n in wanted)


@pytest.mark.parametrize(("name", "method"), TRAINED)
@pytest.mark.parametrize("setup", ["rows", "Parallel", "BatchSplit", "Average"])
def test_checkpointed(name: str, method: str, setup: str) -> None:
    """Recomputed layers go by the rows of their own call, whatever is active in the backward pass."""
    model = with_two(name, method, use_cache=False) if name != "bert" else with_two(name, method)
    if setup == "Average" and method == "prefix":
        return
    block = {
        "Parallel": Parallel("a", "b"),
        "BatchSplit": BatchSplit("b", "a", batch_sizes=[1, 3]),
        "Average": Average("a", "b"),
    }
    options = {"adapter_names": ["a", "b", None, "a"]} if setup == "rows" else {}
    model.set_active_adapters(block.get(setup))
    model.freeze_model(True)
    wanted = gradients(model, name, batch(name), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    for adapter in "ab":
        model._adapter_registry.set_trainable(adapter, True)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module.__dict__.get("dropout"), float):
            module.dropout = 0.0
    model.zero_grad()
    loss = models.loss(models.tensors(model(**batch(name), **options)))
    model.set_active_adapters("b")
    model(**batch(name), adapter_names=["b", "a", "a", "b"])
    loss.backward()
    got = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert got.keys() >= wanted.keys() and wanted
    assert all(torch.allclose(got[n], wanted[n], rtol=1e-3, atol=1e-5) for n in wanted)


# -- generation -------------------------------------------------------------------------------------------------------

GENERATORS = {
    "gpt2": ("GPT2LMHeadModel", "gpt2"),
    "llama": ("LlamaForCausalLM", "llama"),
    "t5": ("T5ForConditionalGeneration", "t5"),
}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "uncached": {"use_cache": False},
    "beams": {"num_beams": 3},
    "several": {"num_beams": 4, "num_return_sequences": 2},
}


def generating(name: str, method: str) -> Any:
    config_class, arguments, _, _ = models.FAMILIES[name]
    torch.manual_seed(0)
    extra = {"decoder_start_token_id": 0} if name == "t5" else {"pad_token_id": 0}
    config = getattr(transformers, config_class)(**{**arguments, **extra, "eos_token_id": None})
    model: Any = getattr(transformers, GENERATORS[name][0])(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    adapters.init(model)
    for adapter, preset in zip("ab", METHODS[method], strict=True):
        model.add_adapter(adapter, preset)
    return randomised(model, "a", "b")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["seq_bn", "lora", "loreft", "prefix", "prompt", "mixed"])
@pytest.mark.parametrize("name", GENERATORS)
def test_generated(name: str, method: str, way: str) -> None:
    """Each row's text is the one that it has alone: rows follow beams wherever these go."""
    model = generating(name, method)
    ids = torch.randint(5, 100, (3, 4), generator=torch.Generator().manual_seed(3))
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 4, "min_new_tokens": 4, **WAYS[way]}
    order = ["b", "a", "a"] if method == "prompt" else ["b", None, "a"]
    wanted = {}
    for adapter in dict.fromkeys(order):
        model.set_active_adapters(adapter)
        wanted[adapter] = model.generate(ids, **options)
    model.set_active_adapters(None)
    each = WAYS[way].get("num_return_sequences", 1)
    expected = torch.cat([wanted[a][row * each : (row + 1) * each] for row, a in enumerate(order)])
    assert torch.equal(model.generate(ids, **options, adapter_names=order), expected)
    with AdapterSetup(adapter_names=order):
        assert torch.equal(model.generate(input_ids=ids, **options), expected)
    model.set_active_adapters(BatchSplit("b", "a", batch_sizes=[1, 2]))
    split = torch.cat([wanted["b"][:each], wanted["a"][each:]])
    assert torch.equal(model.generate(ids, **options), split)
    model.set_active_adapters(Parallel("a", "b"))
    assert torch.equal(model.generate(ids, **options), torch.cat([wanted["a"], wanted["b"]]))


# -- graphs and threads -----------------------------------------------------------------------------------------------

TRACED = ["seq_bn", "double_seq_bn", "par_bn", "lora", "ia3", "loreft", "prefix", "prompt", "mixed"]


def traced(quick: dict[str, list[str]], methods: list[str] = TRACED) -> Any:
    """Parametrise over families and methods; all but some are slow, as tracing takes seconds."""
    return pytest.mark.parametrize(
        ("name", "method"),
        [
            pytest.param(name, method, marks=() if method in own else pytest.mark.slow)
            for name, own in quick.items()
            for method in methods
        ],
    )


@traced({"bert": ["seq_bn", "lora", "prefix", "mixed"], "llama": ["seq_bn"]})
def test_compiled(name: str, method: str) -> None:
    """Rows that go through other adapters need no other graph."""
    torch._dynamo.reset()
    model = with_two(name, method)
    graphs = []

    def counting(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=counting)
    fill = "b" if method == "prompt" else None
    orders = [["a", "b", fill, "a"], ["b", "b", "a", fill], [fill, "a", "a", "a"]]
    with torch.no_grad():
        for order in orders:
            wanted = models.tensors(model(**batch(name), adapter_names=order))
            assert close(models.tensors(compiled(**batch(name), adapter_names=order)), wanted, 1e-4)
    assert len(graphs) == 1
    blocks = [
        Parallel("a", "b"),
        BatchSplit("a", "b", batch_sizes=[3, 1]),
        Stack("a", "b") if method != "lora" else "a",
    ]
    for block in blocks:
        model.set_active_adapters(block)
        with torch.no_grad():
            wanted = models.tensors(model(**batch(name)))
            assert close(models.tensors(compiled(**batch(name))), wanted, 1e-4)
            model.set_active_adapters(None)
            with AdapterSetup(block):
                assert close(models.tensors(compiled(**batch(name))), wanted, 1e-4)


@traced({"bert": TRACED, "gpt2": ["seq_bn", "lora", "prefix"], "vit": ["seq_bn", "lora"]})
@pytest.mark.parametrize("block", [Stack("a"), Parallel("a", "b"), BatchSplit("a", "b", batch_sizes=[3, 1])], ids=str)
def test_exported(name: str, method: str, block: Any) -> None:
    model = with_two(name, method)
    model.set_active_adapters(block)
    given = {**batch(name), **({"use_cache": False} if name == "gpt2" else {})}
    with torch.no_grad():
        exported = torch.export.export(model, (), given)
        assert close(models.tensors(exported.module()(**given)), models.tensors(model(**given)), 1e-4)


MIXTURES = [Fuse("a", "b"), Gate("a", "b", name="g"), Average("a", "b"), Split("a", "b", splits=[2, 4])]
MIXTURES += [Parallel("a", Stack(Fuse("a", "b")))]


@traced({"bert": ["double_seq_bn", "lora"], "gpt2": []}, ["seq_bn", "double_seq_bn", "par_bn", "lora", "loreft"])
def test_mixtures_are_traced(name: str, method: str) -> None:
    """What mixes tokens' outputs compiles as one graph, and is exported."""
    torch._dynamo.reset()
    model = with_two(name, method)
    model.add_adapter_fusion(Fuse("a", "b"))
    model.add_adapter_fusion(Gate("a", "b"), name="g")
    given = {**batch(name), **({"use_cache": False} if name == "gpt2" else {})}
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for block in MIXTURES:
        model.set_active_adapters(block)
        with torch.no_grad():
            wanted = models.tensors(model(**given))
            assert close(models.tensors(compiled(**given)), wanted, 1e-4)
            exported = torch.export.export(model, (), given)
            assert close(models.tensors(exported.module()(**given)), wanted, 1e-4)
    model.train_adapter_fusion(Stack(Fuse("a", "b")))
    model.eval()
    models.loss(models.tensors(compiled(**given))).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad and "query" in n)


@pytest.mark.parametrize("method", ["seq_bn", "lora", "loreft", "prefix"])
def test_threads_and_tasks(method: str) -> None:
    """Calls at the same time, each with adapters of its own for its rows, do not see each other's."""
    model = with_two("bert", method)
    orders = [["a", "b", "a", "b"], ["b", "a", None, None], None, ["b"] * 4, Parallel("b", "a")]

    def run(order: Any) -> list[Tensor]:
        with torch.no_grad():
            if isinstance(order, list):
                return models.tensors(model(**batch("bert"), adapter_names=order))
            with AdapterSetup(order):
                return models.tensors(model(**batch("bert")))

    wanted = [run(order) for order in orders]

    def is_right(call: int) -> bool:
        return close(run(orders[call % 5]), wanted[call % 5], 1e-5)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_right, range(200)))

    async def task(call: int) -> bool:
        with AdapterSetup("a" if call % 2 else "b"):
            await asyncio.sleep(0)
            with torch.no_grad():
                got = models.tensors(model(**batch("bert")))
            await asyncio.sleep(0)
        return close(got, by_name["a" if call % 2 else "b"], 1e-5)

    by_name = {adapter: run([adapter] * 4) for adapter in "ab"}

    async def tasks() -> list[bool]:
        return await asyncio.gather(*(task(call) for call in range(40)))

    assert all(asyncio.run(tasks()))


# -- nesting ----------------------------------------------------------------------------------------------------------

EQUAL = {
    "a stack in pieces": (
        Split(Stack("a", "b"), "c", splits=[2, 4]),
        Stack(Split("a", "c", splits=[2, 4]), Split("b", None, splits=[2, 4])),
    ),
    "pieces of pieces": (
        Split(Split("a", "b", splits=[1, 1]), "c", splits=[2, 4]),
        Split("a", "b", "c", splits=[1, 1, 4]),
    ),
    "the mean of stacks": (Stack("a", Average("b", "c")), Average(Stack("a", "b"), Stack("a", "c"))),
    "the mean of means": (
        Average(Average("a", "b", weights=[1, 3]), "c", weights=[1, 1]),
        Average("a", "b", "c", weights=[1, 3, 4]),
    ),
    "pieces of means": (
        Split(Average("a", "b"), "c", splits=[2, 4]),
        Average(Split("a", "c", splits=[2, 4]), Split("b", "c", splits=[2, 4])),
    ),
    "the bare model in a stack": (Stack(None, "a", None, "b"), Stack("a", "b")),
    "the bare model in a mean": (Average("a", None, weights=[1, 0]), Stack("a")),
    "copies in a stack": (Stack("a", Parallel("b", None)), Parallel(Stack("a", "b"), "a")),
    "copies twice in a stack": (
        Stack(Parallel("a", "b"), Parallel("c", None)),
        Parallel(Stack("a", "c"), Stack("b")),
    ),
    "copies of copies": (Parallel(Parallel("a", "b"), "c"), Parallel("a", "b", "c")),
    "groups in copies": (
        Parallel(BatchSplit("a", "b", batch_sizes=[1, 3]), "c"),
        Parallel(BatchSplit("a", "b", "b", batch_sizes=[1, 1, 2]), "c"),
    ),
    "groups of groups": (
        BatchSplit(BatchSplit("a", "b", batch_sizes=[1, 1]), "c", batch_sizes=[2, 2]),
        BatchSplit("a", "b", "c", batch_sizes=[1, 1, 2]),
    ),
    "fused copies": (Parallel("a", Fuse("b", "c")), Parallel("a", Stack(Fuse("b", "c")))),
    "a stack on a fusion, in groups": (
        BatchSplit(Stack(Fuse("b", "c"), "a"), "a", batch_sizes=[2, 2]),
        Stack(BatchSplit(Fuse("b", "c"), None, batch_sizes=[2, 2]), "a"),
    ),
}


def with_three(name: str, preset: str) -> Any:
    model: Any = models.adapted(name)
    for adapter, factor in zip("abc", (4, 8, 16), strict=True):
        model.add_adapter(adapter, f"{preset}[reduction_factor={factor}]")
    model.add_adapter_fusion(["b", "c"])
    with torch.no_grad():
        for parameter in model._adapter_registry.fusions["b,c"].parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    return randomised(model, "a", "b", "c")


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("preset", ["seq_bn", "double_seq_bn", "par_bn"])
@pytest.mark.parametrize("law", EQUAL)
def test_nested(name: str, preset: str, law: str) -> None:
    """Setups that mean the same give the same."""
    model = with_three(name, preset)
    first, second = EQUAL[law]
    if preset == "par_bn" and "stack" in law and "pieces" in law:
        return  # a parallel adapter adds to what the sublayer itself has made, also behind others in a stack
    wanted = alone(model, name, second)
    assert close(alone(model, name, first), wanted, 1e-4)
    assert not close(wanted, alone(model, name, None), 1e-3)


def test_fused_stacks_are_trained() -> None:
    """`Fuse(Stack, Stack)`, and what stands on a fusion: only what is trained moves."""
    model = with_three("bert", "seq_bn")
    model.add_adapter("d", "seq_bn[reduction_factor=4]")
    model.train_adapter(Stack(Fuse("b", "c"), "d"))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".d." in n or ".b." in n or ".c." in n for n in trained)
    model.add_adapter_fusion(Fuse(Stack("a", "b"), Stack("c", "d")))
    model.train_adapter_fusion(Fuse(Stack("a", "b"), Stack("c", "d")))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    before = {n: p.clone() for n, p in model.named_parameters()}
    models.loss(models.tensors(model(**batch("bert")))).backward()
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all("adapter_fusion_layer.b,d." in n for n in moved)


@pytest.mark.parametrize("block", [Fuse, Gate])
def test_pruned_fusion(block: Any) -> None:
    """A fusion of fewer adapters with the same weights: what the pruned one attended to hardly at all is not missed."""
    model = with_three("bert", "seq_bn")
    model.add_adapter_fusion(block("a", "b", "c", name="all"), name="all")
    if block is Gate:
        with torch.no_grad():
            for parameter in model._adapter_registry.fusions["all"].parameters():
                parameter.copy_(torch.tensor([0.3, -30.0, 1.0]))
    model.prune_adapter_fusion("all", keep=["c", "a"])
    pruned = alone(model, "bert", block("a", "c"))
    if block is Gate:
        assert close(pruned, alone(model, "bert", Gate("a", "b", "c", name="all")), 1e-5)
    else:
        assert close(pruned, alone(model, "bert", Fuse("a", "c", name="all")), 1e-6)
    with pytest.raises(ValueError, match="is of"):
        model.prune_adapter_fusion("all", keep=["x"])
    with pytest.raises(ValueError, match="already"):
        model.prune_adapter_fusion("all", keep=["a", "c"])


# -- what cannot be ---------------------------------------------------------------------------------------------------

WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (Parallel("a", "x"), {}, "no adapter named 'x'"),
    (BatchSplit("a", "b", batch_sizes=[1, 1]), {}, "2 rows, but the batch has 4"),
    (Split("a", "b", splits=[2, 3]), {}, "for sequences of 5 tokens, and this one has 6"),
    (Fuse("a", "b"), {}, "add_adapter_fusion"),
    (BatchSplit(Parallel("a", "b"), "a", batch_sizes=[2, 2]), {}, "cannot be within BatchSplit"),
    (Stack(Parallel("a", "b"), Parallel("a", "b", "a")), {}, "different numbers of children"),
    (MultiTask("a", "b"), {}, "give task_ids"),
    (MultiTask("a", "b"), {"task_ids": ["a", "x", "b", "a"]}, "'x' is none of the 2 tasks"),
    (MultiTask("a", "b"), {"task_ids": [0, 1, 1]}, "3 rows, but the batch has 4"),
    (None, {"adapter_names": ["a", "b"]}, "2 rows, but the batch has 4"),
    (None, {"adapter_names": ["a", "b", "x", None]}, "no adapter named 'x'"),
    (None, {"task_ids": [0, 1, 1, 0]}, "no adapter is active"),
    (Stack("a"), {"task_ids": [0, 1, 1, 0]}, "for setups with MultiTask"),
    (MultiTask("a", "b"), {"task_ids": [0] * 4, "adapter_names": ["a"] * 4}, "give one"),
    (Stack(), {}, "is empty"),
    (Average(Fuse(), "a"), {}, "is empty"),
]


@pytest.mark.parametrize(("setup", "options", "message"), WRONG, ids=[w[2] for w in WRONG])
def test_what_cannot_be_is_said(setup: Any, options: dict[str, Any], message: str) -> None:
    model = with_two("bert", "seq_bn")
    bare = alone(model, "bert", None)
    with pytest.raises(ValueError, match=message):
        model.set_active_adapters(setup)
        model(**batch("bert"), **options)
    model.set_active_adapters(None)
    assert same(models.tensors(model(**batch("bert"))), bare)


@pytest.mark.parametrize(
    ("method", "block", "message"),
    [
        ("prefix", Fuse("a", "b"), "Fuse is not defined"),
        ("prefix", Split("a", "b", splits=[2, 4]), "Split is not defined for prefix tuning"),
        ("prefix", Average("a", "b"), "different lengths"),
        ("prompt", Split("a", "b", splits=[2, 4]), "Split is not defined for prompt tuning"),
        ("prompt", Parallel("a", None), "prompts of different lengths"),
        ("bitfit", Fuse("a", "b"), "Fuse is not defined"),
    ],
    ids=str,
)
def test_methods_name_what_they_cannot(method: str, block: Any, message: str) -> None:
    model = with_two("bert", method)
    with pytest.raises(ValueError, match=message):
        if isinstance(block, Fuse):
            model.add_adapter_fusion(block)
        model.set_active_adapters(block)
    assert model.active_adapters is None


# -- every architecture -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["seq_bn", "lora", "loreft", PREFIX])
@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES, ids=lambda a: f"{a.model_class}")
def test_rows_of_any_architecture(architecture: zoo.Architecture, preset: str) -> None:
    """Rows, and copies of the batch behind a layer that all share, are what they are alone; or an error says no."""
    try:
        model: Any = zoo.tiny_model(architecture).eval()
    except (zoo.CannotShrink, ImportError, ValueError) as error:
        pytest.skip(str(error))
    given = zoo.tiny_inputs(model, architecture)
    adapters.init(model)
    try:
        for adapter in "ab":
            model.add_adapter(adapter, preset)
    except ValueError as error:
        pytest.skip(str(error))
    randomised(model, "a", "b")

    def run(setup: Any, skip: Sequence[int] = (), **options: Any) -> Tensor:
        model.set_active_adapters(setup, skip_layers=skip)
        torch.manual_seed(0)
        with torch.no_grad():
            output = model(**given, **options)
        return output["logits"]  # type: ignore[no-any-return]

    try:
        wanted = {setup: run(setup) for setup in ("a", "b", None)}
        order = (["b", None, "a"] * len(wanted["a"]))[: len(wanted["a"])]
        got = run(None, adapter_names=order)
    except ValueError as error:
        known = ("rows", "padding", "hidden states", "shared_kv_states")  # of the last one the inputs are not there
        assert any(word in str(error) for word in known), error
        return
    expected = torch.stack([wanted[adapter][row] for row, adapter in enumerate(order)])
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-3)
    for skip in ((), (0,)):
        expected = torch.cat([run("a", skip), run("b", skip)])
        assert torch.allclose(run(Parallel("a", "b"), skip), expected, rtol=1e-3, atol=1e-3)


def test_lists_within_lists_are_what_1_3_makes_of_them() -> None:
    """Stacks of fusions of stacks …"""
    assert adapters.parse_composition(["a", ["b", ["c", "d"]]]) == Stack("a", Fuse("b", Stack("c", "d")))
    assert adapters.parse_composition([["a", "b"]]) == Stack(Fuse("a", "b"))
    assert adapters.parse_composition([]) is None and adapters.parse_composition("a") == Stack("a")
