"""Texts as they are: masked tokens, or the next one.

Shapes: B blocks, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import RunError
from ..rows import Row, Rows
from .base import Feature, Kind, Prepared


class CausalLM(Kind):
    """The next token. Texts are joined, and cut into blocks of `max_length` tokens."""

    head_type = "causal_lm"
    metrics = ("perplexity",)
    needs_outputs = False

    def prepared(self, rows: Rows, is_labelled: bool) -> Prepared:
        """Blocks of tokens; the last ones that fill no block are left out, if there is any other."""
        texts = rows.texts(self.text_columns(rows)[0])
        ids = [i for own in self.processor(texts, add_special_tokens=False)["input_ids"] for i in [*own, *self._end()]]
        length = self.max_length - len(self._framed([]))
        blocks = [ids[start : start + length] for start in range(0, max(len(ids) - length, 0) + 1, length)]
        return Prepared(rows, [{"input_ids": self._framed(block)} for block in blocks if block])

    def _end(self) -> list[int]:
        end = self.processor.eos_token_id
        return [] if end is None else [end]

    def _framed(self, block: list[int]) -> list[int]:
        return block

    def collated(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """A batch; the labels are the tokens themselves. Shape: (B, T)."""
        if self.processor.pad_token is None:
            self.processor.pad_token = self.processor.eos_token
        batch = dict(self.processor.pad({"input_ids": [f["input_ids"] for f in features]}, return_tensors="pt"))
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return batch

    def add_head(self, model: Any, name: str) -> None:
        """A language-modelling head, tied to the embeddings if the model ties them."""
        model.add_causal_lm_head(name, layers=1)

    def answers(self, outputs: Any, given: Prepared) -> list[Any]:
        """Texts are generated (`adapters predict`), not read off."""
        raise RunError(f"Tasks of kind {self.head_type} have no answers for each row.")

    def shown(self, answer: Any) -> Row:
        """A text."""
        return {"text": answer}

    def measured(self, outputs: Any, given: Prepared) -> dict[str, float]:
        """Nothing: the loss is measured."""
        return {}


class MaskedLM(CausalLM):
    """Masked tokens: 15 % of them, of which 80 % are masked and 10 % are others."""

    head_type = "masked_lm"

    def _end(self) -> list[int]:
        return []

    def _framed(self, block: list[int]) -> list[int]:
        begin, end = self.processor.cls_token_id, self.processor.sep_token_id
        return [*([] if begin is None else [begin]), *block, *([] if end is None else [end])]

    def collated(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """A batch with masked tokens, drawn anew each time. Shape: (B, T)."""
        batch = dict(self.processor.pad({"input_ids": [f["input_ids"] for f in features]}, return_tensors="pt"))
        ids, special = batch["input_ids"].clone(), torch.tensor(self.processor.all_special_ids)
        chosen = (torch.rand(ids.shape) < 0.15) & ~torch.isin(ids, special)
        if not chosen.any():  # a batch needs something to learn
            chosen[0, ids.shape[1] // 2] = True
        draw = torch.rand(ids.shape)
        batch["labels"] = ids.masked_fill(~chosen, -100)
        ids[chosen & (draw < 0.8)] = self.processor.mask_token_id
        others = torch.randint(len(self.processor), ids.shape)
        batch["input_ids"] = torch.where(chosen & (draw >= 0.9), others, ids)
        return batch

    def add_head(self, model: Any, name: str) -> None:
        """A masked-language-modelling head."""
        model.add_masked_lm_head(name)
