"""Runs: from a data file to a trained adapter. One configuration holds a run; the program `adapters` uses this."""

from .config import RunConfig as RunConfig
from .errors import RunError as RunError
