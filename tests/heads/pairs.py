"""Models of static classes and models with flexible heads, of the same weights; inputs, and labels, for each kind."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig

import models
from adapters import AutoAdapterModel


def pair(name: str, static_class: str, **config: Any) -> tuple[Any, Any]:
    """A model of a static class, and one with flexible heads and the same base model."""
    torch.manual_seed(0)
    built = AutoConfig.for_model(**{**models.bare(name).config.to_dict(), **config})
    static = getattr(transformers, static_class)(built).eval()
    with torch.no_grad():
        for parameter in static.parameters():
            parameter.normal_(std=0.2)
    flexible = AutoAdapterModel.from_config(built).eval()
    own = dict(flexible.base_model.named_parameters())
    with torch.no_grad():
        for key, parameter in static.base_model.named_parameters():
            if key in own:
                own[key].copy_(parameter)
    return static, flexible


def fill(head: nn.Module, *layers: nn.Module) -> None:
    """Give the layers of a head that have parameters those of others."""
    own = [module for module in head if list(module.parameters())]
    with torch.no_grad():
        for target, source in zip(own, layers, strict=True):
            for key, parameter in source.named_parameters():
                target.get_parameter(key).copy_(parameter)


IDS = torch.randint(5, 90, (4, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS).index_put_((torch.tensor([1, 1]), torch.tensor([4, 5])), torch.tensor(0))
TEXT = {"input_ids": IDS, "attention_mask": MASK}
IMAGES = {"pixel_values": torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
CHOICES = {key: value.view(2, 2, 6) for key, value in TEXT.items()}
ROWS, TOKENS = torch.tensor([0, 2, 1, 0]), IDS.where(MASK.bool(), -100)
SPANS = {"start_positions": torch.tensor([0, 2, 3, 9]), "end_positions": torch.tensor([1, 3, 5, 2])}
SCORES = torch.tensor([0.1, -1.0, 2.0, 0.3])
MULTIPLE = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]).float()
DENSE = {"layers": 1}

# family, static class, its configuration, method, its arguments, layers of the static head, inputs, labels
CASES: list[tuple[str, str, dict[str, Any], str, dict[str, Any], list[str], dict[str, Tensor], dict[str, Tensor]]] = [
    *(
        ("bert", "BertForSequenceClassification", {"num_labels": n, "problem_type": kind}, "classification",
         {**DENSE, "num_labels": n, "use_pooler": True, "multilabel": labels.ndim == 2}, ["classifier"], TEXT,
         {"labels": labels})
        for n, kind, labels in ((3, None, ROWS), (1, None, SCORES), (3, "multi_label_classification", MULTIPLE))
    ),
    ("llama", "LlamaForTokenClassification", {"num_labels": 3}, "tagging", {"num_labels": 3}, ["score"], TEXT,
     {"labels": (TOKENS % 3).where(TOKENS >= 0, -100)}),
    ("bert", "BertForQuestionAnswering", {}, "qa", {}, ["qa_outputs"], TEXT, SPANS),
    ("bart", "BartForQuestionAnswering", {}, "qa", {}, ["qa_outputs"], TEXT, SPANS),
    ("bert", "BertForMultipleChoice", {}, "multiple_choice", {**DENSE, "use_pooler": True}, ["classifier"], CHOICES,
     {"labels": torch.tensor([1, 0])}),
    ("vit", "ViTForImageClassification", {"num_labels": 3}, "image_classification", {"num_labels": 3}, ["classifier"],
     IMAGES, {"labels": ROWS}),
    ("bert", "BertForMaskedLM", {}, "masked_lm", {}, ["cls.predictions.transform.dense",
     "cls.predictions.transform.LayerNorm", "cls.predictions.decoder"], TEXT, {"labels": TOKENS}),
    ("bart", "BartForConditionalGeneration", {}, "seq2seq_lm", {}, ["lm_head"], TEXT, {"labels": TOKENS}),
    ("t5", "T5ForConditionalGeneration", {"decoder_start_token_id": 0}, "seq2seq_lm", {}, ["lm_head"], TEXT,
     {"labels": TOKENS}),
]  # fmt: skip
