"""Law 12: what AdapterHub's `adapters` 1.3 wrote gives the outputs and gradients that it gave.

The cases are replayed by the script that lies beside them, which uses nothing but the public API.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from adapters.checkpoints.keys import matched
from conftest import SHARED

HEADS = {"classification", "multilabel_classification"}
KINDS = {
    *("method", "variant", "load_as", "legacy", "cross_class"),
    *("composition", "adapterdrop", "context", "generate", "merge", "eject"),
}


def _cases() -> list[dict[str, Any]]:
    """The cases of one adapter or a stack of them, and of the heads that there are."""
    manifest = SHARED / "goldens" / "manifest.json"
    if not manifest.is_file():
        return []
    cases = json.loads(manifest.read_text())["cases"]
    stacks = [c for c in cases if c["kind"] in KINDS and _is_ours(c)]
    return stacks + [c for c in cases if c["kind"] == "head" and c.get("head_type") in HEADS]


def _is_ours(case: dict[str, Any]) -> bool:
    described = json.loads((SHARED / "goldens" / case["path"] / "case.json").read_text())
    return _is_stack(described.get("setup") or (described.get("context") or {}).get("setup"))


def _is_stack(setup: Any) -> bool:
    return (
        setup is None or isinstance(setup, str) or (setup["type"] == "Stack" and all(map(_is_stack, setup["children"])))
    )


# Release 1.3 merges these into something else than the adapter: it leaves the bias of an IA³ layer unscaled, and drops
# alpha / r of DoRA. Here merged equals unmerged; that is what they are compared with.
MERGED_WRONGLY = {"ia3", "ia3_output", "lora_scale", "dora", "dvora"}

CASES = _cases()


@pytest.fixture(scope="module")
def replay(shared: Path) -> Any:
    sys.path.insert(0, str(shared / "goldens"))
    sys.dont_write_bytecode = True
    import replay as module

    module.OPTION_ATTN = "reference"
    yield module
    sys.path.pop(0)


@pytest.mark.skipif(not CASES, reason=f"{SHARED}/goldens is not there; set ADAPTERS_SHARED")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_golden(case: dict[str, Any], replay: Any, shared: Path) -> None:
    folder, base = shared / "goldens" / case["path"], shared / "goldens" / case["base"]
    described = json.loads((folder / "case.json").read_text())
    replay.ATTN = None if described["reference_attention"] == "default" else described["reference_attention"]
    model = replay.setup_case(described, str(base), str(folder))
    got = replay.outputs_of(model, described, str(base), str(folder))
    expected = load_file(folder / "expected.safetensors")
    if case["kind"] == "merge" and case["method"] in MERGED_WRONGLY:
        model.reset_adapter()
        model.set_active_adapters("a")
        expected = replay.outputs_of(model, described, str(base), str(folder))
    _, problems = replay.compare(got, expected, described["tolerance"])
    if described.get("grad"):
        model = replay.setup_case(described, str(base), str(folder))
        gradients = replay.grads_of(model, described, str(base), str(folder))
        wanted = json.loads((folder / "grads.json").read_text())
        if not all(model.adapters_config.get(name).get("learn_phm", True) for name in model.adapters_config):
            # 1.3 trains a rule that `learn_phm=False` fixes; here it stays as it is.
            wanted = {name: value for name, value in wanted.items() if "phm_rule" not in name}
        ours = {name.removeprefix(f"{model.base_model_prefix}."): value for name, value in gradients.items()}
        problems += replay.compare_grads(ours, _in_our_names(wanted, ours), described["grad"]["tolerance"])
    assert not problems


def _in_our_names(wanted: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """The gradients under the names that the parameters have in transformers 5."""
    wanted = {_as_prefix(name, ours): value for name, value in wanted.items()}
    for model_type in ("", "vit", "beit", "clip_text_model", "clip"):
        renamed = matched(wanted, ours, model_type)
        if renamed.keys() <= ours.keys():
            return renamed
    return wanted


def _as_prefix(name: str, ours: dict[str, Any]) -> str:
    """Prefixes were named by the first layer that uses them: `encoder.layer.0 … pool.prefix_tunings.a.self_prefix`."""
    path, pool, tail = name.partition(".prefix_tuning.pool.")
    hosts = [n.removesuffix(f"prefix_tuning.{tail}") for n in ours if pool and n.endswith(f"prefix_tuning.{tail}")]
    host = max((host for host in hosts if path.startswith(host)), key=len, default=None)
    return name if host is None else f"{host}prefix_tuning.{tail}"
