"""Texts made of other texts: translations, summaries.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.text import bleu_score, chrf_score
from torchmetrics.functional.text.rouge import rouge_score

from ..errors import RunError
from ..rows import Row, Rows
from .base import IGNORED, Feature, Outputs, Prepared, by_row, filled
from .generating import GeneratingKind


class Seq2SeqLM(GeneratingKind):
    """A text for each row: columns `source` and `target`."""

    head_type = "seq2seq_lm"
    keeps_head = True
    columns = ("source",)
    label_column = "target"
    metrics = ("chrf", "bleu", "rouge1", "rouge2", "rougeL", "exact_match")
    needs_outputs = True
    longest = 384
    generates = True

    def prepared(self, rows: Rows, is_labelled: bool) -> Prepared:
        """Tokens of the source, and of the target: as many as answers may have."""
        columns = dict(self.tokenized(rows.texts(self.text_columns[0])))
        if is_labelled:
            targets = rows.texts(self.label)
            encoded = self.processor(text_target=targets, truncation=True, max_length=self.new_tokens)
            columns["labels"] = encoded["input_ids"]
        return Prepared(rows, by_row({key: columns[key] for key in ("input_ids", "labels") if key in columns}))

    def collated(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """A batch. Shape of each: (B, T)."""
        batch = self.padded([feature["input_ids"] for feature in features])
        if "labels" in features[0]:
            batch["labels"] = filled([feature["labels"] for feature in features], IGNORED)
        return batch

    def prompts(self, batch: dict[str, Tensor]) -> int:
        """Decoders begin with nothing."""
        return 0

    def outputs(self, model: Any, batch: dict[str, Tensor]) -> Outputs:
        """What the model writes, and the loss where there are labels. Shape: (B, T)."""
        loss = super().outputs(model, batch).loss if "labels" in batch else None
        sources = {key: value for key, value in batch.items() if key != "labels"}
        return Outputs((self.written(model, sources),), loss)

    def add_head(self, model: Any, name: str) -> None:
        """A language-modelling head, tied to the embeddings if the model ties them.

        Raises:
            RunError: the model has no decoder beside its encoder.
        """
        if not model.config.is_encoder_decoder:
            raise RunError(
                f"{type(model.base_model).__name__} has no encoder with a decoder, such as T5 and BART have; "
                "for models like GPT-2 there is the kind causal_lm."
            )
        model.add_seq2seq_lm_head(name)

    def shown(self, answer: Any) -> Row:
        """The text."""
        return {self.label: answer}

    def measured(self, outputs: Any, given: Prepared) -> dict[str, float]:
        """How much of the targets is written: chrF, BLEU, ROUGE, and the share of equal texts."""
        written, wanted = self.answers(outputs, given), given.rows.texts(self.label)
        references = [[text] for text in wanted]
        rouge = rouge_score(written, wanted, rouge_keys=("rouge1", "rouge2", "rougeL"))
        equal = [one == other.strip() for one, other in zip(written, wanted, strict=True)]
        return {
            "chrf": 100 * float(torch.as_tensor(chrf_score(written, references))),
            "bleu": 100 * float(bleu_score(written, references)),
            **{key: 100 * float(rouge[f"{key}_fmeasure"]) for key in ("rouge1", "rouge2", "rougeL")},
            "exact_match": 100 * sum(equal) / len(equal),
        }
