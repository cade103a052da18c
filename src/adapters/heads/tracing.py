"""What the code of a static head does, seen in one run of it alone on random numbers.

The base model is not run, and no weights of the model are read: what is found depends on the class and the
configuration only. Vocabularies are cut, so that a run costs little for models of any size.

Shapes: B = 2 rows, T = 5 tokens, D hidden size.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from .static import Given, Skeleton, StaticHeadError, fields_of

CUT = 16  # of a vocabulary
LARGE = 512  # what is cut


@dataclass(frozen=True)
class Step:
    """A layer with parameters, at work.

    Args:
        name: Its path in the static class.
        module: The layer.
        x: What it is given.
        y: What it gives.
    """

    name: str
    module: nn.Module
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Trace:
    """One run of a static head.

    Args:
        steps: Its layers, in the order of the run.
        outputs: What the base model gave it.
        given: What the base model was called with.
        result: What it made of that.
        tensors: Its parameters and buffers by name, those of vocabularies cut.
        dropouts: The probabilities of its dropout.
        added: What the class calls its base model with besides what it is called with itself.
    """

    steps: tuple[Step, ...]
    outputs: ModelOutput
    given: Mapping[str, Tensor]
    result: ModelOutput
    tensors: Mapping[str, Tensor]
    dropouts: frozenset[float]
    added: tuple[str, ...]


def traced(skeleton: Skeleton, size: int, task: str) -> Trace:
    """Run a static head once.

    Args:
        skeleton: The static class without its base model.
        size: D.
        task: The type of the head.

    Raises:
        StaticHeadError: its code does not run on such numbers.
    """
    model: Any = copy.deepcopy(skeleton.model)
    config = model.config
    generator = torch.Generator().manual_seed(0)
    vocabulary = config.get_text_config().vocab_size if hasattr(config.get_text_config(), "vocab_size") else None
    _materialise(model, vocabulary, generator)
    _choose_padding(config)
    given = _inputs(model, task, generator)
    outputs = _outputs(skeleton, size, generator)
    steps: list[Step] = []
    hooks = [
        module.register_forward_hook(_recording(name, steps))
        for name, module in model.named_modules()
        if module._parameters and any(p is not None for p in module._parameters.values()) and not module._modules
    ]
    accepted = inspect.signature(type(model).forward).parameters
    try:
        with torch.no_grad(), Given.telling(outputs) as calls:
            result = model(**{name: value for name, value in given.items() if name in accepted}, return_dict=True)
    except Exception as error:  # the code of any class
        raise StaticHeadError(f"its code does not run by itself ({type(error).__name__}: {error})") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(result, ModelOutput):
        raise StaticHeadError("it gives no outputs with names")
    flat = {name: value.flatten(0, 1) if task == "multiple_choice" else value for name, value in given.items()}
    dropouts = frozenset(m.p for part in skeleton.parts.values() for m in part.modules() if isinstance(m, nn.Dropout))
    added = _added(calls, [*given.values(), *flat.values()]) if skeleton.base_path else ()
    return Trace(tuple(steps), outputs, flat, result, model.state_dict(), dropouts, added)


def _added(calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]], given: Sequence[Tensor]) -> tuple[str, ...]:
    """The names of arguments of a base model that are none of those that were given, but for what a decoder reads."""
    return tuple(
        name
        for _, kwargs in calls
        for name, value in kwargs.items()
        if isinstance(value, Tensor) and not any(value.shape == known.shape and value.equal(known) for known in given)
        if "decoder" not in name and "encoder" not in name
    )


def _materialise(model: nn.Module, vocabulary: int | None, generator: torch.Generator) -> None:
    """Give a head of the meta device random numbers."""

    def drawn(tensor: Tensor) -> Tensor:
        shape = [CUT if n == vocabulary and n > LARGE else n for n in tensor.shape]
        scale = shape[-1] ** -0.5 if len(shape) > 1 and shape[0] > 1 else 1.0
        return torch.randn(shape, generator=generator) * scale

    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(drawn(parameter), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = (
                    drawn(buffer) if buffer.is_floating_point() else torch.zeros_like(buffer, device="cpu")
                )


def _choose_padding(config: Any) -> None:
    """Static classes look for padding by its token, and refuse batches without one."""
    for each in {id(c): c for c in (config, config.get_text_config())}.values():
        if getattr(each, "pad_token_id", None) is None:
            each.pad_token_id = 0
        if config.is_encoder_decoder and getattr(each, "decoder_start_token_id", None) is None:
            each.decoder_start_token_id = 0


def _inputs(model: Any, task: str, generator: torch.Generator) -> dict[str, Tensor]:
    """A batch of two rows, the second one padded on the right."""
    config = model.config
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(2, 3, 8, 8, generator=generator)}
    names = ("pad_token_id", "eos_token_id", "bos_token_id", "sep_token_id", "cls_token_id")
    special = {getattr(config, name, None) for name in names if not isinstance(getattr(config, name, None), list)}
    token = next(i for i in range(1, 99) if i not in special)
    end = getattr(config, "eos_token_id", None)
    eos = end if isinstance(end, int) and config.is_encoder_decoder else token
    input_ids = torch.tensor([[token] * 4 + [eos], [token] * 2 + [eos] + [config.get_text_config().pad_token_id] * 2])
    mask = torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    if task == "multiple_choice":
        return {"input_ids": input_ids[None], "attention_mask": mask[None]}
    return {"input_ids": input_ids, "attention_mask": mask}


def _outputs(skeleton: Skeleton, size: int, generator: torch.Generator) -> ModelOutput:
    """What a base model could give: all of it random."""
    fields = fields_of(skeleton.outputs_class)
    found = {
        "last_hidden_state": torch.randn(2, 5, size, generator=generator),
        "encoder_last_hidden_state": torch.randn(2, 5, size, generator=generator),
    }
    if skeleton.has_pooler:
        found["pooler_output"] = torch.randn(2, size, generator=generator)
    lenient = type("Lenient", (skeleton.outputs_class,), {"__getattr__": _nothing})  # classes ask for what others have
    return cast(ModelOutput, lenient(**{name: value for name, value in found.items() if name in fields}))


def _nothing(self: ModelOutput, name: str) -> None:
    if name.startswith("_"):
        raise AttributeError(name)


def _recording(name: str, steps: list[Step]) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], y: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(y, Tensor):
            steps.append(Step(name, module, args[0].clone(), y.clone()))
        else:
            steps.append(Step(name, module, torch.empty(0), torch.empty(0)))

    return record
