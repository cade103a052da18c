"""Adapters and setups published on a hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.setups import HeadSetup
from ..composition import SetupLike
from ..hub.huggingface import Commit
from ..hub.packing import ADAPTER, SETUP
from .setup_files import SavesSetups


class PushesAdapters(SavesSetups):
    """Methods that publish."""

    def push_adapter_to_hub(
        self,
        repo_id: str,
        adapter_name: str,
        datasets_tag: str | None = None,
        local_path: str | Path | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        overwrite_adapter_card: bool = False,
        create_pr: bool = False,
        revision: str | None = None,
        commit_description: str | None = None,
        adapter_card_kwargs: Mapping[str, Any] | None = None,
        *,
        hub: str | Path | None = None,
        version: str | None = None,
    ) -> str:
        """Publish an adapter and its head, with a card that says what it is and how it is used.

        >>> model.push_adapter_to_hub("me/bert-sentiment", "sentiment", datasets_tag="sst2")
        >>> model.push_adapter_to_hub("sentiment/sst-2@me", "sentiment", hub="my-hub")

        Args:
            repo_id: The repository of the Hugging Face Hub, which is made if it is not there; or, on a hub in a folder,
                `<task>/<subtask>@<org>`.
            adapter_name: The adapter.
            datasets_tag: Its data set on the Hugging Face Hub.
            local_path: The folder that it is saved to on the way; by default one that is removed again.
            commit_message: What is said of the commit, or on a hub in a folder of the version.
            private: Whether a new repository is private.
            token: A token; by default the one that `hf auth login` has kept.
            overwrite_adapter_card: Whether a card that is there is replaced.
            create_pr: Whether to propose it only.
            revision: The branch, which is made if it is not there.
            commit_description: More about the commit.
            adapter_card_kwargs: What the card says: tags, language, license, metrics, architecture_training, results
                (a text, or numbers by metric), citation, task (`<task>/<subtask>`), summary.
            hub: The folder of a hub, or "hf" for the Hugging Face Hub. By default the latter; for names with an `@`
                the one that the environment variable ADAPTERS_HUB names.
            version: The version on a hub in a folder; by default the next number.

        Returns:
            The address of the repository; for a hub in a folder, the name that it is loaded by.

        Raises:
            UnknownAdapterError: there is no such adapter.
            HubError: it cannot be published there; the message says why.
        """
        from ..hub.publishing import Publication, publish

        return publish(
            Publication(
                repo_id=repo_id,
                kind=ADAPTER,
                model_name=self.model_name,
                save=lambda folder: self.save_adapter(folder, adapter_name),
                dataset=datasets_tag,
                folder=local_path,
                overwrite_card=overwrite_adapter_card,
                text=adapter_card_kwargs,
                commit=Commit(commit_message, commit_description, revision, create_pr, private, token),
                hub=hub,
                version=version,
            )
        )

    def push_adapter_setup_to_hub(
        self,
        repo_id: str,
        adapter_setup: SetupLike,
        head_setup: HeadSetup = None,
        datasets_tag: str | None = None,
        local_path: str | Path | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        overwrite_adapter_card: bool = False,
        create_pr: bool = False,
        revision: str | None = None,
        commit_description: str | None = None,
        adapter_card_kwargs: Mapping[str, Any] | None = None,
        *,
        hub: str | Path | None = None,
        version: str | None = None,
    ) -> str:
        """Publish a setup with its adapters, fusions and heads.

        >>> model.push_adapter_setup_to_hub("me/german-ner", Stack("de", "ner"), head_setup="ner")

        Args:
            repo_id: See `push_adapter_to_hub`, as for the arguments that are not here.
            adapter_setup: The setup.
            head_setup: The heads that belong to it.
            datasets_tag: Its data set on the Hugging Face Hub.
            local_path: The folder that it is saved to on the way; by default one that is removed again.
            commit_message: What is said of the commit.
            private: Whether a new repository is private.
            token: A token.
            overwrite_adapter_card: Whether a card that is there is replaced.
            create_pr: Whether to propose it only.
            revision: The branch.
            commit_description: More about the commit.
            adapter_card_kwargs: What the card says.
            hub: The folder of a hub, or "hf" for the Hugging Face Hub.
            version: The version on a hub in a folder.

        Returns:
            The address of the repository; for a hub in a folder, the name that it is loaded by.

        Raises:
            UnknownAdapterError: there is no such adapter or fusion.
            HubError: it cannot be published there; the message says why.
        """
        from ..hub.publishing import Publication, publish

        return publish(
            Publication(
                repo_id=repo_id,
                kind=SETUP,
                model_name=self.model_name,
                save=lambda folder: self.save_adapter_setup(folder, adapter_setup, head_setup),
                dataset=datasets_tag,
                folder=local_path,
                overwrite_card=overwrite_adapter_card,
                text=adapter_card_kwargs,
                commit=Commit(commit_message, commit_description, revision, create_pr, private, token),
                hub=hub,
                version=version,
            )
        )
