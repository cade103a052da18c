"""What of an attention sees what, with a prefix in front: masks as attention functions of transformers are called with.

Shapes: T tokens, S keys, P positions of prefixes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def check(implementation: str | None, mask: Any, arguments: dict[str, Any]) -> None:
    """Refuse kinds of attention in which a prefix cannot be put in front.

    Raises:
        NotImplementedError: it is one of them.
    """
    if "cache" not in arguments and (implementation == "sdpa" or implementation == "eager"):
        return  # nearly always
    if arguments.get("cache") is not None:
        raise NotImplementedError("Prefix tuning and continuous batching (a paged cache) cannot be used together.")
    is_flash = implementation is not None and "flash" in implementation
    if implementation == "flex_attention" or not (mask is None or isinstance(mask, Tensor)):
        wrong = "flex_attention"
    elif is_flash and arguments.get("sliding_window") is not None:
        wrong = f"a sliding window in {implementation}"
    elif is_flash and arguments.get("cu_seq_lens_k") is not None:
        wrong = f"packed sequences in {implementation}"
    else:
        return
    raise NotImplementedError(
        f"Prefix tuning cannot be used with {wrong}; call model.set_attn_implementation('sdpa') first."
    )


def with_prefix(mask: Tensor, length: int) -> Tensor:
    """A mask under which every query sees the prefix too. Shape: (..., S) to (..., P + S).

    Masks of numbers are added to the scores; those of truth values or ones, also of flash attention, say what is seen.
    """
    return nn.functional.pad(mask, (length, 0), value=0.0 if mask.is_floating_point() else 1)


def is_causal_by_flag(implementation: str | None, module: nn.Module, arguments: dict[str, Any]) -> bool:
    """Whether attention without a mask looks back only, by a rule that counts keys from the first one.

    Eager functions do what the mask says and nothing else; flash attention counts keys from the last one.
    """
    if implementation is None or implementation == "eager" or "flash" in implementation:
        return False
    given = arguments.get("is_causal")
    return bool(vars(module).get("is_causal", True) if given is None else given)


def causal_mask(query: Tensor, key: Tensor, length: int) -> Tensor:
    """The mask under which a token sees the prefix, the tokens before it and itself. Shape: (1, 1, T, P + S)."""
    seen = torch.ones(query.shape[2], length + key.shape[2], dtype=torch.bool, device=query.device)
    return seen.tril(length)[None, None]


def with_unseen(mask: Tensor | None, seen: Tensor, query: Tensor, key: Tensor, implementation: str | None) -> Tensor:
    """A mask under which rows do not see some positions of the prefix.

    Args:
        mask: The mask, with those positions; None if all is seen. Shape: (1 or B, 1 or H, 1 or T, P + S).
        seen: Which are seen. Shape: (B, P).
        query: The queries. Shape: (B, H, T, d).
        key: The keys without the prefix. Shape: (B, K, S, d).
        implementation: The name of the attention function: that of flash attention takes masks of (B, P + S).
    """
    rows, length = seen.shape
    columns = length + key.shape[2]
    if mask is None and implementation is not None and "flash" in implementation:
        mask = seen.new_ones(rows, columns, dtype=torch.long)
    elif mask is None:  # of numbers, because eager functions add it to the scores
        mask = query.new_zeros(1, 1, query.shape[2], columns)
    if mask.ndim == 2:  # that of flash attention
        own = torch.where(seen, mask[:, :length], torch.zeros_like(mask[:, :length]))
        return torch.cat([own, mask[:, length:]], -1)
    mask = mask.expand(rows, *mask.shape[1:])
    blocked = torch.finfo(mask.dtype).min if mask.is_floating_point() else 0
    own = mask[..., :length].masked_fill(~seen[:, None, None], blocked)
    return torch.cat([own, mask[..., length:]], -1)


def biases_of_rows(biases: Tensor, seen: Tensor) -> Tensor:
    """Biases by the place of a key, for rows that see a part of the prefix: their tokens are counted from its end on.

    Args:
        biases: Those of a row that sees it all. Shape: (1, H, T, P + S).
        seen: Which positions of the prefix a row sees, its first ones. Shape: (B, P).

    Returns:
        Shape: (B, H, T, P + S).
    """
    length = seen.shape[1]
    tokens = biases.shape[3] - length
    places = seen.sum(1, keepdim=True) + torch.arange(tokens, device=seen.device)  # (B, S)
    of_tokens = biases[0][..., places].permute(2, 0, 1, 3)
    return torch.cat([biases[..., :length].expand(len(seen), -1, -1, -1), of_tokens], dim=3)
