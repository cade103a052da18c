"""How the library is put together: who imports whom, what is public, and that AdapterHub's calls still fit."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib.metadata import version
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

import pytest

import adapters
import adapters.auto
import adapters.heads.flexible

SOURCE = Path(adapters.__file__).parent
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").removesuffix("."): path
    for path in sorted(SOURCE.rglob("*.py"))
}
every_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module or "adapters")

# Files and folders of src/adapters: each may import from itself and from what stands above it, and from nothing else.
ORDER = [
    "composition",  # plain data
    "configuration",
    "anatomy",
    "methods",
    "runtime",
    "merging",
    "registry",
    "fusions",
    "averaging",
    "sharing",
    "rank_allocation",
    "data_inits",
    "optimizers",
    "context",
    "calling",
    "summary",
    "checkpoints",
    "interchange",
    "hub",
    "vocabulary",
    "embeddings",
    "peft_library",
    "heads",  # the heads, and those of static classes …
    "model",
    "hub_mixin",
    "utils",
    "interface",  # 1.3's places of names
    "wrappers",
    "heads.running",
    "heads.telling",
    "heads.flexible",  # … and the class of models with any number of them, which is built on `model`
    "auto",
    "training",
    "trainer",
    "inspection",
    "demo",
    "runs",
    "commands",
]

PUBLIC = [
    "ADAPTERFUSION_CONFIG_MAP",
    "ADAPTER_CACHE",
    "ADAPTER_CONFIG_MAP",
    "ADAPTER_MODEL_MAPPING",
    "AdaLoRAConfig",
    "AdapterArguments",
    "AdapterCompositionBlock",
    "AdapterConfig",
    "AdapterFusionConfig",
    "AdapterInfo",
    "AdapterMethod",
    "AdapterModelInterface",
    "AdapterPlusConfig",
    "AdapterSetup",
    "AdapterTrainer",
    "AdapterType",
    "AutoAdapterModel",
    "Average",
    "BatchSplit",
    "BertStyleMaskedLMHead",
    "BiaffineParsingHead",
    "BitFitConfig",
    "BnConfig",
    "CausalLMHead",
    "ClassificationHead",
    "CompacterConfig",
    "CompacterPlusPlusConfig",
    "ConfigUnion",
    "ConversionReport",
    "DEFAULT_ADAPTERFUSION_CONFIG",
    "DEFAULT_ADAPTER_CONFIG",
    "DependencyParsingOutput",
    "DiReftConfig",
    "DoRAConfig",
    "DoubleSeqBnConfig",
    "DoubleSeqBnInvConfig",
    "DvoRAConfig",
    "DynamicAdapterFusionConfig",
    "ExportError",
    "ExportReport",
    "Fuse",
    "Gate",
    "GateFusionConfig",
    "HoulsbyConfig",
    "HoulsbyInvConfig",
    "IA3Config",
    "ImageClassificationHead",
    "LayerNormTuningConfig",
    "LoRAConfig",
    "LoReftConfig",
    "MAMConfig",
    "MTLLoRAConfig",
    "ModelAdaptersConfig",
    "ModelAdaptersMixin",
    "ModelWithFlexibleHeadsAdaptersMixin",
    "ModulesToSaveConfig",
    "MultiHeadOutput",
    "MultiLabelClassificationHead",
    "MultiTask",
    "MultipleChoiceHead",
    "NoReftConfig",
    "ParBnConfig",
    "Parallel",
    "ParallelConfig",
    "PfeifferConfig",
    "PfeifferInvConfig",
    "PredictionHead",
    "PrefixTuningConfig",
    "PromptTuningConfig",
    "QuestionAnsweringHead",
    "RankAllocator",
    "ReftConfig",
    "Seq2SeqAdapterTrainer",
    "Seq2SeqLMHead",
    "SeqBnConfig",
    "SeqBnInvConfig",
    "Split",
    "Stack",
    "StaticAdapterFusionConfig",
    "TaggingHead",
    "UniPELTConfig",
    "VeraConfig",
    "__version__",
    "check_export",
    "convert_to_lora",
    "detach",
    "export_adapter",
    "get_adapter_config_hash",
    "get_adapter_info",
    "init",
    "initialise_with_data",
    "inspect",
    "list_adapters",
    "load_model",
    "lora_plus_groups",
    "parse_composition",
    "setup_adapter_training",
    "validate_composition",
]

# Methods and functions of adapters 1.3 (shared/reference/api-1.3.md) that are there, by their arguments. The default
# of `use_safetensors` is not among them when saving: safetensors are what is written now.
SIGNATURES: dict[Any, str] = {
    adapters.init: "model, adapters_config=None, interface=None",
    adapters.load_model: "model_name_or_path, model_class, interface=None, *model_args, **kwargs",
    adapters.parse_composition: "adapter_composition, level=0, model_type=None",
    adapters.validate_composition: "adapter_composition, level=0, model_type=None",
    adapters.get_adapter_config_hash: "config, length=16, ignore_params=()",
    adapters.AdapterSetup: "adapter_setup, head_setup=None, ignore_empty=False",
    adapters.Average: "*average_adapters, weights=None, normalize_weights=True",
    adapters.BatchSplit: "*split_adapters, batch_sizes",
    adapters.Split: "*split_adapters, splits",
    adapters.Fuse: "*fuse_stacks, name=None",
    adapters.ModelAdaptersConfig: "**kwargs",
    adapters.AdapterConfig.load: "config, download_kwargs=None, **kwargs",
    adapters.AdapterConfig.replace: "self, **changes",
    adapters.ModelAdaptersConfig.add: "self, adapter_name, config=None",
    adapters.ModelAdaptersConfig.get: "self, adapter_name",
    adapters.ModelAdaptersConfig.add_fusion: "self, adapter_names, config=None, fusion_name=None",
    adapters.ModelAdaptersConfig.get_fusion: "self, fusion_name",
    adapters.AdapterFusionConfig.load: "config, **kwargs",
    adapters.AdapterInfo: "source, adapter_id, model_name=None, task=None, subtask=None, username=None, "
    "adapter_config=None, sha1_checksum=None",
    adapters.list_adapters: "model_name=None",
    adapters.get_adapter_info: "adapter_id",
    adapters.hub.pull_from_hub: "specifier, model_name, adapter_config=None, version=None, strict=False",
    adapters.hub.pull_from_hf_model_hub: "specifier, version=None",
    adapters.AdapterModelInterface: "adapter_methods, model_embeddings, model_layers, layer_self_attn, "
    "layer_cross_attn, attn_o_proj, layer_intermediate_proj, layer_output_proj, attn_k_proj=None, "
    "attn_q_proj=None, attn_v_proj=None, "
    "attn_qkv_proj=None, layer_pre_self_attn=None, layer_pre_cross_attn=None, layer_pre_ffn=None, layer_ln_1=None, "
    "layer_ln_2=None, base_model=None",
}
METHODS = {
    "adapter_summary": "self, as_dict=False",
    "adapter_to": "self, name, device=None, dtype=None",
    "add_adapter": "self, adapter_name, config=None, overwrite_ok=False, set_active=False",
    "add_adapter_fusion": "self, adapter_names, config=None, name=None, overwrite_ok=False, set_active=False",
    "average_adapter": "self, adapter_name, adapter_list, weights=None, combine_strategy='linear', "
    "normalize_weights=True, overwrite_ok=False, set_active=False, svd_rank=None",
    "average_head": "self, head_name, head_list, weights=None, normalize_weights=True, overwrite_ok=False, "
    "set_active=False",
    "adapter_fusion_to": "self, adapter_names, device=None, dtype=None",
    "add_classification_head": "self, head_name, num_labels=2, layers=2, activation_function='tanh', "
    "overwrite_ok=False, multilabel=False, id2label=None, use_pooler=False",
    "add_embeddings": "self, name, tokenizer, reference_embedding=None, reference_tokenizer=None, embedding_dim=None",
    "delete_adapter": "self, adapter_name",
    "delete_adapter_fusion": "self, adapter_names",
    "delete_embeddings": "self, name",
    "delete_head": "self, head_name",
    "freeze_model": "self, freeze=True",
    "get_adapter": "self, name",
    "get_fusion_regularization_loss": "self",
    "get_labels": "self, head_name=None",
    "get_labels_dict": "self, head_name=None",
    "get_prediction_heads_config": "self",
    "has_adapters": "self",
    "load_adapter": "self, adapter_name_or_path, config=None, version=None, model_name=None, load_as=None, "
    "with_head=True, custom_weights_loaders=None, leave_out=None, id2label=None, set_active=False, "
    "use_safetensors=False",
    "load_adapter_fusion": "self, adapter_fusion_name_or_path, load_as=None, custom_weights_loaders=None, "
    "set_active=False, with_head=True, use_safetensors=False",
    "load_adapter_setup": "self, adapter_setup_name_or_path, version=None, custom_weights_loaders=None, "
    "set_active=False, use_safetensors=False",
    "merge_adapter": "self, name",
    "push_adapter_to_hub": "self, repo_id, adapter_name, datasets_tag=None, local_path=None, commit_message=None, "
    "private=None, token=None, overwrite_adapter_card=False, create_pr=False, revision=None, commit_description=None, "
    "adapter_card_kwargs=None",
    "push_adapter_setup_to_hub": "self, repo_id, adapter_setup, head_setup=None, datasets_tag=None, local_path=None, "
    "commit_message=None, private=None, token=None, overwrite_adapter_card=False, create_pr=False, revision=None, "
    "commit_description=None, adapter_card_kwargs=None",
    "load_embeddings": "self, path, name",
    "load_head": "self, save_directory, load_as=None, id2label=None, use_safetensors=False",
    "reset_adapter": "self",
    "save_adapter": "self, save_directory, adapter_name, with_head=True, meta_dict=None, custom_weights_loaders=None, "
    "use_safetensors",
    "save_adapter_fusion": "self, save_directory, adapter_names, meta_dict=None, custom_weights_loaders=None, "
    "with_head=False, use_safetensors",
    "save_adapter_setup": "self, save_directory, adapter_setup, head_setup=None, meta_dict=None, "
    "custom_weights_loaders=None, use_safetensors",
    "save_all_adapter_fusions": "self, save_directory, meta_dict=None, custom_weights_loaders=None, use_safetensors",
    "save_all_adapters": "self, save_directory, with_head=True, meta_dict=None, custom_weights_loaders=None, "
    "use_safetensors",
    "save_embeddings": "self, path, name, tokenizer=None",
    "save_head": "self, save_directory, head_name=None, use_safetensors",
    "save_pretrained": "self, save_directory, **kwargs",
    "set_active_adapters": "self, adapter_setup, skip_layers=None",
    "set_active_embeddings": "self, name",
    "share_parameters": "self, adapter_names, name=None, reference_adapter_name=None",
    "supports_adapter": "self, type_or_config",
    "train_adapter": "self, adapter_setup, train_embeddings=False",
    "train_adapter_fusion": "self, adapter_setup, unfreeze_adapters=False",
    "unshare_parameters": "self, adapter_names, name=None",
}
MODEL = adapters.heads.flexible.ModelWithFlexibleHeadsAdaptersMixin


def unit(module: str) -> int | None:
    """The place of a module in `ORDER`; None for the public page, which is above all."""
    fitting = [name for name in ORDER if module == name or module.startswith(f"{name}.")]
    return ORDER.index(max(fitting, key=len)) if fitting else None


def imports(module: str) -> set[str]:
    """The modules of this library that a module imports, also within functions; "" is the public page."""
    path = MODULES[module]
    package = f"adapters.{module}" if path.name == "__init__.py" else f"adapters.{module}".rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = resolve_name("." * node.level + (node.module or ""), package)
            inner = {f"{start}.{alias.name}" for alias in node.names}
            found |= {i if i.removeprefix("adapters.") in MODULES else start for i in inner}
    ours = {name for name in found if name.partition(".")[0] == "adapters"}
    return {name.partition(".")[2] for name in ours}


def test_imports_are_read() -> None:
    """That the reader of imports sees all kinds of them."""
    assert {"anatomy.parts", "methods.base", "runtime.calls", "runtime.hooks"} <= imports("runtime.sublayers")
    assert {"", "embeddings", "registry"} <= imports("model.base")
    assert "checkpoints.native" in imports("model.files")
    assert "heads.model_heads" in imports("heads.flexible")


def test_the_order_names_what_is_there() -> None:
    tops = {module.partition(".")[0] for module in MODULES if module}
    assert tops == {name.partition(".")[0] for name in ORDER}


@every_module
def test_imports_run_one_way(module: str) -> None:
    """Of the public page, whose imports are lazy, only the version is taken; demos may use all of it."""
    own = unit(module)
    if own is None:
        return
    for imported in imports(module):
        other = unit(imported)
        assert other is not None or imported == "", imported
        assert other is None or other <= own, f"{module} imports {imported}, which stands below it"


def test_the_public_page_imports_nothing_when_it_is_imported() -> None:
    tree = ast.parse(MODULES[""].read_text(encoding="utf-8"))
    names = [ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert names == ["from __future__ import annotations", "import importlib", "from typing import TYPE_CHECKING, Any"]


def in_new_process(code: str) -> str:
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def test_import_is_lazy() -> None:
    code = "import sys, adapters, adapters.composition; "
    code += "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'transformers')])"
    assert in_new_process(code) == "[]"


def test_modules_are_there_without_import_and_load_no_modelling_file() -> None:
    """`adapters.composition.Stack` works after `import adapters`, and what programs begin with stays light."""
    code = "import sys, adapters; adapters.composition, adapters.context, adapters.configuration, adapters.heads; "
    code += "adapters.init; adapters.load_model; adapters.inspect; "
    code += "print([m for m in sys.modules if '.modeling_' in m and m.startswith('transformers.models.') "
    code += "and not m.startswith('transformers.models.auto.')])"
    assert in_new_process(code) == "[]"


def test_public_surface() -> None:
    of_models = [name for name in adapters.__all__ if name.endswith("AdapterModel") and name != "AutoAdapterModel"]
    assert sorted(set(adapters.__all__) - set(of_models)) == PUBLIC
    assert len(of_models) == 23 and all(isinstance(getattr(adapters, name), type) for name in of_models)
    assert set(PUBLIC) <= set(dir(adapters))
    with pytest.raises(AttributeError, match="no attribute 'LoraConfig'"):
        adapters.LoraConfig  # noqa: B018


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_described(name: str) -> None:
    value = getattr(adapters, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__ and len(value.__doc__.strip()) > 10
        assert not value.__doc__.startswith(f"{name}(")  # what dataclasses write for themselves


def test_star_import() -> None:
    names: dict[str, Any] = {}
    exec("from adapters import *", names)
    assert sorted(names.keys() - {"__builtins__"}) == sorted(adapters.__all__)


def test_type_checkers_see_the_same_names() -> None:
    """The lazy page states its names twice; the two lists are one."""
    tree = ast.parse(MODULES[""].read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {alias.asname for n in block.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    assert seen >= {*PUBLIC} - {"__version__"}


def test_version() -> None:
    assert adapters.__version__ == version("adapters") == "2.0.0.dev0"


@every_module
def test_modules_are_described(module: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))


def parameters(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def check_call(function: Any, expected: str) -> None:
    """Whether whoever calls with the expected arguments, by position or by name, is understood."""
    wanted = ast.parse(
        f"def f({expected.replace('use_safetensors', 'use_safetensors=...')}): pass".replace("=...=", "=")
    )
    arguments = wanted.body[0].args  # type: ignore[attr-defined]
    given = {p.name: p for p in parameters(function)}
    names = [a.arg for a in arguments.args]
    positional = [p.name for p in given.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional[: len(names)] == names
    defaults = dict(zip(names[len(names) - len(arguments.defaults) :], arguments.defaults, strict=True))
    defaults |= {a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None}
    for name, default in defaults.items():
        value = ast.literal_eval(default)
        assert value is ... or given[name].default == value, name
    kinds = {p.kind for p in given.values()}
    assert not arguments.vararg or inspect.Parameter.VAR_POSITIONAL in kinds
    assert not arguments.kwarg or inspect.Parameter.VAR_KEYWORD in kinds
    assert {a.arg for a in arguments.kwonlyargs} <= given.keys()
    # What is new has a default.
    new = [p for p in given.values() if p.name not in expected and p.default is inspect.Parameter.empty]
    assert all(p.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD) for p in new)


@pytest.mark.parametrize(("function", "expected"), SIGNATURES.items(), ids=lambda x: getattr(x, "__qualname__", ""))
def test_functions_take_the_calls_of_adapterhub(function: Any, expected: str) -> None:
    check_call(function, expected)


@pytest.mark.parametrize(("method", "expected"), METHODS.items(), ids=lambda x: x.partition(",")[0])
def test_methods_take_the_calls_of_adapterhub(method: str, expected: str) -> None:
    check_call(getattr(MODEL, method), expected)


@pytest.mark.parametrize(
    "name",
    [
        *("active_adapters", "active_embeddings", "active_head", "adapter_interface", "adapters_config"),
        *("loaded_embeddings", "model_name"),
    ],
)
def test_properties_of_adapterhub(name: str) -> None:
    assert isinstance(inspect.getattr_static(MODEL, name), property)


def test_fields_of_configurations_keep_their_order() -> None:
    """As in adapters 1.3, of which configurations may have been written with positional arguments."""
    assert ", ".join(p.name for p in parameters(adapters.BnConfig)) == (
        "mh_adapter, output_adapter, reduction_factor, non_linearity, original_ln_before, original_ln_after, "
        "ln_before, ln_after, init_weights, init_weights_seed, is_parallel, scaling, use_gating, residual_before_ln, "
        "adapter_residual_before_ln, inv_adapter, inv_adapter_reduction_factor, cross_adapter, leave_out, dropout, "
        "phm_layer, phm_dim, factorized_phm_W, shared_W_phm, shared_phm_rule, factorized_phm_rule, phm_c_init, "
        "phm_init_range, learn_phm, hypercomplex_nonlinearity, phm_rank, phm_bias, stochastic_depth"
    )
