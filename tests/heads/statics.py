"""Tiny models of all classes of transformers with a head, and inputs for them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from adapters.heads import static
from zoo import Architecture, image_inputs, tiny_model

ZOO_TASKS = {"masked_lm": "masked-lm", "causal_lm": "causal-lm", "image_classification": "image-classification"}

# Model types whose static classes cannot run on the inputs below: they read sound, boxes of pages, or three separators.
OTHER_INPUTS = {"layoutlmv3", "lilt", "bros", "lxmert", "longformer", "imagegpt", "perceiver"}


def classes() -> list[tuple[str, str, str]]:
    """The task, the model type and the name of every class, each once."""
    found: dict[str, tuple[str, str, str]] = {}
    for task, mapping in static._TASKS.items():
        for model_type, names in mapping.items():
            for name in (names,) if isinstance(names, str) else names:
                found.setdefault(name, (task, model_type, name))
    return list(found.values())


def built(task: str, model_type: str, name: str, seed: int = 0) -> Any:
    """A tiny random model. Tokens are set that static classes ask for; the embedding of padding is zero."""
    model: Any = tiny_model(Architecture(ZOO_TASKS.get(task, task), model_type, name), seed)
    config = model.config
    for each in {id(c): c for c in (config, config.get_text_config())}.values():
        if getattr(each, "pad_token_id", None) is None:
            each.pad_token_id = 0
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 0
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight[[0, module.padding_idx or 0]] = 0
    return model.eval()


def inputs(model: Any, task: str) -> dict[str, Tensor]:
    """Inputs of a batch of two."""
    generator, config = torch.Generator().manual_seed(0), model.config
    if task == "image_classification":
        return image_inputs(model, generator)
    shape = (2, 2, 7) if task == "multiple_choice" else (2, 7)
    ids = torch.randint(10, 90, shape, generator=generator)
    if config.is_encoder_decoder and task != "seq2seq_lm" and isinstance(config.eos_token_id, int):
        ids[:, -1] = config.eos_token_id
    found = {model.main_input_name: ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": ids.flip(-1)}
    if task != "seq2seq_lm":
        del found["decoder_input_ids"]
    accepted = inspect.signature(type(model).forward).parameters
    return {name: value for name, value in found.items() if name in accepted}


def logits(outputs: Any) -> Tensor:
    """What a head predicts, as one tensor."""
    if outputs.get("logits") is not None:
        return outputs["logits"]
    return torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=-1)


@torch.no_grad()
def run(model: Any, task: str) -> Tensor:
    """The predictions of a model."""
    return logits(model(**inputs(model, task)))
