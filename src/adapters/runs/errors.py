"""What is wrong with the input of a run."""

from __future__ import annotations


class RunError(ValueError):
    """Something in a configuration or a data file is not as it should be; the message is one line for its author."""
