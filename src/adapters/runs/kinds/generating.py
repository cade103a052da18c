"""Texts that a model writes: how they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..rows import Row
from .base import Kind, Outputs, Prepared


class GeneratingKind(Kind):
    """A kind of task whose answers are texts that the model writes, each time with the most probable token."""

    needs_outputs = False

    @property
    def new_tokens(self) -> int:
        """The longest text, in tokens."""
        return self.task.max_new_tokens

    @abstractmethod
    def prompts(self, batch: dict[str, Tensor]) -> int:
        """How many tokens of what `generate` gives are not the model's own."""

    def padded(self, ids: Sequence[Sequence[int]], side: str | None = None) -> dict[str, Tensor]:
        """Tokens filled up to the longest. Shape: (B, T)."""
        if self.processor.pad_token is None:
            self.processor.pad_token = self.processor.eos_token
        return dict(self.processor.pad({"input_ids": list(ids)}, return_tensors="pt", padding_side=side))

    def written(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """What the model writes. Shape: (B, T)."""
        options = {"max_new_tokens": self.new_tokens, "do_sample": False, "num_beams": 1}
        with torch.inference_mode():
            found: Tensor = model.generate(**batch, **options, pad_token_id=self.processor.pad_token_id)
        return found[:, self.prompts(batch) :]

    def outputs(self, model: Any, batch: dict[str, Tensor]) -> Outputs:
        """The loss where there are labels, and texts where there are none. Shape: (B, T)."""
        if "labels" in batch:
            return Outputs((), super().outputs(model, batch).loss)
        return Outputs((self.written(model, batch),), None)

    def answers(self, outputs: Any, given: Prepared) -> list[Any]:
        """Texts. Shape of the outputs: (N, T)."""
        ids = torch.as_tensor(outputs).long()
        ids = ids.masked_fill(ids < 0, self.processor.pad_token_id)
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]

    def shown(self, answer: Any) -> Row:
        """The text."""
        return {"text": answer}
