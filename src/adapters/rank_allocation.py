"""How AdaLoRA (arXiv:2303.10512) spends its rank while it is trained: on the singular values that matter most."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .configuration import AdaLoRAConfig
from .methods.adalora import AdaLoRA
from .registry import AdapterRegistry


class RankAllocator:
    """Prunes the singular values of an AdaLoRA adapter, by a budget that falls with the steps of its training.

    >>> model.add_adapter("task", AdaLoRAConfig(r=12, target_r=8, total_steps=1000))
    >>> model.train_adapter("task")
    >>> allocator = RankAllocator(model, "task")
    >>> for step, batch in enumerate(batches):
    ...     loss = model(**batch).loss + allocator.regularisation()
    ...     loss.backward()
    ...     optimizer.step()
    ...     allocator.update(step)
    ...     optimizer.zero_grad()

    The importance of a number w is the product of two means over time: of |w · ∂loss/∂w|, and of its deviations. That
    of a singular value is its own and the means of those of its two vectors. What is pruned goes on to be trained, and
    may come back, until the last `final_steps` steps: from then on the choice stays.

    Args:
        model: The model.
        adapter_name: The adapter.
        total_steps: Number of training steps, if the configuration does not say it.

    Raises:
        UnknownAdapterError: there is no such adapter.
        ValueError: it is not an AdaLoRA, or the number of steps is not known or too small.
    """

    def __init__(self, model: Any, adapter_name: str, total_steps: int | None = None) -> None:
        adapter = cast(AdapterRegistry, model._adapter_registry)[adapter_name]
        self._modules = [module for module in adapter.modules() if isinstance(module, AdaLoRA)]
        if not isinstance(adapter.config, AdaLoRAConfig):
            raise ValueError(f"{adapter_name!r} is no AdaLoRA: its configuration is a {type(adapter.config).__name__}.")
        self._config = adapter.config
        steps = total_steps or self._config.total_steps
        if steps is None:
            raise ValueError(
                "The number of training steps is not known: AdaLoRAConfig(total_steps=...), or "
                "RankAllocator(model, name, total_steps=...)."
            )
        if steps <= self._config.warmup_steps + self._config.final_steps:
            raise ValueError(
                f"Of {steps} steps, warmup_steps={self._config.warmup_steps} and final_steps="
                f"{self._config.final_steps} leave none in which ranks are reduced."
            )
        self.total_steps = steps
        self._means: list[dict[str, Tensor]] = [{} for _ in self._modules]
        self._deviations: list[dict[str, Tensor]] = [{} for _ in self._modules]
        self._kept: list[Tensor] | None = None

    @property
    def ranks(self) -> list[int]:
        """The number of singular values that are not zero, of each matrix."""
        return [int(module.lora_E.count_nonzero()) for module in self._modules]

    def budget(self, step: int) -> int:
        """How many singular values there may be after a step, in all matrices together.

        >>> [allocator.budget(step) for step in (0, 500, 1000)]
        [288, 204, 192]
        """
        config = self._config
        first = sum(len(module.lora_E) for module in self._modules)
        last = config.target_r * sum(len(module.sizes) for module in self._modules)
        length = self.total_steps - config.warmup_steps - config.final_steps
        done = min(max((step - config.warmup_steps) / length, 0.0), 1.0)
        return round(min(last, first) + max(first - last, 0) * (1.0 - done) ** 3)

    def regularisation(self) -> Tensor:
        """What is added to the loss, so that P and Q stay near orthogonal: the mean over all matrices. Shape: ()."""
        terms = [module.orthogonality() for module in self._modules]
        return self._config.orthogonality_weight * torch.stack(terms).mean()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the gradients of a step, and prune: to be called after `optimizer.step()`, before `zero_grad()`.

        Args:
            step: The number of the step, from 0.

        Raises:
            ValueError: there are no gradients.
        """
        scores = [self._score(i, module) for i, module in enumerate(self._modules)]
        if step < self._config.warmup_steps:
            return
        is_final = step >= self.total_steps - self._config.final_steps - 1
        if not is_final:
            if (step - self._config.warmup_steps) % self._config.interval:
                return
            self._kept = None
        kept = self._kept or _largest(scores, self.budget(step + 1))
        self._kept = kept if is_final else None
        for module, mask in zip(self._modules, kept, strict=True):
            module.lora_E.mul_(mask[:, None].to(module.lora_E.dtype))

    def state_dict(self) -> dict[str, Any]:
        """What is to be kept to go on later."""
        return {"means": self._means, "deviations": self._deviations, "kept": self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._means, self._deviations, self._kept = state["means"], state["deviations"], state["kept"]

    def _score(self, i: int, module: AdaLoRA) -> Tensor:
        """The importance of each singular value of a matrix, with the gradients of this step. Shape: (n·r,)."""
        scores = {}
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.grad is None:
                raise ValueError("There are no gradients: call update after loss.backward(), before zero_grad().")
            sensitivity = (parameter * parameter.grad).abs().float()
            mean = self._means[i].setdefault(name, torch.zeros_like(sensitivity))
            mean.lerp_(sensitivity, 1 - self._config.beta1)
            deviation = self._deviations[i].setdefault(name, torch.zeros_like(sensitivity))
            deviation.lerp_((sensitivity - mean).abs(), 1 - self._config.beta2)
            scores[name] = mean * deviation
        return module.triplet_scores(scores)


def _largest(scores: list[Tensor], count: int) -> list[Tensor]:
    """Which scores are among the largest of all. Shapes: (n·r,), kept."""
    # On the CPU, for matrices may be on several devices.
    together = torch.cat([score.cpu() for score in scores])
    chosen = torch.zeros_like(together, dtype=torch.bool)
    chosen[together.topk(count).indices] = True
    parts = torch.split(chosen, [len(score) for score in scores])
    return [part.to(score.device) for part, score in zip(parts, scores, strict=True)]
