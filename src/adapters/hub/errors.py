"""What can go wrong between a name and the files of an adapter."""

from __future__ import annotations

from collections.abc import Sequence


class HubError(OSError, ValueError):
    """An adapter cannot be found, fetched or published. AdapterHub raised either of the two bases."""


class AdapterNotFoundError(HubError):
    """No adapter has this name, for this model and configuration."""


class AmbiguousAdapterError(HubError):
    """Several adapters have this name.

    Args:
        message: What was asked.
        candidates: The names that say which one.
    """

    def __init__(self, message: str, candidates: Sequence[str]) -> None:
        super().__init__(f"{message} It may be:\n" + "\n".join(f"  {name}" for name in candidates))
        self.candidates = tuple(candidates)

    def __reduce__(self) -> tuple[object, ...]:
        return _ambiguous, (str(self), self.candidates)


def _ambiguous(text: str, candidates: tuple[str, ...]) -> AmbiguousAdapterError:
    error = AmbiguousAdapterError("", candidates)
    error.args = (text,)
    return error


class DownloadError(HubError):
    """Something could not be downloaded whole."""


class ChecksumError(DownloadError):
    """A file is not the one that was published."""


class OfflineError(DownloadError):
    """It would have to be downloaded, and downloads are switched off."""


class CardError(HubError):
    """An adapter card, or another file of a hub, does not say what it should."""
