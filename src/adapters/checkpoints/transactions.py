"""Several files that are written together: at every moment all old ones or all new ones are there.

New files are written to a temporary folder beside the old ones. Then one file, the journal, says which of them take
which place; from the moment that it is there, the new files count. They are renamed, and the journal is removed. A
process that is killed before leaves the old files, and one that is killed afterwards leaves a journal: whoever reads
follows it, and whoever writes next does what it says. Files that are not written stay as they are.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .limits import current_limits

try:
    import fcntl
except ImportError:  # not on Windows: there, two processes should not write into one folder at once
    fcntl = None  # type: ignore[assignment]

JOURNAL = ".adapters-journal.json"
_TEMPORARY = ".adapters-tmp"
_PATIENCE = 60.0  # seconds to wait for another process that writes into the same folder

T = TypeVar("T")


@dataclass(frozen=True)
class _Journal:
    """What is left to do in a folder, by paths in it: temporary files to be renamed, and files to be removed."""

    renamed: Mapping[str, str]
    removed: frozenset[str]


@dataclass
class _Transaction:
    folder: Path
    staged: dict[Path, Path] = field(default_factory=dict)
    removed: set[Path] = field(default_factory=set)
    made: list[Path] = field(default_factory=list)
    places: dict[Path, Path] = field(default_factory=dict)  # the temporary folders, by those that they are in
    locks: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def prepare(self, folder: Path) -> None:
        """Make a folder ready to be written to: it is there, is ours alone, and nothing is left to do in it."""
        if folder in self.places:
            return
        if folder != self.folder:
            self.prepare(self.folder)  # always the outer one first, so that nobody waits for each other
        missing = [f for f in (folder, *folder.parents) if not f.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self.made += missing[::-1]
        place = folder / f".{secrets.token_hex(4)}{_TEMPORARY}"
        if _has_files_in(_journal(folder.parent), Path(folder.name)):
            with _locked(folder.parent, is_shared=False):
                _finish(folder.parent, folder)
        has_lock = self.locks.enter_context(_locked(folder, is_shared=False))
        _finish(folder.parent, folder)
        _finish(folder)
        if has_lock:  # then nobody else is writing, and temporary files are those of processes that were killed
            for path in folder.glob(f".*{_TEMPORARY}"):
                shutil.rmtree(path, ignore_errors=True)
        place.mkdir()
        self.places[folder] = place

    def stage(self, path: Path, write: Callable[[Path], object]) -> None:
        """Write a file to a temporary folder."""
        self.prepare(path.parent)
        place = self.places[path.parent]
        self.staged[path] = place / path.name
        self.removed.discard(path)
        write(self.staged[path])
        self.staged[path].chmod(place.stat().st_mode & 0o666)  # what the user's umask says; some writers make it 600

    def remove(self, path: Path) -> None:
        """Let a file be gone with the others' coming."""
        self.prepare(path.parent)
        self.staged.pop(path, None)
        self.removed.add(path)

    def commit(self) -> None:
        """Put all files in their places."""
        for path in self.staged:
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a folder; a file of this name was to be written.")
        removed = {path for path in self.removed if path.exists()}
        if len(self.staged) + len(removed) > 1:
            journal = {
                "renamed": {self._named(path): self._named(temporary) for path, temporary in self.staged.items()},
                "removed": sorted(map(self._named, removed)),
            }
            self.prepare(self.folder)
            temporary = self.places[self.folder] / JOURNAL
            temporary.write_text(json.dumps(journal), encoding="utf-8")
            os.replace(temporary, self.folder / JOURNAL)
        for path, temporary in self.staged.items():
            os.replace(temporary, path)
        for path in removed:
            path.unlink(missing_ok=True)
        (self.folder / JOURNAL).unlink(missing_ok=True)
        self._discard()

    def undo(self) -> None:
        """Remove what was written, unless it counts already."""
        if not (self.folder / JOURNAL).exists():
            self._discard()
        for folder in reversed(self.made):
            with contextlib.suppress(OSError):  # not empty, or gone
                folder.rmdir()

    def _discard(self) -> None:
        for place in self.places.values():
            shutil.rmtree(place, ignore_errors=True)

    def _named(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


_CURRENT: contextvars.ContextVar[_Transaction | None] = contextvars.ContextVar("adapter_files", default=None)


# -- writing --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def together(folder: Path) -> Iterator[None]:
    """What is written in a folder within a `with` block, by `write` and `remove`, is there when it ends, or not at all.

    Blocks may be nested: what an inner one writes is there when the outer one ends.

    Args:
        folder: The folder, which is made if it is not there; or one around all that is written to.

    Raises:
        TimeoutError: another process has been writing into the folder for a minute.
    """
    outer = _CURRENT.get()
    folder = folder.absolute()
    if outer is not None and folder.is_relative_to(outer.folder):
        yield
        return
    transaction = _Transaction(folder)
    token = _CURRENT.set(transaction)
    try:
        with transaction.locks:
            try:
                yield
                transaction.commit()
            except BaseException:
                transaction.undo()
                raise
    finally:
        _CURRENT.reset(token)


def write(path: Path, content: Callable[[Path], object]) -> None:
    """Write a file, with all others of the `together` block around.

    Args:
        path: The file.
        content: Writes it to the path that it is given.
    """
    with together(path.parent):
        _current().stage(path.absolute(), content)


def remove(path: Path) -> None:
    """Remove a file, if it is there, when all others of the `together` block around are there."""
    with together(path.parent):
        _current().remove(path.absolute())


def write_folder(folder: Path, content: Callable[[Path], object]) -> None:
    """Write files into a folder, with all others of the `together` block around. Others in the folder stay.

    Args:
        folder: The folder, which is made if it is not there.
        content: Writes the files to the new folder that it is given.
    """
    with together(folder):
        _current().prepare(folder.absolute())
        with tempfile.TemporaryDirectory(prefix=".", suffix=_TEMPORARY, dir=folder) as made:
            content(Path(made))
            for path in sorted(path for path in Path(made).rglob("*") if path.is_file()):
                write(folder / path.relative_to(made), functools.partial(os.replace, path))


def finish(folder: Path) -> None:
    """Put files in their places that a process was killed before it could, for readers that know of no journals."""
    if not (folder / JOURNAL).exists():
        return
    with contextlib.suppress(OSError), _locked(folder, is_shared=False):  # some folders can only be read
        _finish(folder)


def is_temporary(path: Path) -> bool:
    """Whether a path is what a process leaves in a folder that is killed while it writes."""
    return path.name == JOURNAL or (path.name.startswith(".") and path.name.endswith(_TEMPORARY))


def _current() -> _Transaction:
    transaction = _CURRENT.get()
    assert transaction is not None
    return transaction


# -- reading --------------------------------------------------------------------------------------------------------


def located(path: Path) -> Path | None:
    """Where a file is, or None: under its name, or in a temporary folder if whoever wrote it was killed.

    Args:
        path: The file, by its name.
    """
    for folder in (path.parent, path.parent.parent):
        journal = _journal(folder)
        if journal is not None and path.is_relative_to(folder):
            name = path.relative_to(folder).as_posix()
            if name in journal.removed:
                return None
            temporary = folder / journal.renamed.get(name, "")
            if name in journal.renamed and temporary.is_file():
                return temporary
    return path if path.is_file() else None


def consistently(folder: Path, read: Callable[[], T]) -> T:
    """What is read from the files of a folder and of those in it, all of one moment.

    Args:
        folder: The folder. If it is written to in the meantime, it is read again, and nobody may write to it then.
        read: Reads it.
    """
    before = _state(folder)
    try:
        found = read()
        if _state(folder) == before:
            return found
    except Exception:
        if _state(folder) == before:
            raise
    with contextlib.ExitStack() as locks:
        for inner in _folders(folder):
            locks.enter_context(_locked(inner, is_shared=True))
        return read()


def _state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """By which one sees that files of adapters in a folder were written: they get other numbers."""
    found = {}
    for inner in (folder.parent, *_folders(folder)):
        for path in [inner / JOURNAL] if inner == folder.parent else _listed(inner):
            if path.name.endswith(_SEEN):
                with contextlib.suppress(OSError):
                    stat = path.stat()
                    found[str(path)] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found


_SEEN = (".json", ".safetensors", ".bin", ".pt")


def _folders(folder: Path) -> list[Path]:
    return [folder, *sorted(path for path in _listed(folder) if path.is_dir())]


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


# -- journals and locks ---------------------------------------------------------------------------------------------


def _journal(folder: Path) -> _Journal | None:
    """The journal of a folder; None if there is none. It may come from elsewhere: paths outside do not count."""
    try:
        with (folder / JOURNAL).open(encoding="utf-8") as file:
            data: Any = json.loads(file.read(current_limits().json_bytes))
        renamed = {str(name): str(temporary) for name, temporary in data["renamed"].items()}
        removed = [str(name) for name in data["removed"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    pairs = {n: t for n, t in renamed.items() if _is_inside(n) and _is_temporary_of(n, t)}
    return _Journal(pairs, frozenset(name for name in removed if _is_inside(name) and name.endswith(_SEEN)))


def _has_files_in(journal: _Journal | None, folder: Path) -> bool:
    """Whether a journal has files in a folder, which is named by its path in that of the journal."""
    return journal is not None and any(
        Path(name).is_relative_to(folder) for name in (*journal.renamed, *journal.removed)
    )


def _is_inside(name: str) -> bool:
    path = Path(name)
    return bool(path.name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _is_temporary_of(name: str, temporary: str) -> bool:
    place, path = Path(temporary).parent, Path(name)
    is_ours = place.name.startswith(".") and place.name.endswith(_TEMPORARY)
    return is_ours and Path(temporary).name == path.name and place.parent == path.parent


def _finish(folder: Path, only: Path | None = None) -> None:
    """Do what the journal of a folder says.

    Args:
        folder: The folder.
        only: A folder in it: done only if the journal has files in this one.
    """
    journal = _journal(folder)
    if journal is None or (only is not None and not _has_files_in(journal, only.relative_to(folder))):
        return
    for name, temporary in journal.renamed.items():
        with contextlib.suppress(FileNotFoundError):  # done before
            os.replace(folder / temporary, folder / name)
    for name in journal.removed:
        (folder / name).unlink(missing_ok=True)
    (folder / JOURNAL).unlink(missing_ok=True)
    for place in {folder / temporary.rpartition("/")[0] for temporary in journal.renamed.values()}:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, is_shared: bool) -> Iterator[bool]:
    """Hold a lock on a folder itself, which leaves no file behind. Gives whether there is one: not on all systems."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield _wait_for(handle, folder, is_shared)
    finally:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)  # also for children that were forked in the meantime
        os.close(handle)


def _wait_for(handle: int, folder: Path, is_shared: bool) -> bool:
    if fcntl is None:
        return False
    wanted = (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, wanted)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(f"Another process has been writing to {folder} for {_PATIENCE:.0f} s.") from None
            time.sleep(0.001)
        except OSError:  # a file system without locks
            return False
