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
from .base import IGNORED, Feature, Kind, Outputs, Prepared, filled
from .generating import GeneratingKind

_SEED = 0


class CausalLM(GeneratingKind):
    """The next token. Texts are joined, and cut into blocks of `max_length` tokens; answers go on with a text."""

    head_type = "causal_lm"
    keeps_head = True
    label_column = ""
    metrics = ("perplexity",)

    def prepared(self, rows: Rows, is_labelled: bool) -> Prepared:
        """Blocks of tokens; the last ones that fill no block are left out, if there is any other.

        What is to be gone on with is one feature for each row: its last tokens, as many as leave space for an answer.
        """
        texts = rows.texts(self.text_columns[0])
        if is_labelled:
            ends = [] if self.processor.eos_token_id is None else [self.processor.eos_token_id]
            return Prepared(rows, blocks(self.processor, texts, self.max_length, self._front, ends))
        space = int(self.processor.model_max_length) - self.new_tokens - len(self._front)
        if space < 1:
            raise RunError(
                f"The model reads {self.processor.model_max_length} tokens, and task.max_new_tokens is "
                f"{self.new_tokens}: there is no space for a text. Give fewer in run.yaml."
            )
        begun = [[*self._front, *own[-space:]] for own in self._begun(texts, rows)]
        return Prepared(rows, [{"input_ids": own, "goes_on": True} for own in begun])

    @property
    def _front(self) -> list[int]:
        """The token that the model wants in front of all texts (as Llama does), if there is one."""
        first: list[int] = self.processor("")["input_ids"][:1]
        return first if first == [self.processor.bos_token_id] else []

    def _begun(self, texts: Sequence[str], rows: Rows) -> list[list[int]]:
        # Texts begin behind the end of others.
        ends = (self.processor.eos_token_id, self.processor.bos_token_id)
        start = next((token for token in ends if token is not None), None)
        found = []
        for line, own in enumerate(self.processor(list(texts), add_special_tokens=False)["input_ids"]):
            if not own and start is None:
                raise RunError(f"{rows.where(line)}: there is no text to go on with.")
            found.append(own or ([] if self._front else [start]))
        return found

    def collated(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """A batch; the labels are the tokens themselves. Shape: (B, T)."""
        ids = [feature["input_ids"] for feature in features]
        if "goes_on" in features[0]:
            return self.padded(ids, "left")
        batch = self.padded(ids)
        return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)}

    def prompts(self, batch: dict[str, Tensor]) -> int:
        """Texts begin with what was given."""
        return batch["input_ids"].shape[1]

    def add_head(self, model: Any, name: str) -> None:
        """A language-modelling head, tied to the embeddings if the model ties them.

        Raises:
            RunError: the model reads in both directions, so that it would see what it is to foretell.
        """
        if model.config.is_encoder_decoder or _sees_what_follows(model):
            raise RunError(
                f"{type(model.base_model).__name__} sees the tokens that it would have to foretell: for models that "
                "read in both directions there is the kind masked_lm, and seq2seq_lm for those with a decoder beside."
            )
        model.add_causal_lm_head(name, layers=1)

    def measured(self, outputs: Any, given: Prepared) -> dict[str, float]:
        """Nothing: the loss is measured."""
        return {}


class MaskedLM(Kind):
    """Masked tokens: 15 % of them, of which 80 % are masked and 10 % are others. Answers fill the masks of a text."""

    head_type = "masked_lm"
    keeps_head = True
    label_column = ""
    metrics = ("perplexity",)
    needs_outputs = False

    def prepared(self, rows: Rows, is_labelled: bool) -> Prepared:
        """Blocks of tokens with a begin and an end; the last ones that fill no block are left out.

        What is to be filled is one feature for each row.

        Raises:
            RunError: there is nothing to fill in a row.
        """
        texts = rows.texts(self.text_columns[0])
        begin, end = self.processor.cls_token_id, self.processor.sep_token_id
        if is_labelled:
            frame = [[] if token is None else [token] for token in (begin, end)]
            cut = blocks(self.processor, texts, self.max_length - sum(map(len, frame)), [], [])
            return Prepared(rows, [{"input_ids": [*frame[0], *one["input_ids"], *frame[1]]} for one in cut])
        encoded = self.tokenized(texts)["input_ids"]
        for line, ids in enumerate(encoded):
            if self.processor.mask_token_id not in ids:
                raise RunError(f"{rows.where(line)}: there is no {self.processor.mask_token} in {texts[line]!r}.")
        return Prepared(rows, [{"input_ids": ids, "is_filled": True} for ids in encoded], encoded)

    def fixed(self, given: Prepared) -> Prepared:
        """Rows whose masks are drawn once, so that what is measured on them can be compared."""
        draws = torch.Generator().manual_seed(_SEED)
        features = []
        for feature in given.features:
            ids, labels = self._masked(torch.tensor([feature["input_ids"]]), draws)
            features.append({"input_ids": ids[0].tolist(), "labels": labels[0].tolist()})
        return Prepared(given.rows, features, given.notes)

    def collated(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """A batch. Masks are drawn anew each time, where they are not fixed. Shape: (B, T)."""
        batch = dict(self.processor.pad({"input_ids": [f["input_ids"] for f in features]}, return_tensors="pt"))
        if "is_filled" in features[0]:
            return batch
        if "labels" in features[0]:
            return batch | {"labels": filled([feature["labels"] for feature in features], IGNORED)}
        ids, labels = self._masked(batch["input_ids"], None)
        return batch | {"input_ids": ids, "labels": labels}

    def _masked(self, ids: Tensor, draws: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Tokens of which some are hidden, and what they are. Shapes: (B, T)."""
        special = torch.tensor(self.processor.all_special_ids)
        chosen = (torch.rand(ids.shape, generator=draws) < 0.15) & ~torch.isin(ids, special)
        if not chosen.any():  # a batch needs something to learn
            chosen[0, ids.shape[1] // 2] = True
        draw = torch.rand(ids.shape, generator=draws)
        others = torch.randint(len(self.processor), ids.shape, generator=draws)
        hidden = ids.masked_fill(chosen & (draw < 0.8), self.processor.mask_token_id)
        return torch.where(chosen & (draw >= 0.9), others, hidden), ids.masked_fill(~chosen, IGNORED)

    def outputs(self, model: Any, batch: dict[str, Tensor]) -> Outputs:
        """The loss where there are labels, else the most probable tokens. Shape: (B, T)."""
        found = super().outputs(model, batch)
        return Outputs((), found.loss) if "labels" in batch else Outputs((found.values[0].argmax(-1),), None)

    def add_head(self, model: Any, name: str) -> None:
        """A masked-language-modelling head."""
        model.add_masked_lm_head(name)

    def answers(self, outputs: Any, given: Prepared) -> list[Any]:
        """The text with its masks filled, and what they were filled with. Shape of the outputs: (N, T)."""
        found = []
        for row, ids in zip(torch.as_tensor(outputs).long().tolist(), given.notes, strict=True):
            masks = [place for place, token in enumerate(ids) if token == self.processor.mask_token_id]
            whole = [row[place] if place in masks else token for place, token in enumerate(ids)]
            text = self.processor.decode(whole, skip_special_tokens=True)
            found.append((text, [self.processor.decode([row[place]]).strip() for place in masks]))
        return found

    def shown(self, answer: Any) -> Row:
        """The text, and the words that fill it."""
        return {"text": answer[0], "filled": answer[1]}

    def measured(self, outputs: Any, given: Prepared) -> dict[str, float]:
        """Nothing: the loss is measured."""
        return {}


def blocks(
    processor: Any, texts: Sequence[str], length: int, front: Sequence[int], ends: Sequence[int]
) -> list[Feature]:
    """Texts, each between `front` and `ends`, joined and cut into blocks of equal length.

    What fills no block is left out, if there is any other.
    """
    tokens = processor(list(texts), add_special_tokens=False)["input_ids"]
    ids = [token for own in tokens for token in (*front, *own, *ends)]
    cut = [ids[start : start + length] for start in range(0, max(len(ids) - length, 0) + 1, length)]
    return [{"input_ids": block} for block in cut if block]


def _sees_what_follows(model: Any) -> bool:
    """Whether what a model makes of a token depends on those behind it."""
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]], device=model.device)
    with torch.inference_mode():
        one, other = model.base_model(input_ids=ids)[0][:, 0]
    return not torch.allclose(one, other, atol=1e-4)
