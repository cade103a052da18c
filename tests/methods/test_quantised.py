"""Every method on a base whose linear layers are quantised, by bitsandbytes and by torchao. Skipped without them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import adapters
import models
from adapters import AdapterConfig, LoRAConfig, initialise_with_data
from adapters.anatomy.parts import Matrix
from adapters.methods.weights import dense_weight

pytestmark = pytest.mark.filterwarnings("ignore")  # quantisers warn of much

LLAMA = {**models.LLAMA, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "tie_word_embeddings": False}
BERT = {**models.BERT, "hidden_size": 64, "intermediate_size": 128}


def bitsandbytes(**options: Any) -> Callable[[], Any]:
    pytest.importorskip("accelerate")
    pytest.importorskip("bitsandbytes")
    return functools.partial(transformers.BitsAndBytesConfig, **options)


def torchao(name: str, **options: Any) -> Any:
    pytest.importorskip("accelerate")
    quantization = pytest.importorskip("torchao.quantization")
    return transformers.TorchAoConfig(getattr(quantization, name)(**options))


QUANTISERS: dict[str, Callable[[], Any]] = {
    "bnb 4 bits": lambda: bitsandbytes(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)(),
    "bnb nf4, bf16": lambda: bitsandbytes(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )(),
    "bnb 8 bits": lambda: bitsandbytes(load_in_8bit=True)(),
    "torchao int8": lambda: torchao("Int8WeightOnlyConfig"),
    "torchao int4": lambda: torchao("IntxWeightOnlyConfig", weight_dtype=torch.int4),
    "torchao int8 dynamic": lambda: torchao("Int8DynamicActivationInt8WeightConfig"),
}
LINEAR = {"attn_matrices": ["q", "k", "v", "o"], "intermediate_lora": True, "output_lora": True}
METHODS: dict[str, AdapterConfig] = {
    **{name: AdapterConfig.load(f"{name}[reduction_factor=4]") for name in ("double_seq_bn", "par_bn", "seq_bn_inv")},
    "compacter": AdapterConfig.load("compacter[phm_dim=2]"),
    "lora": LoRAConfig(r=4, **LINEAR),
    "gated lora": LoRAConfig(r=4, use_gating=True),
    "lora of embeddings": LoRAConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
    **{name: LoRAConfig(r=4, init_weights=name, **LINEAR) for name in ("pissa", "olora", "orthogonal", "eva")},
    **{name: AdapterConfig.load(name, r=4) for name in ("dora", "vera", "dvora", "mtl_lora")},
    "adalora": adapters.AdaLoRAConfig(r=4, target_r=2),
    "ia3": AdapterConfig.load("ia3"),
    "ln_tuning": AdapterConfig.load("ln_tuning"),
    **{name: AdapterConfig.load(name) for name in ("prefix_tuning", "prompt_tuning", "loreft")},
    "modules_to_save": adapters.ModulesToSaveConfig(modules=["norm"]),
}
every_quantiser = pytest.mark.parametrize("quantiser", QUANTISERS)
IDS = torch.arange(12).view(2, 6) + 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, as it was before it is quantised."""
    path = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    model.save_pretrained(path)
    return path


def quantised(folder: Path, quantiser: str, dtype: torch.dtype = torch.float32) -> Any:
    config = QUANTISERS[quantiser]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=config, device_map="cpu", dtype=dtype
        ).eval()
    weight = model.model.layers[0].self_attn.q_proj.weight
    assert type(weight) is not torch.nn.Parameter
    adapters.init(model)
    return model


def loss(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(IDS, labels=IDS, use_cache=False).loss
    return result


def train(model: Any) -> None:
    model.train_adapter("a")  # in training mode: in evaluation, bitsandbytes packs weights on the CPU for good
    model.lm_head.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.01)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0]


@every_quantiser
@pytest.mark.parametrize("method", METHODS)
def test_methods_train_and_are_saved(quantiser: str, method: str, folder: Path, tmp_path: Path) -> None:
    model = quantised(folder, quantiser)
    before = model.state_dict().keys()
    model.add_adapter("a", METHODS[method])
    if method == "eva":
        initialise_with_data(model, "a", [{"input_ids": IDS}])
    own = [p for places in model.get_adapter("a").values() for m in places.values() for p in m.parameters()]
    assert {p.dtype for p in own} == {torch.float32}
    if quantiser != "torchao int8 dynamic":  # through rounded activations nothing can be trained
        train(model)
    model.eval().set_active_adapters("a")
    model.save_adapter(tmp_path, "a", with_head=False)
    fresh = quantised(folder, quantiser)
    fresh.load_adapter(tmp_path, set_active=True)
    with torch.no_grad():
        expected = model(IDS, use_cache=False).logits
        # The norms that DoRA needs are those of weights as the layer rounds them, which depends on what it ran before.
        tolerance = 0.1 if "dora" in method or "dvora" in method else 1e-4
        difference = fresh(IDS, use_cache=False).logits - expected
        assert difference.norm() <= tolerance * expected.norm()
        model.delete_adapter("a")
        bare = quantised(folder, quantiser)(IDS, use_cache=False).logits
        assert torch.allclose(model(IDS, use_cache=False).logits, bare, rtol=1e-4, atol=1e-4)
    assert model.state_dict().keys() == before


@every_quantiser
def test_nothing_is_merged_into_quantised_weights(quantiser: str, folder: Path) -> None:
    model = quantised(folder, quantiser)
    model.add_adapter("a", LoRAConfig(r=4))
    with pytest.raises(ValueError, match=r"q_proj.weight is quantised .* Dequantise"):
        model.merge_adapter("a")
    model.add_adapter("b", METHODS["ln_tuning"])
    model.merge_adapter("b")  # norms are not quantised
    model.reset_adapter()


@every_quantiser
def test_adapters_are_of_the_type_that_is_computed_with(quantiser: str, folder: Path) -> None:
    model = quantised(folder, quantiser, torch.bfloat16)
    model.add_adapter("a", LoRAConfig(r=4, **LINEAR), set_active=True)
    model.add_adapter("b", METHODS["dora"])
    model.add_adapter("c", LoRAConfig(r=4, dtype="float32"), set_active=True)
    types = {
        name: {p.dtype for places in model.get_adapter(name).values() for m in places.values() for p in m.parameters()}
        for name in "abc"
    }
    assert types == {"a": {torch.bfloat16}, "b": {torch.bfloat16}, "c": {torch.float32}}
    model.adapter_to("a", dtype=torch.float32)
    for name in "abc":
        model.set_active_adapters(name)
        assert model(IDS, use_cache=False).logits.isfinite().all()
    assert model.model.layers[0].self_attn.q_proj.weight.dtype in (torch.uint8, torch.int8, torch.bfloat16)


@every_quantiser
def test_dense_weights(quantiser: str, folder: Path) -> None:
    """Near the original, before and after the first forward pass, at which some weights are packed anew."""
    model = quantised(folder, quantiser)
    original = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for path, sizes in (("layers.0.self_attn.k_proj", (64, 32)), ("layers.1.mlp.down_proj", (128, 64))):
        wanted = original.model.get_submodule(path).weight
        first = dense_weight(model.model, Matrix(path, "", 0, *sizes))
        with torch.no_grad():
            model(IDS, use_cache=False)
            x = torch.randn(3, sizes[0])
            y = model.model.get_submodule(path)(x)
        second = dense_weight(model.model, Matrix(path, "", 0, *sizes))
        assert first.shape == wanted.shape and torch.allclose(first, second, rtol=0.01)
        assert (first - wanted).norm() / wanted.norm() < 0.15
        assert (x @ first.float().T - y).norm() / y.norm() < 0.02


def test_what_needs_a_dense_weight_says_so(folder: Path) -> None:
    model = quantised(folder, "bnb 4 bits")
    with pytest.raises(ValueError, match="cannot be copied"):
        model.add_adapter("a", adapters.ModulesToSaveConfig(modules=["q_proj"]))
    assert not model.has_adapters()


def test_biases_of_quantised_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**BERT)).save_pretrained(tmp_path)
    for quantiser in QUANTISERS:
        config = QUANTISERS[quantiser]()
        model = transformers.BertModel.from_pretrained(
            tmp_path, quantization_config=config, device_map="cpu", dtype=torch.float32
        )
        adapters.init(model.eval())
        for name in ("bitfit", "ia3", "dora"):
            bare = model(IDS).last_hidden_state
            model.add_adapter(name, name, set_active=True)
            assert torch.allclose(model(IDS).last_hidden_state, bare, rtol=1e-3, atol=1e-3)
            models.randomise(model, name)
            assert not torch.allclose(model(IDS).last_hidden_state, bare, rtol=1e-2, atol=1e-2)
            model.set_active_adapters(None)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_dequantised_models_are_merged(folder: Path) -> None:
    """The way that the message shows."""
    model = quantised(folder, "bnb nf4, bf16")
    adapters.detach(model)
    model = model.dequantize().float()
    adapters.init(model)
    model.add_adapter("a", LoRAConfig(r=4), set_active=True)
    models.randomise(model, "a")
    expected = model(IDS, use_cache=False).logits
    model.merge_adapter("a")
    assert torch.allclose(model(IDS, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
