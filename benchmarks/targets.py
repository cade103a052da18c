"""What each case may cost at most, and what `adapters` 1.3 cost when it was first measured (on another machine)."""

from __future__ import annotations

AT_MOST = {
    "bert-base/1x16 seq_bn": 1.02,
    "bert-base/1x16 double_seq_bn": 1.03,
    "bert-base/1x16 par_bn, reduction 16": 1.02,
    "bert-base/1x16 compacter": 1.05,
    "bert-base/1x16 lora r 8 (q, v)": 1.025,
    "bert-base/1x16 lora merged": 1.01,
    "bert-base/1x16 ia3": 1.015,
    "bert-base/1x16 dora": 1.04,
    "bert-base/1x16 vera": 1.03,
    "bert-base/1x16 prefix 30": 1.02,
    "bert-base/1x16 prefix 30 flat": 1.02,
    "bert-base/1x16 prompt 10": 1.625,
    "bert-base/1x16 loreft": 1.06,
    "bert-6x384/1x16 lora r 8 (q, v)": 1.055,
    **{
        f"bert-base/8x128 {method}": 1.02
        for method in ("lora r 8 (q, v)", "lora merged", "ia3", "dora", "vera", "prefix 30", "prefix 30 flat", "loreft")
    },
    "bert-base/8x128 prompt 10": 1.078,
    "bert-base/8x128 seq_bn": 1.015,
    "bert-base/8x128 double_seq_bn": 1.015,
    "bert-base/8x128 par_bn, reduction 16": 1.015,
    "bert-base/8x128 compacter": 1.015,
    "bert-6x384/1x16 seq_bn": 1.05,
    **{f"32 rows × 32 adapters, {method}, 32×16, over one adapter": 1.05 for method in ("seq_bn", "lora")},
    **{f"32 rows × 32 adapters, {method}, 32×64, over one adapter": 1.03 for method in ("seq_bn", "lora")},
    "32 of 1000 resident, seq_bn, over 32 of 32": 1.02,
    **{f"Parallel of 2, {method}, 1×16, over the bare 2-fold batch": 1.08 for method in ("seq_bn", "lora")},
    **{f"Parallel of 8, {method}, 1×16, over the bare 8-fold batch": 1.05 for method in ("seq_bn", "lora")},
    **{
        f"Parallel of 8, {method}, 1×16, lower half dropped, over the bare 8-fold batch": 0.65
        for method in ("seq_bn", "lora")
    },
    "Fuse of 3, 8×64, over bare": 1.38,
    "Fuse of 8, 8×64, over bare": 1.45,
    "switch the active adapter (first), 1000 loaded": 1.0,
    "add_adapter number 300, over number 1": 1.5,
    "size on disk": 3.6,
    "left after deleting 20: parameters": 0.0,
    "left after deleting 20: live tensors": 0.0,
    "import adapters, over import transformers": 1.15,
    "import adapters, over torch and a transformers model": 1.15,
}

# The noise of the measurement: "costs nothing" is at most 1.01, "no slower than the peer" at most 1.01 times the peer.
NOISE = 1.01
FREE_TITLES = (
    "init only",
    "added, not active (1)",
    "added, not active (10)",
    "added, not active (100)",
    "seq_bn of 100 loaded, over seq_bn of 1",
)

EARLIER = {
    "bert-base/1x16 init only": 1.04,
    "bert-base/1x128 init only": 1.02,
    "bert-base/1x16 added, not active (1)": 1.03,
    "bert-base/1x16 added, not active (10)": 1.03,
    "bert-base/1x16 added, not active (100)": 1.03,
    "bert-base/1x128 added, not active (1)": 1.02,
    "bert-base/1x16 seq_bn": 1.115,
    "bert-base/1x128 seq_bn": 1.046,
    "bert-base/8x128 seq_bn": 1.004,
    "bert-base/1x16 double_seq_bn": 1.125,
    "bert-base/1x128 double_seq_bn": 1.060,
    "bert-base/8x128 double_seq_bn": 1.048,
    "bert-base/1x16 par_bn, reduction 16": 1.109,
    "bert-base/1x128 par_bn, reduction 16": 1.051,
    "bert-base/8x128 par_bn, reduction 16": 1.016,
    "bert-base/1x16 compacter": 1.304,
    "bert-base/1x128 compacter": 1.102,
    "bert-base/8x128 compacter": 1.105,
    "bert-base/1x16 lora r 8 (q, v)": 1.104,
    "bert-base/1x128 lora r 8 (q, v)": 1.030,
    "bert-base/8x128 lora r 8 (q, v)": 1.012,
    "bert-base/1x16 lora merged": 1.038,
    "bert-base/1x128 lora merged": 1.005,
    "bert-base/8x128 lora merged": 1.021,
    "bert-base/1x16 ia3": 1.112,
    "bert-base/1x128 ia3": 1.033,
    "bert-base/8x128 ia3": 1.060,
    "bert-base/1x16 dora": 1.319,
    "bert-base/1x128 dora": 1.096,
    "bert-base/8x128 dora": 1.043,
    "bert-base/1x16 prefix 30": 1.293,
    "bert-base/1x128 prefix 30": 1.102,
    "bert-base/8x128 prefix 30": 1.120,
    "bert-base/1x16 prefix 30 flat": 1.105,
    "bert-base/1x128 prefix 30 flat": 1.035,
    "bert-base/8x128 prefix 30 flat": 1.032,
    "bert-base/1x16 prompt 10": 1.440,
    "bert-base/1x128 prompt 10": 1.103,
    "bert-base/8x128 prompt 10": 1.098,
    "bert-base/1x16 loreft": 1.281,
    "bert-base/1x128 loreft": 1.075,
    "bert-base/8x128 loreft": 1.019,
    "bert-6x384/1x16 lora r 8 (q, v)": 1.26,
    "llama-8x512/1x16 lora r 8 (q, v)": 1.11,
    "llama-8x512/1x16 prefix 30": 1.40,
    "llama-8x512/1x16 dora": 1.31,
    "t5-small/1x16 lora r 8 (q, v)": 1.16,
    "t5-small/1x16 prefix 30": 1.53,
    "t5-small/1x16 dora": 1.36,
    "bert-6x384/1x16 seq_bn": 1.28,
    "llama-8x512/1x16 seq_bn": 1.16,
    "t5-small/1x16 seq_bn": 1.16,
    "init()": 160.0,
    "add_adapter number 1": 7.1,
    "set_active_adapters, 1 loaded": 0.4,
    "set_active_adapters, 100 loaded": 6.5,
    "save_adapter": 5.6,
    "load_adapter, 1 loaded": 13.5,
    "load_adapter, 100 loaded": 74.0,
    "size on disk": 3.58,
}


def limit(case: str, peer: float | None) -> float | None:
    """The most that the case may cost, or None if no target is set (or it is the peer's, which was not measured).

    >>> limit("bert-base/1x16 seq_bn", peer=1.11)
    1.02
    """
    if case.startswith("training") and "full fine-tuning" not in case:
        return peer if peer is None or case.endswith("activations kept") else NOISE * peer
    return NOISE if case.endswith(FREE_TITLES) else AT_MOST.get(case)
