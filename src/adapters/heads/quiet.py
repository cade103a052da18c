"""Pipelines of transformers know the classes of transformers, and log an error for all others, which work as well."""

from __future__ import annotations

import logging
import re

_OF_OURS = re.compile(r"The model '\w+AdapterModel' is not supported for ")


class _NotOfOurs(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return _OF_OURS.match(record.getMessage()) is None


logging.getLogger("transformers.pipelines.base").addFilter(_NotOfOurs())
