"""What is wrong with the input of a run."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What safetensors and torch say of a disk that is full: they raise errors of their own, without a number.
_SAID = ("os error 28", "os error 27", "No space left", "inline_container.cc", "PytorchStreamWriter", "iostream error")


class RunError(ValueError):
    """Something in a configuration or a data file is not as it should be; the message is one line for its author."""


def is_disk_full(error: BaseException) -> bool:
    """Whether something could not be written because the disk, a quota or a limit on files is full."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(text in str(error) for text in _SAID)
