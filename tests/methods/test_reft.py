"""ReFT: the formula at the right positions, rows that stay orthonormal, and files of every age."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import adapters
import models
from adapters import AdapterConfig, LoReftConfig, NoReftConfig, Stack
from adapters.methods.orthonormal import HouseholderRows, OrthonormalRows
from adapters.runtime.hooks import ReplayedCheckpoint

TEXT = ["bert", "deberta-v2", "gpt2", "llama", "t5", "modernbert"]
EYE = torch.eye(3)


def adapted(name: str, config: AdapterConfig | str, **fields: object) -> nn.Module:
    model = models.adapted(name)
    model.add_adapter("a", AdapterConfig.load(config, **fields), set_active=True)
    models.randomise(model, "a")
    return model.eval()


def layer_output(model: nn.Module, path: str, **given: Tensor) -> Tensor:
    """The hidden states behind a layer, as the next one sees them."""
    seen = []
    handle = model.get_submodule(path).register_forward_hook(lambda m, i, o: seen.append(o))
    with torch.no_grad():
        model(**given)
    handle.remove()
    return seen[0][0] if isinstance(seen[0], tuple) else seen[0]


def reference(unit: nn.Module, h: Tensor, subtracts: bool, f: object = None) -> Tensor:
    rows = unit.projection()
    z = unit.learned_source(h)
    z = f(z) if f is not None else z
    return h + (z - h @ rows.T if subtracts else z) @ rows


@pytest.mark.parametrize("side", ["right", "left", "hole", "none"])
@pytest.mark.parametrize("ends", [(2, 0), (0, 2), (2, 1), (3, 3), (9, 1)])
@pytest.mark.parametrize("preset", ["loreft", "noreft[tied_weights=True]", "direft[non_linearity=tanh]"])
def test_formula(preset: str, ends: tuple[int, int], side: str) -> None:
    """The first and the last tokens of each row are changed, and nothing else; the last ones win."""
    prefix, suffix = ends
    model = adapted("bert", preset, r=2, prefix_positions=prefix, suffix_positions=suffix)
    path, module = "encoder.layer.0", model.get_adapter("a")[0]["output_reft"]
    mask = torch.ones(3, 8, dtype=torch.long)
    if side == "right":
        mask[1, 5:], mask[2, 2:] = 0, 0
    elif side == "left":
        mask[1, :5], mask[2, :7] = 0, 0
    elif side == "hole":
        mask[1, 2:4], mask[2, 0], mask[2, 6] = 0, 0, 0
    given = {"input_ids": torch.arange(5, 29).view(3, 8), "attention_mask": mask}
    if side == "none":
        del given["attention_mask"]
    after = layer_output(model, path, **given)
    model.set_active_adapters(None)
    before = layer_output(model, path, **given)
    expected = before.clone()
    f = torch.tanh if "tanh" in preset else None
    for row in range(3):
        tokens = mask[row].nonzero()[:, 0].tolist()
        last = tokens[len(tokens) - suffix :] if suffix and suffix <= len(tokens) else tokens if suffix else []
        for unit, chosen in ((0, [t for t in tokens[:prefix] if t not in last]), (-1, last)):
            for t in chosen:
                expected[row, t] = reference(module.units[unit], before[row, t], "direft" not in preset, f)
    assert torch.allclose(after, expected, atol=1e-5)
    untouched = (expected == before).all(-1)
    assert torch.equal(after[untouched], before[untouched])


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", TEXT)
def test_padded_is_unpadded(name: str, side: str, compiled: bool) -> None:
    model = adapted(name, "noreft", r=2, prefix_positions=2, suffix_positions=2)
    ids = torch.arange(5, 17).view(2, 6)
    mask = torch.ones_like(ids)
    text = slice(0, 4) if side == "right" else slice(2, 6)
    mask[1, [4, 5] if side == "right" else [0, 1]] = 0
    batch, alone = {"input_ids": ids, "attention_mask": mask}, {"input_ids": ids[1:, text]}
    if name == "gpt2":
        batch["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    if name == "t5":
        batch["decoder_input_ids"], alone["decoder_input_ids"] = ids[:, :3], ids[1:, :3]
    rows = slice(0, 3) if name == "t5" else text
    if name == "bert" and side == "left":
        alone["position_ids"] = torch.arange(2, 6)[None]
    if compiled:
        torch._dynamo.reset()
        run = torch.compile(model, fullgraph=True, backend="eager")
    else:
        run = model
    with torch.no_grad():
        assert torch.allclose(run(**batch)[0][1:, rows], model(**alone)[0], atol=2e-5)


def test_decoder_has_its_own_mask() -> None:
    """Also where it is longer, or shorter, than the encoder's."""
    for name in ("bart", "t5"):
        model = adapted(name, "noreft", prefix_positions=1, suffix_positions=1)
        ids, longer = torch.arange(5, 13).view(2, 4), torch.arange(20, 32).view(2, 6)
        mask = torch.ones_like(longer)
        mask[1, 3:] = 0
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            both = model(**given, decoder_input_ids=longer, decoder_attention_mask=mask)[0]
            alone = model(input_ids=ids[1:], decoder_input_ids=longer[1:, :3])[0]
        assert torch.allclose(both[1:, :3], alone, atol=1e-5)


@pytest.mark.parametrize("way", [{}, {"num_beams": 3}, {"do_sample": True}])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bart"])
def test_last_positions_are_the_prompts_while_generating(name: str, way: dict[str, object]) -> None:
    """With and without a cache; and the first tokens are those of the whole row, not of a call."""
    torch.manual_seed(0)
    class_name = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "bart": "BartForConditionalGeneration"}[name]
    config_class, fields, _, _ = models.FAMILIES[name]
    special = {"pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1, "decoder_start_token_id": 1}
    model = getattr(transformers, class_name)(getattr(transformers, config_class)(**{**fields, **special})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    adapters.init(model)
    model.add_adapter("a", NoReftConfig(r=4, prefix_positions=1, suffix_positions=2, dropout=0.0), set_active=True)
    models.randomise(model, "a", 0.5)
    ids = torch.arange(5, 17).view(2, 6)
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        given = {"input_ids": ids, "attention_mask": mask, "use_cache": use_cache, **way}
        texts.append(model.generate(**given, max_new_tokens=6, min_new_tokens=6))
        texts.append(model.generate(**given, max_new_tokens=6, min_new_tokens=6) if not way else texts[-1])
    assert all(torch.equal(texts[0], text) for text in texts)
    if name == "bart" or way:
        return
    with torch.no_grad():  # by hand: the last tokens of the prompt stay the last ones
        first = model(input_ids=ids[:1], use_cache=True)
        token = first.logits[:, -1:].argmax(-1)
        with adapters.runtime.calls.Generation():
            again = model(input_ids=ids[:1], use_cache=True)
            second = model(input_ids=token, past_key_values=again.past_key_values)
        with adapters.AdapterSetup(None):
            bare = model(input_ids=token, past_key_values=first.past_key_values)
    assert torch.equal(token[0], texts[0][0, 6:7])
    assert torch.equal(second.logits, bare.logits)  # a new token is far from the start, and behind the end


def test_rows_stay_orthonormal() -> None:
    model = models.adapted("bert")
    model.add_adapter("a", LoReftConfig(r=3, suffix_positions=1))
    model.train_adapter("a")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    units = [unit for places in model.get_adapter("a").values() for unit in places["output_reft"].units]
    before = [unit.projection().detach().clone() for unit in units]
    for _ in range(5):
        models.loss(models.outputs(model, "bert")).backward()
        optimizer.step()
        optimizer.zero_grad()
        for unit in units:
            rows = unit.projection()
            assert torch.allclose(rows @ rows.T, EYE, atol=1e-5)
    model.eval()
    with torch.no_grad():
        assert all((unit.projection() - rows).abs().max() > 0.05 for unit, rows in zip(units, before, strict=True))
        assert units[0].projection() is units[0].projection()  # computed once
        units[0].projection.weight.mul_(2)
        assert torch.allclose(units[0].projection() @ units[0].projection().T, EYE, atol=1e-5)


def test_gradient_of_orthonormal_rows() -> None:
    """It is that of the orthonormalised parameter, also where the parameter is orthonormal and left as it is."""
    rows = OrthonormalRows(3, 5).double()
    target = torch.randn(3, 5, dtype=torch.float64)
    for scale in (1.0, 1.7):
        with torch.no_grad():
            rows.weight.mul_(scale)
        assert torch.allclose(rows() @ rows().T, EYE.double())
        gradient = torch.autograd.grad((rows() * target).sum(), rows.weight)[0]
        step = 1e-6 * torch.randn(3, 5, dtype=torch.float64)
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                moved = copy.deepcopy(rows)
                moved.weight.add_(1e3 * sign * step)  # far enough to be orthonormalised anew
                values.append((moved() * target).sum())
        assert torch.allclose((values[0] - values[1]) / 2e3, (gradient * step).sum(), rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_hold_the_rows(dtype: torch.dtype, tmp_path: Path) -> None:
    """Nothing but r × D numbers per matrix, with which outputs are the same to the last bit."""
    model = models.bare("bert").to(dtype)
    adapters.init(model)
    model.add_adapter("a", LoReftConfig(r=2, dropout=0.0), set_active=True)
    models.randomise(model, "a")
    model.save_adapter(tmp_path, "a")
    tensors = load_file(tmp_path / "adapter.safetensors")
    assert {name.rpartition("units.")[2] for name in tensors} == {
        f"{unit}.{name}"
        for unit in (0, 1)
        for name in ("learned_source.weight", "learned_source.bias", "projection.weight")
    }
    rows = tensors["encoder.layer.0.reft_layer.refts.a.units.0.projection.weight"].float()
    assert torch.allclose(rows @ rows.T, torch.eye(2), atol=1e-5 if dtype == torch.float32 else 2e-2)
    assert (tmp_path / "adapter.safetensors").stat().st_size < 2 * 2 * (2 * 2 * 32 + 2) * 4 + 2500
    fresh = models.bare("bert").to(dtype)
    adapters.init(fresh)
    fresh.load_adapter(tmp_path, set_active=True)
    for mode in (True, False):
        with torch.no_grad():
            first, second = (
                m.train(mode).get_adapter("a")[1]["output_reft"].units[1].projection() for m in (model, fresh)
            )
        assert torch.equal(first, second)


def written_by_1_3(folder: Path, target: Path, r: int) -> dict[str, Tensor]:
    """A file as 1.3 writes it, with torch's own parametrization; gives the rows of R by name."""
    tensors, rows = {}, {}
    for name, tensor in load_file(folder / "adapter.safetensors").items():
        if not name.endswith("projection.weight"):
            tensors[name] = tensor
            continue
        layer = nn.utils.parametrizations.orthogonal(nn.Linear(32, r, bias=False))
        original, base = layer.parametrizations.weight.original, layer.parametrizations.weight[0].base
        with torch.no_grad():
            original.add_(0.5 * torch.randn_like(original).triu(1))
        stem = name.removesuffix("weight")
        tensors[f"{stem}parametrizations.weight.original"] = original.detach().clone()
        tensors[f"{stem}parametrizations.weight.0.base"] = base.clone(
            memory_format=torch.contiguous_format
        ).contiguous()
        rows[name] = layer.weight.detach().clone()
    target.mkdir()
    save_file(tensors, target / "adapter.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps({**config, "version": "adapters.1.3.0"}))
    return rows


def test_files_of_1_3(tmp_path: Path) -> None:
    """Rows are those of torch's parametrization, are trained in that form, and saved as rows."""
    model = adapted("bert", "loreft", r=3)
    model.save_adapter(tmp_path / "new", "a")
    expected = written_by_1_3(tmp_path / "new", tmp_path / "old", 3)
    model = models.adapted("bert")
    model.load_adapter(tmp_path / "old", set_active=True)
    units = {f"encoder.layer.{i}.reft_layer.refts.a.units.{j}.projection.weight": unit.projection
             for i in (0, 1) for j, unit in enumerate(model.get_adapter("a")[i]["output_reft"].units)}  # fmt: skip
    assert all(isinstance(rows, HouseholderRows) for rows in units.values())
    assert all(torch.allclose(units[name](), rows, atol=1e-6) for name, rows in expected.items())
    names = [name for name, _ in model.named_parameters() if "projection" in name]
    assert all(name.endswith("projection.parametrizations.weight.original") for name in names)
    model.train_adapter("a")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0, weight_decay=0.1)
    models.loss(models.outputs(model, "bert")).backward()
    optimizer.step()
    model.eval()
    assert all(torch.allclose(rows() @ rows().T, EYE, atol=1e-5) for rows in units.values())
    outputs = models.outputs(model, "bert")
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(map(torch.equal, models.outputs(copied, "bert"), outputs))
    model.save_adapter(tmp_path / "again", "a")
    assert (
        load_file(tmp_path / "again" / "adapter.safetensors").keys()
        == load_file(tmp_path / "new" / "adapter.safetensors").keys()
    )
    fresh = models.adapted("bert")
    fresh.load_adapter(tmp_path / "again", set_active=True)
    assert all(map(torch.equal, models.outputs(fresh, "bert"), outputs))
    state = copy.deepcopy(model.state_dict())
    models.randomise(model, "a")
    model.load_state_dict(state)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(models.outputs(model, "bert"), outputs, strict=True))
    del state[next(name for name in state if name.endswith("projection.weight"))]
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(state)


def test_direft_is_read_as_it_was_written(tmp_path: Path) -> None:
    for preset in ("direft", "noreft"):
        model = adapted("bert", preset)
        model.save_adapter(tmp_path / preset, "a")
        config = json.loads((tmp_path / preset / "adapter_config.json").read_text())["config"]
        assert config.get("subtract_projection", True) is (preset == "noreft")
        fresh = models.adapted("bert")
        fresh.load_adapter(tmp_path / preset, set_active=True)
        assert all(map(torch.equal, models.outputs(fresh, "bert"), models.outputs(model, "bert")))


def test_direft_of_1_3_is_what_it_was_added_as(tmp_path: Path) -> None:
    """Its file says NoReFT, so the adapter that is there already tells."""
    model = adapted("bert", "direft")
    model.save_adapter(tmp_path, "a")
    data = json.loads((tmp_path / "adapter_config.json").read_text())
    del data["config"]["subtract_projection"]
    (tmp_path / "adapter_config.json").write_text(json.dumps({**data, "version": "adapters.1.3.0"}))
    for added, expected in (("direft", False), ("noreft", True), ("direft[r=2]", True), (None, True)):
        fresh = models.adapted("bert")
        if added is not None:
            fresh.add_adapter("a", added)
        fresh.load_adapter(tmp_path)
        assert fresh.adapters_config.get("a")["subtract_projection"] is expected


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["bert", "llama", "t5", "whisper", "vit", "albert"])
def test_number_of_parameters(name: str, tied: bool) -> None:
    """Per layer and intervention: R and W of r × D, and b of r."""
    model = models.adapted(name)
    model.add_adapter("a", LoReftConfig(r=3, tied_weights=tied))
    layers = {"albert": 1, "t5": 4, "whisper": 4}.get(name, 2)
    assert sum(p.numel() for p in models.parameters(model, "a")) == layers * (2 - tied) * (2 * 3 * 32 + 3)


def test_layers() -> None:
    model = models.adapted("t5")
    model.add_adapter("a", LoReftConfig(layers=[2, 3]))
    assert set(model.get_adapter("a")) == {2, 3}
    assert "decoder.block.0.reft_layer.refts.a.units.0.projection.weight" in model.state_dict()
    model.add_adapter("b", "loreft", layers=[1])
    assert set(model.get_adapter("b")) == {1}


def test_all_tokens_of_an_image_and_of_sound_count() -> None:
    for name in ("vit", "whisper"):
        model = adapted(name, "noreft", prefix_positions=1, suffix_positions=1)
        path = model._adapter_registry.anatomy.layers[1].path
        given = models.inputs(name)
        if name == "whisper":  # the mask of its input is not one of positions
            given["attention_mask"] = torch.zeros(2, 20, dtype=torch.long)
        model.set_active_adapters("a", skip_layers=[0])
        after = layer_output(model, path, **given)
        model.set_active_adapters(None)
        changed = (after != layer_output(model, path, **given)).any(-1)
        assert torch.equal(changed.nonzero()[:, 1].view(2, -1), torch.tensor([[0, changed.shape[1] - 1]] * 2))


def test_dropout_drops_what_is_added() -> None:
    model = adapted("vit", "noreft", dropout=0.5, prefix_positions=100)
    module = model.get_adapter("a")[0]["output_reft"]
    h = torch.randn(1, 4, 32)
    added = module.eval().increment(h, False)
    assert torch.equal(module.increment(h, False), added)
    dropped = module.train().increment(h, False)
    assert ((dropped == 0) | torch.isclose(dropped, 2 * added, atol=1e-5)).all()
    assert 0 < (dropped == 0).sum() < dropped.numel()


def test_type_of_numbers() -> None:
    model = adapted("bert", "loreft", dtype="bfloat16", prefix_positions=6)
    assert {p.dtype for p in models.parameters(model, "a")} == {torch.bfloat16}
    wide = adapted("bert", "loreft", prefix_positions=6)
    assert all(
        torch.allclose(a, b, atol=0.1)
        for a, b in zip(models.outputs(model, "bert"), models.outputs(wide, "bert"), strict=True)
    )
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():  # rows are not of the type that others are cast to
        wide(**models.inputs("bert"))
        rows = wide.get_adapter("a")[0]["output_reft"].units[0].projection()
    assert rows.dtype == torch.float32
    assert torch.allclose(rows @ rows.T, torch.eye(1), atol=1e-6)


def test_seed() -> None:
    state = torch.get_rng_state()
    first, second = (models.adapted("bert") for _ in range(2))
    for model in (first, second):
        model.add_adapter("a", LoReftConfig(r=2, init_weights_seed=7))
    pairs = zip(models.parameters(first, "a"), models.parameters(second, "a"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    torch.set_rng_state(state)


def test_of_several_in_a_stack_the_first_acts(caplog: pytest.LogCaptureFixture) -> None:
    """As in AdapterHub's adapters 1.3; it is said, and only once."""
    adapters.runtime.layers._warn_once.cache_clear()
    model = adapted("bert", "noreft")
    alone = models.outputs(model, "bert")
    model.add_adapter("b", "noreft")
    model.set_active_adapters(Stack("a", "b"))
    assert all(map(torch.equal, models.outputs(model, "bert"), alone))
    assert caplog.text.count("only the first") == 1


def test_recomputed_layers_know_their_own_call() -> None:
    """Checkpointing that runs hooks again, after the model was called with another mask, or fails."""
    model = adapted("bert", "noreft", dropout=0.0, prefix_positions=1, suffix_positions=1)
    layer = model.encoder.layer[0]
    checkpoint = ReplayedCheckpoint(torch.utils.checkpoint.checkpoint, model._adapter_registry.table)
    given = models.inputs("bert")
    parameter = models.parameters(model, "a")[0]
    expected = torch.autograd.grad(models.loss(models.tensors(model(**given))), parameter)[0]
    call = layer.__class__.__call__

    class Checkpointed(type(layer)):  # type: ignore[misc]
        def __call__(self, *args: object, **kwargs: object) -> object:
            return checkpoint(lambda *a: call(self, *a, **kwargs), *args, use_reentrant=False)

    layer.__class__ = Checkpointed
    value = models.loss(models.tensors(model(**given)))
    model(input_ids=given["input_ids"])
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[1000]]), attention_mask=torch.ones(1, 1))
    assert torch.allclose(torch.autograd.grad(value, parameter)[0], expected, atol=1e-6)


def test_errors() -> None:
    model = models.adapted("bert")
    keys = model.state_dict().keys()
    for config, message in (
        (LoReftConfig(r=33), "no more than 32"),
        (LoReftConfig(layers=[0, 7]), "no layer 7"),
        (LoReftConfig(layers=[]), "places nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            model.add_adapter("a", config)
    with pytest.raises(ValueError, match="prefix_positions"):
        LoReftConfig(prefix_positions=0)
    assert model.state_dict().keys() == keys
    model.add_adapter("a", NoReftConfig(r=33), set_active=True)
    ids = models.inputs("bert")["input_ids"]
    with pytest.raises(ValueError, match="attention mask of shape"):
        model(input_ids=ids, attention_mask=torch.ones(2, 9))
    assert not adapters.runtime.progress.calls_in_progress()
    xlm = transformers.XLMModel(transformers.XLMConfig(vocab_size=100, emb_dim=32, n_layers=1, n_heads=2))
    adapters.init(xlm)
    with pytest.raises(ValueError, match="loops over its sublayers"):
        xlm.add_adapter("a", "loreft")
