"""What models tell of their heads: to users, and to the `Trainer` of transformers."""

from __future__ import annotations

from typing import Any, cast

from ..checkpoints.setups import head_names
from ..model import ModelAdaptersMixin
from ..registry import AdapterDict, unknown_name
from ..summary import Row, summary_table
from .base import PredictionHead
from .language_modeling import LanguageModelHead
from .rows import Heads


class TellsOfHeads(ModelAdaptersMixin):
    """The methods of models with flexible heads that tell of these."""

    heads: AdapterDict
    _active_head: Heads

    def adapter_summary(self, as_dict: bool = False) -> str | list[Row]:
        """All adapters with their size, whether they are active, and whether they are trained; and all heads.

        >>> print(model.adapter_summary())

        Args:
            as_dict: Whether to give one dictionary per row instead of a table. That of an adapter has the type of its
                head, the one of its name, as "head".
        """
        rows = cast("list[Row]", super().adapter_summary(as_dict=True))
        for row in rows:
            if row["name"] in self.heads and "architecture" in row:
                row["head"] = _type_of(self.heads[row["name"]])
        return rows if as_dict else "\n".join([summary_table(rows), *self._head_lines({row["name"] for row in rows})])

    def _head_lines(self, adapters: set[str]) -> list[str]:
        if not len(self.heads):
            return []
        active = [str(name) for name in head_names(self._active_head)]
        line = "{:<24} {:<26} {:>8} {:>7}  {}".format
        lines = [line("Head", "Type", "#Labels", "Active", "Runs for").rstrip(), "-" * 80]
        for name in self.heads:
            head = self.heads[name]
            config = cast(PredictionHead, head).config
            count = config.get("num_labels", config.get("num_choices", ""))
            bound = f"adapter {name}" if name in adapters else "no adapter"
            lines.append(line(name, _type_of(head), count, int(name in active), bound))
        return [*lines, "=" * 80]

    # -- names that the Trainer of transformers asks for --------------------------------------------------------------

    def get_label_names(self, head_name: Heads = None) -> list[str]:
        """The names of the arguments that hold labels of heads, for the Trainer of transformers.

        >>> TrainingArguments("folder", label_names=model.get_label_names())

        A Trainer finds `labels` by itself. It has to be told of others, such as the `start_positions` and
        `end_positions` of question answering, before it can evaluate.

        Args:
            head_name: A head, or several; by default the active ones.

        Raises:
            ValueError: there is no such head.
        """
        found: dict[str, None] = {}
        for name in head_names(head_name or self._active_head):
            if name not in self.heads:
                raise ValueError(unknown_name(name, self.heads, "head"))
            found |= dict.fromkeys(cast(PredictionHead, self.heads[name]).get_label_names())
        return list(found)

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether all active heads divide their losses by `num_items_in_batch`, which the Trainer then gives."""
        heads = self._active_heads()
        return bool(heads) and all(head.accepts_loss_kwargs for head in heads)

    @property
    def loss_type(self) -> str | None:
        """By this the Trainer knows that the first label of each row is no item, because labels are shifted."""
        heads = self._active_heads()
        is_shifted = [isinstance(head, LanguageModelHead) and bool(head.config["shift_labels"]) for head in heads]
        return "ForCausalLM" if is_shifted and all(is_shifted) else None

    @loss_type.setter
    def loss_type(self, _: Any) -> None:
        """Models of transformers set it to what their class is named after; here the active heads say it."""

    def _active_heads(self) -> list[PredictionHead]:
        if "heads" not in self._modules:  # while the model is made
            return []
        names = [name for name in head_names(self._active_head) if name in self.heads]
        return [cast(PredictionHead, self.heads[name]) for name in names]


def _type_of(head: Any) -> str:
    return str(head.config.get("head_type") or type(head).__name__)
