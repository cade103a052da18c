"""Where the matrices of a model are: sizes, rows of fused ones, names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import zoo
from adapters.anatomy import anatomy
from adapters.anatomy.matrices import projections

FUSED = (
    "bloom codegen dbrx falcon fuyu gpt2 gpt_bigcode gpt_neox gpt_neox_japanese modernbert mpt openai-gpt persimmon "  # noqa: SIM905
    "phi3 phi4_multimodal hiera imagegpt deepseek_v2 kimi_linear longcat_flash minicpm3".split()
)
VARIANTS = {
    "falcon": [{"multi_query": False}, {"new_decoder_architecture": True, "num_kv_heads": 2}],
    "gpt_bigcode": [{"multi_query": False}],
}
FUSED_CASES = [(name, change) for name in FUSED for change in [{}, *VARIANTS.get(name, [])]]


def built(model_type: str, change: dict[str, object]) -> tuple[nn.Module, Callable[[], object]]:
    architecture = next(a for a in zoo.ARCHITECTURES if a.model_type == model_type)
    model = zoo.tiny_model(architecture)
    if change:
        config = type(model.config)(**{**model.config.to_dict(), **change})
        model = type(model)(config).eval()
        zoo.randomise(model)
    inputs = zoo.tiny_inputs(model, architecture)
    return model.base_model, lambda: model(**inputs)


@pytest.mark.parametrize(("model_type", "change"), FUSED_CASES, ids=str)
def test_rows_of_fused_matrices(model_type: str, change: dict[str, object]) -> None:
    """Without values attention gives zero; other queries at a token change what it gives there, and nowhere else."""
    base, run = built(model_type, change)
    found = [(sublayer, matrix) for _, sublayer, matrix in projections(anatomy(base), base) if matrix.rows]
    sublayer, matrix = found[0]
    assert all(len(m.rows) == (2 if "q" in s.projections else 3) for s, m in found)
    pieces = sorted(piece for rows in matrix.rows.values() for piece in rows)
    assert [first for first, _ in pieces] == [0, *(last for _, last in pieces[:-1])]
    assert pieces[-1][1] == matrix.out_features

    reached = base.get_submodule(sublayer.projections["o"][0])
    seen: list[Tensor] = []
    reached.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach()))
    rows: list[int] = []
    tokens: slice | int = slice(None)
    values: float | None = 0.0

    def change_rows(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        output = output.clone()
        if values is None:  # not by the same number, which a norm of the queries would take off again
            output[:, tokens, rows] += torch.linspace(-1.0, 2.0, len(rows))
        else:
            output[..., rows] = values
        return output

    with torch.no_grad():
        run()
        base.get_submodule(matrix.path).register_forward_hook(change_rows)
        rows = [row for first, last in matrix.rows["v"] for row in range(first, last)]
        seen_before, seen = seen[0], []
        reached._forward_pre_hooks.clear()
        reached.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach()))
        run()
        assert seen[0].abs().max() < 1e-6
        if "q" in matrix.rows and model_type != "hiera":  # which has tokens in windows
            tokens, values, seen = 2, None, []
            rows = [row for first, last in matrix.rows["q"] for row in range(first, last)]
            reached._forward_pre_hooks.clear()
            reached.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach()))
            run()
            changed = (seen[0] - seen_before).abs().amax(-1)[0] > 1e-5
            assert changed.tolist() == [t == 2 for t in range(len(changed))]
