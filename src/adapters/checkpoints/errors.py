"""What is raised for files, and what is reported of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field


class AdapterFileError(ValueError):
    """A file is not what it should be: missing, torn, or of something else."""


class AdapterMismatchError(AdapterFileError):
    """The tensors of a file are not those of the adapter; the message lists all differences."""


@dataclass
class LoadReport:
    """How files differ from what they were loaded into.

    >>> report = LoadReport()
    >>> model.load_adapter("folder", strict=False, report=report)
    'sentiment'
    >>> report.missing
    ['encoder.layer.11.output.adapters.sentiment.adapter_up.bias']

    Args:
        missing: Parameters that no file holds; they keep what a new adapter starts with.
        unexpected: Tensors that there is no parameter for; they are left out.
        misshapen: Tensors of another shape or kind than their parameters, which keep what a new adapter starts with.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        lines: list[str] = []
        titled = {"Missing": self.missing, "Unexpected": self.unexpected, "Of another shape": self.misshapen}
        for title, names in titled.items():
            lines += [f"{title} ({len(names)}):", *(f"  {name}" for name in names)] if names else []
        if self.missing and all("shared_parameters" in name for name in self.missing):
            lines.append(
                "AdapterHub's adapters 1.3 lost shared parameters when it saved plain base models such as BertModel."
            )
        return "\n".join(lines)

    def add(self, other: LoadReport) -> None:
        """Take over what another report says."""
        self.missing += other.missing
        self.unexpected += other.unexpected
        self.misshapen += other.misshapen


class Problems:
    """What is wrong with several files, to be raised as one error."""

    def __init__(self) -> None:
        self._found: list[AdapterFileError] = []

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note an `AdapterFileError` of a `with` block, and go on behind it."""
        try:
            yield
        except AdapterFileError as error:
            self._found.append(error)

    def check(self) -> None:
        """Raise all that were noted, as one."""
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            all_differ = all(isinstance(error, AdapterMismatchError) for error in self._found)
            raise (AdapterMismatchError if all_differ else AdapterFileError)("\n".join(map(str, self._found)))


@contextlib.contextmanager
def read_from(source: object, *others: type[Exception]) -> Iterator[None]:
    """Raise whatever goes wrong with what a file says as an error of this file.

    Args:
        source: The file.
        *others: Errors that are not the file's.
    """
    try:
        yield
    except AdapterFileError:
        raise
    except Exception as error:  # a file from elsewhere may say anything
        if isinstance(error, others):
            raise
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {first_line(error)}"
        raise AdapterFileError(f"{source}: {text}") from None


def first_line(error: BaseException) -> str:
    """The beginning of what an error of another library says."""
    return str(error).partition("\n")[0][:200]


def raised(field: str) -> str:
    """How to allow larger files, for messages."""
    return f"if you trust it, read it within `with adapters.checkpoints.limits.file_limits({field}=...)`."
