"""Prefixes in attention that a module computes itself, where keys cannot be made longer from outside.

Relative positions and masks belong to tokens, so the scores of prefixes are kept beside those of tokens:
softmax([s · q pkᵀ, scores]) is the share of each, and [share of prefixes] pv is added to what the tokens give.

Shapes: B rows, T tokens, S keys, P positions of prefixes, H heads, d size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .masks import biases_of_rows

_PRODUCTS = frozenset({torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm})
_ADDED_PRODUCTS = frozenset({torch.baddbmm, Tensor.baddbmm})
_SOFTMAX = frozenset({functional.softmax, torch.softmax, Tensor.softmax})


class PrefixedScores(TorchFunctionMode):
    """Within this block: softmax(s · q kᵀ + …) v has prefixes in front of keys and values, for one attention.

    What is looked for: the first product of two batches of matrices that gives as many numbers as the softmax reads,
    that softmax, a dropout of what it gives, and the product of that with the values.

    Args:
        keys: Keys of the prefixes. Shape: (B, H, P, d).
        values: Their values. Shape: (B, H, P, d).
        scale: What the product is multiplied with afterwards.
        biases: If prefixes have biases of relative positions as tokens have: from the numbers of queries and of keys,
            with those of prefixes, to the biases. Shape: (1, H, T, P + S).
        seen: Which of its positions a row sees; None if all. Shape: (B, P).
    """

    def __init__(
        self,
        keys: Tensor,
        values: Tensor,
        scale: float,
        biases: Callable[[int, int], Tensor] | None = None,
        seen: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.seen = seen
        self.keys, self.values, self.scale, self.biases = keys, values, scale, biases
        self.products: list[tuple[Tensor, Tensor]] = []
        self.share: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _PRODUCTS:
            return self._product(func(*args, **kwargs), args[0])
        if func in _ADDED_PRODUCTS:
            return self._product(func(*args, **kwargs), kwargs["batch1"] if "batch1" in kwargs else args[1])
        if func in _SOFTMAX and self.products:
            return self._softmax(func, args, kwargs)
        if func is functional.dropout and self.share is not None:
            self.share = func(self.share, *args[1:], **kwargs)
        return func(*args, **kwargs)

    def _product(self, result: Tensor, left: Tensor) -> Tensor:
        """After a product: keep it as a possible q kᵀ, or add what the prefixes give if it is that with the values."""
        if self.share is None:
            if left.shape[-1] == self.keys.shape[-1]:
                self.products.append((left, result))
            return result
        share, self.share = self.share, None
        given = share.to(self.values.dtype).reshape(*self.values.shape[:2], -1, share.shape[-1]) @ self.values
        return result + given.reshape(result.shape).to(result.dtype)

    def _softmax(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        """The shares of tokens, after those of prefixes are kept. Shape: (B, H, T, S) or (B·H, T, S), kept."""
        scores: Tensor = args[0]
        query = next(left for left, result in self.products if result.numel() == scores.numel())
        self.products.clear()
        # Rows and heads may be one dimension, of queries or of scores.
        keys = self.keys.to(query.dtype).transpose(-1, -2)
        own = self.scale * (query.reshape(*keys.shape[:2], -1, query.shape[-1]) @ keys)
        if self.seen is not None:
            unseen = ~self.seen.expand(own.shape[0], -1)[:, None, None]
            own = own.masked_fill(unseen, torch.finfo(own.dtype).min)
        own = own.reshape(*scores.shape[:-1], -1)
        if self.biases is not None:  # those in the scores are the first ones, which belong to the prefix
            tokens, length = scores.shape[-1], own.shape[-1]
            biases = self.biases(scores.shape[-2], length + tokens)
            given = biases[..., :tokens]
            if self.seen is not None:
                biases = biases_of_rows(biases, self.seen)
            own, scores = own + biases[..., :length], scores + (biases[..., length:] - given)
        joint: Tensor = func(torch.cat([own.to(scores.dtype), scores], dim=-1), *args[1:], **kwargs)
        length = own.shape[-1]
        self.share = joint[..., :length]
        return joint[..., length:]
