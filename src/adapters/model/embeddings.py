"""Input embeddings for other vocabularies, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from .. import embeddings
from .base import HoldsAdapters, folder_of


class NamesEmbeddings(HoldsAdapters):
    """Methods for the embeddings of a model."""

    @property
    def active_embeddings(self) -> str:
        """The name of the embeddings that are in use; the model's own are "default"."""
        return self._adapter_embeddings.active

    @property
    def loaded_embeddings(self) -> dict[str, nn.Embedding]:
        """All embeddings by their names."""
        return self._adapter_embeddings.as_modules(self)

    def add_embeddings(
        self,
        name: str,
        tokenizer: Any,
        reference_embedding: str | None = None,
        reference_tokenizer: Any = None,
        embedding_dim: int | None = None,
    ) -> None:
        """Add new embeddings for a tokenizer, and make them the active ones.

        >>> model.add_embeddings("fo", faroese_tokenizer, reference_embedding="default", reference_tokenizer=tokenizer)
        >>> model.train_adapter("language", train_embeddings=True)

        There are as many as the tokenizer has tokens. All that the model holds per token changes with them: tied
        embeddings of encoder and decoder, and the output layer of a language model with its bias, tied or not. Ids of
        special tokens that the model's configuration names (`pad_token_id` …) are left as they are.

        Args:
            name: Their name.
            tokenizer: The tokenizer.
            reference_embedding: Embeddings that give what tokens of both tokenizers start with; the others are drawn as
                the model draws its own.
            reference_tokenizer: The tokenizer of those.
            embedding_dim: Their size; it has to be that of the model's.

        Raises:
            ValueError: the name is taken, or the model has no embeddings that could be exchanged. The model is then as
                it was.
        """
        store = self._adapter_embeddings
        store.check_new(name)
        current = store.get(self, store.active)
        if embedding_dim not in (None, current.size):
            raise ValueError(f"embedding_dim={embedding_dim}: the embeddings of this model have size {current.size}.")
        if (reference_embedding is None) != (reference_tokenizer is None):
            raise ValueError("reference_embedding and reference_tokenizer belong together: give both, or none.")
        reference = None
        if reference_embedding is not None:
            reference = (store.get(self, reference_embedding), reference_tokenizer)
        store.add(self, name, embeddings.for_tokenizer(self, current, tokenizer, reference))

    def set_active_embeddings(self, name: str) -> None:
        """Use other embeddings, for all calls of the model in all threads; the model's own are "default".

        Raises:
            ValueError: there are none of this name, or an adapter acts on the embeddings. The model is then as it was.
        """
        self._adapter_embeddings.activate(self, name)

    def delete_embeddings(self, name: str) -> None:
        """Remove embeddings; if they are active, the model's own are afterwards.

        Raises:
            ValueError: there are none of this name, or they are the model's own.
        """
        self._adapter_embeddings.delete(self, name)

    def save_embeddings(self, path: str | Path, name: str, tokenizer: Any = None) -> None:
        """Write embeddings to a folder, as safetensors.

        Args:
            path: The folder; made if it is not there.
            name: The embeddings.
            tokenizer: Their tokenizer, to be written beside them.

        Raises:
            ValueError: there are none of this name.
        """
        embeddings.save(self._adapter_embeddings.get(self, name), folder_of(path), tokenizer)

    def load_embeddings(self, path: str | Path, name: str) -> Any:
        """Add embeddings from a folder, also of AdapterHub's `adapters` 1.3, and make them the active ones.

        Args:
            path: The folder.
            name: The name to give.

        Returns:
            The tokenizer that was saved with them, or None.

        Raises:
            ValueError: the name is taken, or a file is missing, cut off or does not fit. The model is then as it was.
        """
        store = self._adapter_embeddings
        store.check_new(name)
        loaded, tokenizer = embeddings.load(self, store.get(self, store.active), Path(path).expanduser())
        store.add(self, name, loaded)
        return tokenizer
