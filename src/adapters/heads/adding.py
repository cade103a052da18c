"""The methods that add heads to a model, one for each type."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import nn

from .adding_new import AddsNewHeads
from .base import PredictionHead, label_map
from .custom import register


class AddsHeads(AddsNewHeads):
    """What models with flexible heads offer to add some. Every method makes the new head the active one."""

    @abstractmethod
    def add_prediction_head(
        self, head: PredictionHead | nn.Module, overwrite_ok: bool = False, set_active: bool = True
    ) -> None:
        """Add a head."""

    def add_classification_head(
        self,
        head_name: str,
        num_labels: int = 2,
        layers: int = 2,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        multilabel: bool = False,
        id2label: Mapping[int, str] | None = None,
        use_pooler: bool = False,
    ) -> None:
        """Add a head that classifies rows, and make it the active one.

        Args:
            head_name: Its name: that of the adapter it belongs to.
            num_labels: Number of labels C; 1 for a score.
            layers: Number of linear layers.
            activation_function: Activation between them.
            overwrite_ok: Whether a head of the same name may be replaced.
            multilabel: Whether a row can have several labels.
            id2label: Names of the labels.
            use_pooler: Whether to read the base model's pooler.

        Raises:
            ValueError: the name is taken, or the labels are not numbered from 0.
        """
        config = {
            "head_type": "multilabel_classification" if multilabel else "classification",
            "num_labels": num_labels,
            "layers": layers,
            "activation_function": activation_function,
            "label2id": label_map(num_labels, id2label),
            "use_pooler": use_pooler,
        }
        self.add_prediction_head_from_config(head_name, config, overwrite_ok)

    def add_image_classification_head(
        self,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        multilabel: bool = False,
        id2label: Mapping[int, str] | None = None,
        use_pooler: bool = False,
    ) -> None:
        """Add a head that classifies images. Its arguments are those of `add_classification_head`."""
        config = {
            "head_type": "image_classification",
            "num_labels": num_labels,
            "layers": layers,
            "activation_function": activation_function,
            "multilabel": multilabel,
            "label2id": label_map(num_labels, id2label),
            "use_pooler": use_pooler,
        }
        self.add_prediction_head_from_config(head_name, config, overwrite_ok)

    def add_multiple_choice_head(
        self,
        head_name: str,
        num_choices: int = 2,
        layers: int = 2,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        id2label: Mapping[int, str] | None = None,
        use_pooler: bool = False,
    ) -> None:
        """Add a head that chooses one of several texts: the inputs have the shape (rows, choices, tokens).

        Args:
            head_name: Its name: that of the adapter it belongs to.
            num_choices: Number of choices.
            layers: Number of linear layers.
            activation_function: Activation between them.
            overwrite_ok: Whether a head of the same name may be replaced.
            id2label: Names of the choices.
            use_pooler: Whether to read the base model's pooler.
        """
        config = {
            "head_type": "multiple_choice",
            "num_choices": num_choices,
            "layers": layers,
            "activation_function": activation_function,
            "label2id": label_map(num_choices, id2label),
            "use_pooler": use_pooler,
        }
        self.add_prediction_head_from_config(head_name, config, overwrite_ok)

    def add_tagging_head(
        self,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        id2label: Mapping[int, str] | None = None,
    ) -> None:
        """Add a head that classifies tokens. Its arguments are those of `add_classification_head`."""
        self._add_token_head("tagging", head_name, num_labels, layers, activation_function, overwrite_ok, id2label)

    def add_qa_head(
        self,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        id2label: Mapping[int, str] | None = None,
    ) -> None:
        """Add a head that tells where an answer starts and ends. Its arguments are those of `add_tagging_head`."""
        kind = "question_answering"
        self._add_token_head(kind, head_name, num_labels, layers, activation_function, overwrite_ok, id2label)

    def _add_token_head(
        self,
        head_type: str,
        head_name: str,
        num_labels: int,
        layers: int,
        activation_function: str | None,
        overwrite_ok: bool,
        id2label: Mapping[int, str] | None,
    ) -> None:
        config = {
            "head_type": head_type,
            "num_labels": num_labels,
            "layers": layers,
            "activation_function": activation_function,
            "label2id": label_map(num_labels, id2label),
        }
        self.add_prediction_head_from_config(head_name, config, overwrite_ok)

    def add_dependency_parsing_head(
        self,
        head_name: str,
        num_labels: int = 2,
        overwrite_ok: bool = False,
        id2label: Mapping[int, str] | None = None,
    ) -> None:
        """Add a head that finds the head of each word; see `adapters.heads.BiaffineParsingHead`.

        Args:
            head_name: Its name: that of the adapter it belongs to.
            num_labels: Number of relations.
            overwrite_ok: Whether a head of the same name may be replaced.
            id2label: Names of the relations.
        """
        labels = label_map(num_labels, id2label)
        config = {"head_type": "dependency_parsing", "num_labels": num_labels, "label2id": labels}
        self.add_prediction_head_from_config(head_name, config, overwrite_ok)

    def add_masked_lm_head(
        self, head_name: str, activation_function: str | None = "gelu", layers: int = 2, overwrite_ok: bool = False
    ) -> None:
        """Add a head that finds masked tokens. Its last layer is tied to the input embeddings if the model ties them.

        Args:
            head_name: Its name: that of the adapter it belongs to.
            activation_function: Activation between the layers.
            layers: Number of linear layers.
            overwrite_ok: Whether a head of the same name may be replaced.
        """
        config = {"head_type": "masked_lm", "layers": layers, "activation_function": activation_function}
        self.add_prediction_head_from_config(head_name, config, overwrite_ok)

    def add_causal_lm_head(
        self, head_name: str, activation_function: str | None = "gelu", layers: int = 2, overwrite_ok: bool = False
    ) -> None:
        """Add a head that finds the next token. Its arguments are those of `add_masked_lm_head`."""
        options = {"layer_norm": True, "bias": True}
        config = {"head_type": "causal_lm", "layers": layers, "activation_function": activation_function, **options}
        self.add_prediction_head_from_config(head_name, config, overwrite_ok)

    def add_seq2seq_lm_head(self, head_name: str, layers: int = 1, overwrite_ok: bool = False) -> None:
        """Add a head that finds the next token of a decoder. Its arguments are those of `add_masked_lm_head`."""
        self.add_prediction_head_from_config(head_name, {"head_type": "seq2seq_lm", "layers": layers}, overwrite_ok)

    def register_custom_head(self, identifier: str, head: type[nn.Module]) -> None:
        """Give a class of your own a name, under which `add_custom_head` and files know it, for all models.

        >>> model.register_custom_head("scores", nn.Bilinear)

        A `PredictionHead` is made as `head(model, name, **config)`; any other module as `head(**config)`, and it is
        called with the last hidden states (B, T, D). Whatever tensor it gives are logits.

        Args:
            identifier: The name.
            head: The class.

        Raises:
            ValueError: the name is that of a head of this library.
        """
        register(identifier, head)

    def add_custom_head(
        self, head_type: str, head_name: str, overwrite_ok: bool = False, set_active: bool = True, **kwargs: Any
    ) -> None:
        """Add a head of a type that `register_custom_head` has given a name, or of one of the others.

        >>> model.add_custom_head("scores", "task", num_labels=3)

        Args:
            head_type: The name of the type.
            head_name: The name of the head.
            overwrite_ok: Whether a head of the same name may be replaced.
            set_active: Whether to make it the active one.
            **kwargs: What the class takes.
        """
        self.add_prediction_head_from_config(head_name, {"head_type": head_type, **kwargs}, overwrite_ok, set_active)
