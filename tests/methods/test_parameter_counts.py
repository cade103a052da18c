"""The number of trained parameters of each method is that of its paper."""

from __future__ import annotations

import pytest

import models

# BERT with L layers of hidden size D and feed-forward size F; r and P are the rank and the prefix length below.
L, D, F, r, P = 2, 32, 64, 4, 5
NORMS = 2 * 2 * D  # weight and bias of two norms
BIASES = 4 * D + F + D + 2 * D  # attention, feed-forward, norms

COUNTS = {
    "seq_bn[reduction_factor=8]": L * (2 * D * r + r + D),
    "double_seq_bn[reduction_factor=8]": L * 2 * (2 * D * r + r + D),
    "lora[r=4]": L * 2 * r * (D + D),
    "lora[r=4, attn_matrices=['q','k','v','o'], intermediate_lora=True, output_lora=True]": L
    * r
    * (4 * 2 * D + 2 * (D + F)),
    "ia3": L * (D + D + F),
    "vera[r=4]": L * 2 * (r + D),
    "dora[r=4]": L * 2 * (r * (D + D) + D),
    "dvora[r=4]": L * 2 * (r + D + D),
    "mtl_lora[r=4, n_up_projection=3]": L * 2 * (r * D + 3 * D * r + 3 + r),
    "adalora[r=4, target_r=2]": L * 2 * (r * (D + D) + r),
    "prefix_tuning_flat[prefix_length=5]": L * 2 * P * D,
    "prefix_tuning[prefix_length=5, bottleneck_size=8]": P * D + (D * 8 + 8) + (8 * 2 * L * D + 2 * L * D),
    "prompt_tuning[prompt_length=5]": P * D,
    "noreft[r=4, suffix_positions=3]": L * 2 * (2 * r * D + r),
    "loreft[r=4, suffix_positions=3]": L * 2 * (2 * r * D + r),
    "direft[r=4, tied_weights=True]": L * (2 * r * D + r),
    "bitfit": L * BIASES,
    "ln_tuning": L * NORMS,
}


@pytest.mark.parametrize(("preset", "count"), COUNTS.items())
def test_trained_parameters(preset: str, count: int) -> None:
    model = models.adapted("bert")
    model.add_adapter("a", preset)
    model.train_adapter("a")
    assert sum(p.numel() for p in models.parameters(model, "a") if p.requires_grad) == count
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
