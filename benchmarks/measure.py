"""Timing in interleaved pairs, and the JSON lines that carry the results.

Imports nothing but the standard library and torch, so that it runs unchanged under every library measured.
"""

from __future__ import annotations

import gc
import json
import logging
import statistics
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

import torch

Call = Callable[[], Any]


def quiet_single_thread() -> None:
    """One thread, repeatable random weights, and no log lines inside what is timed."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.disable(logging.WARNING)


def clock(call: Call) -> float:
    """Seconds that one call takes."""
    start = perf_counter()
    call()
    return perf_counter() - start


def paired_ratios(reference: Call, candidate: Call, seconds: float, least: int = 9, most: int = 400) -> list[float]:
    """Time reference, candidate, reference, candidate … for about `seconds`; give candidate / reference of each pair.

    Neighbours in time see the same machine, so what drifts (clock speed, other users of the machine) cancels in each
    ratio, and the median of them drops the pairs that a stall hit on one side only.
    """
    warm_until = perf_counter() + min(1.0, seconds / 10)
    for warmed in range(50):
        if warmed >= 2 and perf_counter() > warm_until:
            break
        reference()
        candidate()
    gc.collect()
    stop = perf_counter() + seconds
    ratios: list[float] = []
    while len(ratios) < least or (len(ratios) < most and perf_counter() < stop):
        before = clock(reference)
        ratios.append(clock(candidate) / before)
    return ratios


def emit(case: str, unit: str, values: Iterable[float]) -> None:
    """Print one result as a JSON line: median, quartiles and number of the values. Units: x, ms, MB, n."""
    values = list(values)
    first, median, third = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    quartiles = {"median": round(median, 5), "q1": round(first, 5), "q3": round(third, 5)}
    print(json.dumps({"case": case, "unit": unit, **quartiles, "n": len(values)}), flush=True)


def emit_error(case: str, error: Exception) -> None:
    """Print that a case could not be run here, and why."""
    print(json.dumps({"case": case, "error": f"{type(error).__name__}: {error}"[:300]}), flush=True)
