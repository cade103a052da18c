"""Models with any number of prediction heads: the part that all `XxxAdapterModel` classes share.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..averaging import named_weights, normalized
from ..checkpoints.errors import LoadReport
from ..checkpoints.files import HEAD_CONFIG, AdapterFileError, read_json
from ..checkpoints.setups import HeadSetup, head_names
from ..checkpoints.transactions import together
from ..checkpoints.whole import read_with_report
from ..hub.huggingface import Access
from ..hub.packing import HEAD
from ..hub.resolve import Source, Wanted, resolve
from ..model import add_saved_adapters, setup_registry
from ..model.base import check_saved_name, folder_within
from ..model.spellings import also_with_loading_info
from ..registry import AdapterDict, check_free, unknown_name
from . import HEADS, LanguageModelHead, PredictionHead
from . import quiet as quiet
from .adding import AddsHeads
from .adopting import base_options, borrow, loading, renaming_of, returned, skeleton_of, ties_of
from .conversion import read_head
from .custom import CUSTOM_HEADS
from .language_modeling import embeddings_of, ties_embeddings
from .model_heads import averaged_head, build_head, holds_head, save_head
from .of_peft import FactsForPeft, facts_of_flexible, flexible_head
from .rows import Heads, heads_of
from .running import RunsHeads
from .telling import TellsOfHeads


class ModelWithFlexibleHeadsAdaptersMixin(AddsHeads, TellsOfHeads, RunsHeads):
    """A base model with adapters and heads. The classes themselves are made by `adapters.auto`.

    Args:
        config: The configuration of the base model.
    """

    base_class: ClassVar[type[PreTrainedModel]]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        skeleton = skeleton_of(config)
        options = base_options(self.base_class, config, skeleton)
        setattr(self, cast(str, self.base_model_prefix), self.base_class(config, **options))
        self.heads = AdapterDict()
        self.before_output_embeddings = nn.Identity()  # here invertible adapters are inverted for language models
        self._active_head: Heads = None
        setup_registry(self)
        self._adapter_registry.labels_are_repeated = False  # heads do that
        self._adapter_registry.output_embeddings = self.before_output_embeddings
        # Heads of AdapterHub's models invert in all architectures, also in those whose static classes do not.
        self._adapter_registry.anatomy = dataclasses.replace(self._adapter_registry.anatomy, inverts_at_head=True)
        add_saved_adapters(self, config)
        self._borrowed = None if skeleton is None else borrow(self, skeleton)
        saved_heads = getattr(config, "prediction_heads", None) or {}
        for name, head in saved_heads.items():
            self.add_prediction_head_from_config(name, head)
        if saved_heads:
            del config.prediction_heads
        cast(Any, self).post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path | None, *args: Any, **kwargs: Any) -> Any:
        """Load a model: that of a bare base model, of a class with a head, or one that was saved with adapters.

        >>> model = BertAdapterModel.from_pretrained("textattack/bert-base-uncased-imdb")
        >>> model.active_head
        'default'

        The head of a checkpoint of `BertForSequenceClassification` and its like becomes the flexible head "default". If
        that cannot be, a warning says why.

        Args:
            pretrained_model_name_or_path: A folder or a name on the Hugging Face Hub.
            *args: Further arguments of transformers' `from_pretrained`.
            **kwargs: Further arguments of transformers' `from_pretrained`.
        """
        with loading():
            found = cast(Any, super()).from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found
        model._adopt_head()
        return found

    @classmethod
    def is_custom_code(cls) -> bool:
        """Called by transformers, which renames the weights of files for its own models alone: this is one of them."""
        return False

    def _adopt_head(self) -> None:
        """Make a head of what was read of a static class."""
        borrowed, self._borrowed = self._borrowed, None
        if borrowed is None:
            return
        ties = ties_of(borrowed, self, self._adapter_registry.base_path)
        head = returned(self, borrowed)
        noted = self.__dict__["all_tied_weights_keys"]
        self.__dict__["all_tied_weights_keys"] = {name: tied for name, tied in noted.items() if name not in ties}
        if head is not None:
            self._attach_head(head.name, head, set_active=True, is_tied=False)

    @staticmethod
    def _load_pretrained_model(model: Any, state_dict: Any, files: Any, load_config: Any, *args: Any) -> Any:
        """Called by transformers to read files. Those of some classes have names of their own."""
        renamed = [] if model._borrowed is None else renaming_of(model._borrowed, model.base_model_prefix)
        if renamed:
            mapping = [*renamed, *(load_config.weight_mapping or [])]
            load_config = dataclasses.replace(load_config, weight_mapping=mapping)
        found = PreTrainedModel._load_pretrained_model(model, state_dict, files, load_config, *args)
        if renamed:  # files that are written have the names that the model has
            model._weight_conversions = [each for each in model._weight_conversions if each not in renamed]
        return found

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        """Called by transformers before it reports what a checkpoint lacks."""
        cast(Any, super())._adjust_missing_and_unexpected_keys(loading_info)
        if self._borrowed is not None:
            self._borrowed.missing = loading_info.missing_keys & self._borrowed.names
            loading_info.missing_keys = loading_info.missing_keys - self._borrowed.names

    # -- heads ------------------------------------------------------------------------------------------------------

    def add_prediction_head_from_config(
        self, head_name: str, config: Mapping[str, Any], overwrite_ok: bool = False, set_active: bool = True
    ) -> None:
        """Add a head from what `head_config.json` holds of one.

        >>> model.add_prediction_head_from_config("topics", {"head_type": "classification", "num_labels": 3})

        Args:
            head_name: Its name.
            config: Its type, and the arguments of that class.
            overwrite_ok: Whether a head of the same name may be replaced.
            set_active: Whether to make it the active one.

        Raises:
            ValueError: there is no such type, it does not fit the model, or the name is taken.
        """
        self._check_free(head_name, overwrite_ok)
        self._attach_head(head_name, build_head(self, head_name, config), set_active)

    def add_prediction_head(
        self, head: PredictionHead | nn.Module, overwrite_ok: bool = False, set_active: bool = True
    ) -> None:
        """Add a head.

        >>> model.add_prediction_head(ClassificationHead(model, "topics", num_labels=3))

        Args:
            head: The head. Its name is that of the adapter it belongs to.
            overwrite_ok: Whether a head of the same name may be replaced.
            set_active: Whether to make it the active one.

        Raises:
            ValueError: the name is taken.
            TypeError: it is another module; see `register_custom_head`.
        """
        if not isinstance(head, PredictionHead):
            raise TypeError(
                f"A head is a PredictionHead, not {type(head).__name__}. Give the class of a plain module a name with "
                "model.register_custom_head(...), and add it with model.add_custom_head(...)."
            )
        self._check_free(head.name, overwrite_ok)
        self._attach_head(head.name, head, set_active)

    def _check_free(self, name: str, overwrite_ok: bool) -> None:
        check_free(name, list(self.heads), overwrite_ok, "a head")

    def _check_there(self, *names: str | None) -> None:
        for name in names:
            if name is None or name not in self.heads:
                raise ValueError(unknown_name(str(name), self.heads, "head"))

    def _attach_head(self, name: str, head: PredictionHead, set_active: bool, is_tied: bool = True) -> None:
        base = self._adapter_registry.base
        like = next((p for p in base.parameters() if p.is_floating_point()), None)
        if like is not None:
            is_made = not any(parameter.is_meta for parameter in head.parameters())
            head.to(device=like.device if is_made else None, dtype=like.dtype)
        head.train(self.training)
        self.heads.attach(name, head)
        if isinstance(head, LanguageModelHead):
            own, weight = head.get_output_embeddings(), cast(Any, self).get_input_embeddings().weight
            fits = own.weight.shape == weight.shape and ties_embeddings(self.config)
            # A file may come from a model with other embeddings: its output layer is kept then.
            if fits and (is_tied or torch.equal(own.weight, weight)):
                own.weight = weight
        self._note_tied()
        if set_active:
            self._now_active(name)

    def _now_active(self, heads: Heads) -> None:
        """Make heads the active ones. Pipelines of transformers look for the labels in the configuration."""
        self._active_head = heads
        if not isinstance(heads, str):
            return
        config, labels = cast(PredictionHead, self._head(heads)).config, self.get_labels_dict(heads)
        if not labels:
            return
        self.config.id2label, self.config.label2id = labels, {label: number for number, label in labels.items()}
        if config["head_type"] == "multilabel_classification" or config.get("multilabel"):
            self.config.problem_type = "multi_label_classification"
        elif self.config.problem_type == "multi_label_classification":
            self.config.problem_type = None

    # -- output layers that are tied to the embeddings; transformers asks for these names -----------------------------

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        """The parameters of heads that are tied, by their names, and what they are tied to."""
        borrowed = self.__dict__.get("_borrowed")
        if borrowed is not None:
            return ties_of(borrowed, self, self._adapter_registry.base_path)
        if "heads" not in self._modules or not len(self.heads):
            return {}
        embeddings = embeddings_of(self)
        path = next((name for name, module in self.named_modules() if module is embeddings), None)
        prefix = f"{self._adapter_registry.base_path}."
        of_base = cast(Any, self._adapter_registry.base).all_tied_weights_keys
        own = f"{path}.weight".removeprefix(prefix)
        target = prefix + of_base.get(own, own)  # Marian ties its input embeddings to others
        return {
            f"{key}.{len(head) - 1}.weight": target
            for key, head in self.named_modules()
            if path is not None
            and isinstance(head, LanguageModelHead)
            and head.get_output_embeddings().weight is cast(Any, embeddings).weight
        }

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """See transformers: the names of tied parameters."""
        if all_submodels:
            return cast("dict[str, str]", cast(Any, super()).get_expanded_tied_weights_keys(True))
        return self._tied_weights_keys  # exact names, where transformers would take them for patterns

    def _note_tied(self) -> None:
        noted = self.__dict__.get("all_tied_weights_keys")
        if noted is not None:
            for name in [name for name in noted if name.startswith("heads.")]:
                del noted[name]
            noted.update(self._tied_weights_keys)

    def get_output_embeddings(self) -> nn.Module | None:
        """The layer of the active head that gives a logit for each token of the vocabulary, if it is such a head."""
        name = self.__dict__.get("_active_head")
        return self._head(name).get_output_embeddings() if isinstance(name, str) else None

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace that layer.

        Raises:
            ValueError: the active head has none.
        """
        if self.get_output_embeddings() is None:
            raise ValueError("The active head has no output embeddings; add one with model.add_causal_lm_head(...) …")
        head = self._head(cast(str, self._active_head))
        head[-1] = new_embeddings
        head.config["vocab_size"] = cast(Any, new_embeddings).weight.shape[0]
        self._note_tied()

    # -- which are active ---------------------------------------------------------------------------------------------

    @property
    def active_head(self) -> Heads:
        """The head that the forward pass ends in, or several; None for the outputs of the base model.

        >>> model.active_head = "topics"
        >>> model.active_head = ["topics", "sentiment"]  # for the channels of a Parallel
        >>> model.active_head = BatchSplit("topics", "sentiment", batch_sizes=[2, 6])

        `set_active_adapters` sets it too, if there are heads of the names of the adapters.
        """
        return self._active_head

    @active_head.setter
    def active_head(self, head: Heads) -> None:
        self._check_there(*head_names(head))
        self._now_active(head)

    def freeze_embeddings(self, freeze: bool = True) -> None:
        """Freeze, or unfreeze, the input embeddings."""
        cast(Any, self).get_input_embeddings().requires_grad_(not freeze)

    def delete_head(self, head_name: str) -> None:
        """Remove a head.

        Raises:
            ValueError: there is no such head.
        """
        self._check_there(head_name)
        self.heads.remove(head_name)
        self._note_tied()
        if head_name in head_names(self._active_head):
            self._active_head = None

    def average_head(
        self,
        head_name: str,
        head_list: Sequence[str] | Mapping[str, float],
        weights: Sequence[float] | None = None,
        normalize_weights: bool = True,
        overwrite_ok: bool = False,
        set_active: bool = False,
    ) -> None:
        """Add a new head whose parameters are the weighted sum of those of others, θ = Σ wᵢ θᵢ.

        >>> model.average_head("both", {"first": 0.7, "second": 0.3})

        Args:
            head_name: The name of the new head. Its labels and its dropout are those of the first one.
            head_list: The heads, or their weights by name.
            weights: A weight for each, by default equal ones.
            normalize_weights: Whether the weights are divided by their sum.
            overwrite_ok: Whether a head of the same name may be replaced.
            set_active: Whether to make it the active one.

        Raises:
            ValueError: there is no such head, they are not of one configuration, or the weights do not fit. The model
                is then as it was.
        """
        names, found = named_weights(head_list, weights, "head")
        found = normalized(found) if normalize_weights else found
        self._check_free(head_name, overwrite_ok)
        self._check_there(*names)
        heads = [self._head(name) for name in names]
        head = averaged_head(self, names, heads, found, head_name)
        self._attach_head(head_name, head, set_active, is_tied=False)

    def get_labels_dict(self, head_name: str | None = None) -> dict[int, str] | None:
        """The labels of a head (by default the active one) by their numbers; None if it has none."""
        name = self._one_head(head_name)
        if name is None:
            return None
        label2id = self._head(name).config.get("label2id")
        return None if label2id is None else {number: label for label, number in label2id.items()}

    def get_labels(self, head_name: str | None = None) -> list[str] | None:
        """The labels of a head (by default the active one), in the order of their numbers."""
        labels = self.get_labels_dict(head_name)
        return None if labels is None else [labels[i] for i in sorted(labels)]

    def get_prediction_heads_config(self) -> dict[str, dict[str, Any]]:
        """The configuration of every head by its name."""
        return {name: dict(self._head(name).config) for name in self.heads}

    @classmethod
    def head_types(cls) -> list[str]:
        """The types of heads that can be added."""
        return [*HEADS, *CUSTOM_HEADS]

    def save_head(self, save_directory: str | Path, head_name: str | None = None, use_safetensors: bool = True) -> None:
        """Write a head (by default the active one) to a folder, in the layout of AdapterHub."""
        name = self._one_head(head_name)
        self._check_there(name)
        head = self._head(cast(str, name))
        save_head(head, cast(str, name), head.config, Path(save_directory), self._facts(), use_safetensors)

    def save_all_heads(self, save_directory: str | Path, use_safetensors: bool = True) -> None:
        """Write every head to a folder of its name within a folder."""
        with together(Path(save_directory)):
            for name in self.heads:
                self.save_head(folder_within(Path(save_directory), name), name, use_safetensors)

    @also_with_loading_info
    def load_head(
        self,
        save_directory: str | Path,
        load_as: str | None = None,
        id2label: Mapping[int, str] | None = None,
        use_safetensors: bool = False,
        *,
        hub: str | Path | None = None,
        token: bool | str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        version: str | None = None,
        strict: bool = True,
        report: LoadReport | None = None,
    ) -> str:
        """Add a head from a folder or a hub, and make it the active one. A head of the same name is replaced.

        Args:
            save_directory: A folder, or what else `load_adapter` takes.
            load_as: Another name for it.
            id2label: Other labels for it.
            use_safetensors: Refuse files in PyTorch's format; by default safetensors are read where they are.
            hub: Where to look the name up: the folder or the address of a hub, or "hf" for the Hugging Face Hub alone.
            token: A token for the Hugging Face Hub.
            cache_dir: Another folder for the cache of the Hugging Face Hub.
            force_download: Download again what is in the cache.
            local_files_only: Use what is in the cache, and nothing else.
            version: The version on a hub; on the Hugging Face Hub a branch, a tag or a commit.
            strict: Whether tensors that are missing, unexpected or of another shape are an error.
            report: With `strict=False`, where these are noted.

        Returns:
            The name of the head.

        Raises:
            HubError: no head, or more than one, has this name, or it cannot be downloaded.
            AdapterFileError: a file is missing, cut off, or does not fit. The model is then as it was.
        """
        source = Source(hub, Access(token, cache_dir, force_download, local_files_only))
        folder = resolve(save_directory, Wanted(HEAD, self.model_name, None, version), source).folder

        def read(found: LoadReport | None) -> tuple[str, PredictionHead]:
            return read_head(self, folder, load_as, id2label, use_safetensors, found)

        name, head = read_with_report(folder, strict, report, read)
        check_saved_name(name, folder)
        self._attach_head(name, head, set_active=True, is_tied=False)
        return name

    # -- with adapters ----------------------------------------------------------------------------------------------

    def set_active_adapters(self, adapter_setup: Any, skip_layers: Sequence[int] | None = None) -> None:
        """As for every model with adapters; the heads of the last adapters' names become active, if there are any."""
        super().set_active_adapters(adapter_setup, skip_layers)
        heads = heads_of(self.active_adapters)
        if any(name in self.heads for name in head_names(heads)):
            self._now_active(heads)

    def _save_head_of(self, adapter_name: str, folder: Path, use_safetensors: bool) -> None:
        if adapter_name in self.heads:
            self.save_head(folder, adapter_name, use_safetensors)

    def _read_head(
        self,
        folder: Path,
        name: str | None,
        id2label: Mapping[int, str] | None,
        safetensors_only: bool,
        report: LoadReport | None,
    ) -> Callable[[], None] | None:
        if not holds_head(folder):
            return None
        own_name, head = read_head(self, folder, name, id2label, safetensors_only, report)
        return lambda: self._attach_head(own_name, head, set_active=False, is_tied=False)

    def _facts_for_peft(self, adapter_name: str, with_head: bool) -> FactsForPeft:
        return facts_of_flexible(self, self.heads.get(adapter_name), with_head)

    def _head_of_peft(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        options: Mapping[str, Any],
        id2label: Mapping[int, str] | None,
    ) -> Callable[[], None] | None:
        head = flexible_head(self, name, tensors, options, id2label)
        return None if head is None else lambda: self._attach_head(name, head, set_active=False, is_tied=False)

    def _save_heads(self, heads: HeadSetup, folder: Path, use_safetensors: bool, is_nested: bool) -> HeadSetup:
        named = self._active_head if heads is True else heads or None
        names = head_names(named)
        self._check_there(*names)
        for name in names:
            self.save_head(folder_within(folder, name) if is_nested else folder, name, use_safetensors)
        return named

    def _read_heads(
        self,
        folder: Path,
        heads: HeadSetup,
        read: Sequence[str],
        safetensors_only: bool,
        report: LoadReport | None,
    ) -> tuple[HeadSetup, list[Callable[[], None] | None]]:
        if heads is True:  # so 1.3 wrote the active head: into the folder itself
            name = str(read_json(folder / HEAD_CONFIG).get("name"))
            return name, [self._read_head(folder, name, None, safetensors_only, report)]
        found = {name: folder_within(folder, name) for name in head_names(heads)}
        missing = [name for name, inner in found.items() if not holds_head(inner)]
        if missing:
            raise AdapterFileError(f"{folder} has no head {missing[0]!r}, which its setup names.")
        others = [name for name in found if name not in read]
        return heads or None, [self._read_head(found[name], name, None, safetensors_only, report) for name in others]

    def _activate_heads(self, heads: HeadSetup) -> None:
        if heads:
            self.active_head = cast(Heads, heads)

    def _write_checkpoint(self, folder: Path) -> None:
        with together(folder):
            super()._write_checkpoint(folder)
            self.save_all_heads(folder)

    def _head_tensors(self) -> Iterator[Tensor]:
        inside = {id(parameter) for parameter in self._adapter_registry.base.parameters()}
        for head in self.heads.values():
            yield from (t for t in (*head.parameters(), *head.buffers()) if id(t) not in inside)

    def _config_entries(self) -> dict[str, Any]:
        return {**super()._config_entries(), "prediction_heads": self.get_prediction_heads_config()}
