"""Law 12: what AdapterHub's `adapters` 1.3 wrote gives the outputs and gradients that it gave.

The cases are replayed by the script that lies beside them, which uses nothing but the public API.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adapters import Average
from adapters.checkpoints.keys import matched
from adapters.runtime.lanes import RowPlan
from places import SHARED


def _cases() -> list[dict[str, Any]]:
    manifest = SHARED / "goldens" / "manifest.json"
    if not manifest.is_file():
        return []
    cases: list[dict[str, Any]] = json.loads(manifest.read_text())["cases"]
    return cases


# Within other blocks, release 1.3 does what comes before an adapter (its norm, its residual) twice for a Stack, a Split
# or an Average: once for the outer block, once for the inner one. Here a child is what it is alone, wherever it stands.
TWICE = {
    *("bart/nest_stack_batchsplit_stack", "llama/nest_stack_parallel_stack", "bert/nest_split_stack"),
    *("gpt2/nest_split_split", "bert/nest_split_average", "t5/nest_stack_average", "vit/nest_average_split"),
    *("vit/nest_average_stack", "vit/nest_split_average"),
    "distilbert/comp_dora_average",  # its weights are not applied to what DoRA makes of the layer's output
}


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
    is_average = "Average" in json.dumps(described.get("setup") or {})
    if case.get("quirk") or case["id"] in TWICE:
        assert_rows_are_as_alone(model, described, replay, str(base), str(folder))
        return
    if is_average:
        _divide_weights(model, case["method"])
    if case["kind"] == "average_adapter" and case["method"].endswith("_inv"):
        _without_invertible(model, described["setup"])
    got = replay.outputs_of(model, described, str(base), str(folder))
    expected = load_file(folder / "expected.safetensors")
    expected = _with_our_paths(expected, got)
    if case["kind"] == "merge" and case["method"] in MERGED_WRONGLY:
        model.reset_adapter()
        model.set_active_adapters("a")
        expected = replay.outputs_of(model, described, str(base), str(folder))
    # The attentions of a fusion are a softmax of large scores: the plain formula differs by as much (1.1e-5).
    tolerance = max(described["tolerance"], 2e-5 if case["kind"] in ("fusion", "nesting") else 0.0)
    _, problems = replay.compare(got, expected, tolerance)
    if described.get("grad") and not is_average:
        model = replay.setup_case(described, str(base), str(folder))
        gradients = replay.grads_of(model, described, str(base), str(folder))
        wanted = json.loads((folder / "grads.json").read_text())
        if not all(model.adapters_config.get(name).get("learn_phm", True) for name in model.adapters_config):
            # 1.3 trains a rule that `learn_phm=False` fixes; here it stays as it is.
            wanted = {name: value for name, value in wanted.items() if "phm_rule" not in name}
        ours = {name.removeprefix(f"{model.base_model_prefix}."): value for name, value in gradients.items()}
        problems += replay.compare_grads(ours, _in_our_names(wanted, ours), described["grad"]["tolerance"])
    assert not problems


def _divide_weights(model: Any, method: str) -> None:
    """Make an active `Average` what it is in release 1.3: the weighted mean, divided by the number of adapters again.

    So there the mean of equals is not each of them. Of low-rank adapters it divides what they add, of others all.
    """
    block = model.active_adapters
    weights = [weight / len(block) for weight in block.weights]
    children = list(block)
    if method in ("dora", "vera", "lora"):
        children, weights = [*children, None], [*weights, 1 - sum(weights)]
    model.set_active_adapters(Average(*children, weights=weights, normalize_weights=False))


def _without_invertible(model: Any, name: str) -> None:
    """Release 1.3 loses invertible adapters when it averages, but for plain base models; the rest is as here."""
    for placement in model._adapter_registry[name].placements:
        for parameter in placement.module.parameters() if placement.location == "invertible" else ():
            torch.nn.init.zeros_(parameter)  # then they add nothing


def assert_rows_are_as_alone(model: Any, described: dict[str, Any], replay: Any, base: str, folder: str) -> None:
    """Each row of the output is that of its lane alone: of the setup without `Parallel` and `BatchSplit`."""
    given = dict(replay.case_inputs(described, base, folder))
    plan = RowPlan(model.active_adapters)

    def outputs(setup: Any) -> dict[str, torch.Tensor]:
        model.set_active_adapters(setup)
        with torch.no_grad():
            found = model(**given, **described.get("forward_kwargs", {}), return_dict=True)
        return {
            key: found[key] for key in ("last_hidden_state", "logits", "pooler_output") if found.get(key) is not None
        }

    got, alone = outputs(plan.setup), [outputs(lane) for lane in plan.lanes]
    for key, value in got.items():
        known = plan.assignment(len(value), None).known
        each = len(value) // len(known)
        rows = [lane for lane in known for _ in range(each)]
        wanted = torch.stack([alone[lane][key][row % len(alone[lane][key])] for row, lane in enumerate(rows)])
        assert torch.allclose(value, wanted, rtol=1e-4, atol=1e-4), key


def _with_our_paths(expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What is expected of changes of weights, under the paths that the modules have in transformers 5."""
    paths = {name.removeprefix("delta_w/").partition(".")[2] for name in got if name.startswith("delta_w/")}
    changes = {name for name in expected if name.startswith("delta_w/")}
    if not changes or changes <= got.keys():
        return expected
    prefix = next(name for name in got if name.startswith("delta_w/")).partition(".")[0]
    found = {name: value for name, value in expected.items() if name not in changes}
    theirs = {name.partition(".")[2]: expected[name] for name in changes}
    renamed = matched(theirs, {path: "" for path in paths}, "vit")
    return found | {f"{prefix}.{path}": value for path, value in renamed.items()}


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
