"""The methods that add heads that release 1.3 does not have."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import nn

from .base import label_map


class AddsNewHeads(nn.Module):
    """What models with flexible heads offer besides."""

    @abstractmethod
    def add_prediction_head_from_config(
        self, head_name: str, config: Mapping[str, Any], overwrite_ok: bool = False, set_active: bool = True
    ) -> None:
        """Add a head from what `head_config.json` holds of one."""

    def add_token_regression_head(
        self,
        head_name: str,
        num_labels: int = 1,
        layers: int = 1,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        id2label: Mapping[int, str] | None = None,
        loss: str = "mse",
    ) -> None:
        """Add a head that gives scores to tokens; see `adapters.heads.TokenRegressionHead`.

        Args:
            head_name: Its name: that of the adapter it belongs to.
            num_labels: Number of scores of each token.
            layers: Number of linear layers.
            activation_function: Activation between them.
            overwrite_ok: Whether a head of the same name may be replaced.
            id2label: Names of the scores.
            loss: "mse", "l1" or "huber".

        Raises:
            ValueError: the name is taken, or there is no such loss.
        """
        config = {
            "head_type": "token_regression",
            "num_labels": num_labels,
            "layers": layers,
            "activation_function": activation_function,
            "label2id": label_map(num_labels, id2label),
            "loss": loss,
        }
        self.add_prediction_head_from_config(head_name, config, overwrite_ok)

    def add_embedding_head(
        self,
        head_name: str,
        pooling: str = "mean",
        normalize: bool = True,
        embedding_size: int | None = None,
        overwrite_ok: bool = False,
        loss: str = "contrastive",
        temperature: float = 0.05,
        symmetric: bool = False,
    ) -> None:
        """Add a head that gives each text a vector, close to those of texts that mean the same.

        What inputs and labels the losses take: see `adapters.heads.EmbeddingHead`.

        Args:
            head_name: Its name: that of the adapter it belongs to.
            pooling: "mean" of the tokens, "cls" (the first one) or "last".
            normalize: Whether vectors get length 1.
            embedding_size: Their size, made by a linear layer; None for the hidden size, without a layer.
            overwrite_ok: Whether a head of the same name may be replaced.
            loss: "contrastive" or "cosine".
            temperature: What the cosines are divided by in the contrastive loss.
            symmetric: Whether both texts of a pair have to find one another.

        Raises:
            ValueError: the name is taken, or an option is none of its choices.
        """
        config = {
            "head_type": "embedding",
            "pooling": pooling,
            "normalize": normalize,
            "embedding_size": embedding_size,
            "loss": loss,
            "temperature": temperature,
            "symmetric": symmetric,
        }
        self.add_prediction_head_from_config(head_name, config, overwrite_ok)

    def add_ranking_head(
        self,
        head_name: str,
        layers: int = 2,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        use_pooler: bool = False,
        margin: float = 0.0,
    ) -> None:
        """Add a head that gives better texts higher scores: a ranker, or a reward model.

        It learns from inputs of shape (rows, texts, tokens), in each row the better text first; see
        `adapters.heads.RankingHead`.

        Args:
            head_name: Its name: that of the adapter it belongs to.
            layers: Number of linear layers.
            activation_function: Activation between them.
            overwrite_ok: Whether a head of the same name may be replaced.
            use_pooler: Whether to read the base model's pooler.
            margin: How much higher the score of the better text has to be.
        """
        config = {
            "head_type": "ranking",
            "layers": layers,
            "activation_function": activation_function,
            "use_pooler": use_pooler,
            "margin": margin,
        }
        self.add_prediction_head_from_config(head_name, config, overwrite_ok)
