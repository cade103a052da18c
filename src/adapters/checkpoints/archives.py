"""Adapters in zip and tar archives: unpacked without writing outside of a folder, and checked against checksums."""

from __future__ import annotations

import bz2
import contextlib
import errno
import functools
import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TypeAlias, cast

from .errors import AdapterFileError, first_line, raised
from .limits import FREE_BYTES, current_limits

_CHUNK = 1 << 20
_HEADER_BYTES = 1 << 20  # what may stand between two files of a tar archive: long names, times
_BYTE_LIMITS = "archive_bytes=..., archive_ratio"
_OF_A_DRIVE = re.compile(r"[A-Za-z]:")
_ALGORITHMS = {"sha256": 64, "sha1": 40}  # with the digits of their checksums
_COMPRESSED: dict[bytes, Callable[[Path], IO[bytes]]] = {
    b"\x1f\x8b": cast("Callable[[Path], IO[bytes]]", gzip.open),
    b"BZh": cast("Callable[[Path], IO[bytes]]", bz2.open),
    b"\xfd7zXZ\x00": cast("Callable[[Path], IO[bytes]]", lzma.open),
}

Member: TypeAlias = "tuple[str, int, Callable[[], IO[bytes]]]"
"""A file of an archive: its name, the size that it says it has, and what opens it."""


# -- checksums ------------------------------------------------------------------------------------------------------


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """The checksum of a file, with its kind in front.

    >>> checksum(Path("sst-2.zip"))
    'sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'

    Args:
        path: The file.
        algorithm: `"sha256"`, or `"sha1"` as early hubs used it.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return f"{algorithm}:{digest.hexdigest()}"


def verify_checksum(path: Path, expected: str) -> None:
    """Raise if a file is not the one that a checksum was made of.

    >>> verify_checksum(Path("sst-2.zip"), "sha1:2fd4e1c67a2d28fced849ee1bb76e7391b93eb12")

    Args:
        path: The file.
        expected: `sha256:` or `sha1:` and the hexadecimal digits; digits alone are told apart by their number.

    Raises:
        AdapterFileError: it is another file, or it was cut off or changed on its way.
        ValueError: what is expected is no checksum.
    """
    kind, _, digits = expected.strip().lower().rpartition(":")
    kind = kind or next((name for name, length in _ALGORITHMS.items() if length == len(digits)), "")
    if _ALGORITHMS.get(kind) != len(digits) or set(digits) - set("0123456789abcdef"):
        raise ValueError(f"{expected!r} is no checksum; give 'sha256:' and 64, or 'sha1:' and 40 hexadecimal digits.")
    found = checksum(path, kind)
    if found != f"{kind}:{digits}":
        raise AdapterFileError(
            f"{path} has the checksum {found}, and {kind}:{digits} was expected: it is another file, or it was cut "
            "off or changed on its way."
        )


# -- archives -------------------------------------------------------------------------------------------------------


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar archive, by what it holds and not by its name."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(265)
    return start[:4] == b"PK\x03\x04" or start[257:262] == b"ustar" or _opener(start) is not None


def extracted(archive: Path, target: Path) -> Path:
    """Unpack a zip or tar archive into a new folder, wholly or not at all.

    >>> folder = extracted(Path("sst-2.zip"), cache / "sst-2")

    Only plain files are unpacked, within the folder. Sizes are limited (`file_limits`).

    Args:
        archive: The archive: zip, or tar, also packed by gzip, bzip2 or xz.
        target: The folder, which is made. If another process makes it meanwhile, its folder is kept.

    Returns:
        The folder.

    Raises:
        AdapterFileError: the archive is cut off or none, is too large, holds links or devices, or files that would be
            outside of the folder. Nothing is left of it then.
        FileExistsError: the folder is there and holds something.
    """
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if target.exists():
        raise FileExistsError(f"{target} is there already; archives are unpacked into a new folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:64]}.", suffix=".tmp"))
    try:
        _unpack(archive, temporary)
        temporary.chmod(0o755)
        try:
            os.rename(temporary, target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def content_folder(folder: Path) -> Path:
    """Where in an unpacked archive the files are: many archives hold one folder with all of them."""
    while len(found := list(folder.iterdir())) == 1 and found[0].is_dir():
        folder = found[0]
    return folder


@contextlib.contextmanager
def as_folder(path: Path) -> Iterator[Path]:
    """The files of an adapter, for as long as the `with` block lasts.

    Args:
        path: A folder, which is given as it is, or an archive, which is unpacked.

    Raises:
        AdapterFileError: it is a file, but no archive that can be unpacked.
    """
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="adapters-") as temporary:
        yield content_folder(extracted(path, Path(temporary) / "files"))


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with archive.open("rb") as file:
            start = file.read(265)
        allowed = _allowed_bytes(archive)
        members = _in_zip(archive) if start[:4] == b"PK\x03\x04" else _in_tar(archive, start, allowed)
        with contextlib.closing(members):
            _write(members, folder, archive, allowed)
    except (AdapterFileError, FileNotFoundError):
        raise
    except OSError as error:
        if error.errno not in (None, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):  # of the disk, not of the archive
            raise
        raise _unreadable(archive, error) from None
    except Exception as error:  # what zipfile, tarfile and the unpackers raise for broken files
        raise _unreadable(archive, error) from None


def _write(members: Iterator[Member], folder: Path, archive: Path, allowed: int) -> None:
    """Write the files of an archive to a folder, chunk by chunk: the sizes that they say they have may be lies."""
    limits, written = current_limits(), 0
    seen: set[Path] = set()
    for number, (name, size, opened) in enumerate(members):
        path = folder.joinpath(*_parts_of(name, archive))
        if path == folder:
            raise AdapterFileError(f"{archive} holds a file without a name; it is not unpacked.")
        if number >= limits.archive_files:
            raise _too_large(archive, f"more than {limits.archive_files} files", "archive_files")
        if path.exists() or not seen.isdisjoint(path.parents):
            raise AdapterFileError(f"{archive} holds {name!r} twice; it is not unpacked.")
        seen.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if written + size > allowed:
            raise _too_large(archive, f"more than {allowed} bytes", _BYTE_LIMITS)
        with opened() as source, path.open("xb") as file:
            while chunk := source.read(_CHUNK):
                written += len(chunk)
                if written > allowed:
                    raise _too_large(archive, f"more than {allowed} bytes", _BYTE_LIMITS)
                file.write(chunk)
    if not seen:
        raise AdapterFileError(f"{archive} holds no files.")


def _in_zip(archive: Path) -> Generator[Member]:
    """The files of a zip archive."""
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            if info.is_dir() or info.filename.startswith("__MACOSX/"):
                _parts_of(info.filename, archive)
                continue
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                raise _no_file(archive, info.filename)
            if info.flag_bits & 1:
                raise AdapterFileError(f"{archive} is encrypted; it is not unpacked.")
            yield info.filename, info.file_size, functools.partial(packed.open, info)


def _in_tar(archive: Path, start: bytes, allowed: int) -> Generator[Member]:
    """The files of a tar archive, which is read once from its beginning to its end."""
    with (_opener(start) or _plainly)(archive) as source:
        stream = _Metered(source, archive)
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as packed:
            while (info := packed.next()) is not None:
                if info.isdir():
                    _parts_of(info.name, archive)
                    continue
                if not info.isreg() or info.issparse():
                    raise _no_file(archive, info.name)
                stream.left = min(info.size, allowed) + _HEADER_BYTES
                yield info.name, info.size, functools.partial(_opened, packed, info)
                stream.left = _HEADER_BYTES  # else a header could claim to be as long as memory
        if any(stream.last[-512:]):
            raise AdapterFileError(f"{archive} has no end: it was cut off.")


def _plainly(path: Path) -> IO[bytes]:
    return path.open("rb")


def _opened(packed: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    return cast("IO[bytes]", packed.extractfile(info))


class _Metered:
    """A file of which only so many bytes can be read.

    Args:
        source: The file.
        archive: Its name, for messages.
    """

    def __init__(self, source: IO[bytes], archive: Path) -> None:
        self._source, self._archive = source, archive
        self.left = _HEADER_BYTES
        self.last = b""

    def read(self, size: int) -> bytes:
        """The next bytes."""
        self.left -= size
        if self.left < 0:
            raise AdapterFileError(f"{self._archive} has a header that is too long; it is not unpacked.")
        data = self._source.read(size)
        self.last = data or self.last
        return data


def _parts_of(name: str, archive: Path) -> tuple[str, ...]:
    """The parts of a relative path in an archive.

    Raises:
        AdapterFileError: it would be outside of the folder, on some system.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or _OF_A_DRIVE.match(name) or "\\" in name or "\0" in name:
        raise AdapterFileError(f"{archive} holds {name!r}, a path outside of its folder; it is not unpacked.")
    return path.parts


def _allowed_bytes(archive: Path) -> int:
    limits = current_limits()
    return min(limits.archive_bytes, max(FREE_BYTES, limits.archive_ratio * archive.stat().st_size))


def _opener(start: bytes) -> Callable[[Path], IO[bytes]] | None:
    return next((opener for sign, opener in _COMPRESSED.items() if start.startswith(sign)), None)


def _no_file(archive: Path, name: str) -> AdapterFileError:
    return AdapterFileError(f"{archive} holds {name!r}, a link or device instead of a file; it is not unpacked.")


def _too_large(archive: Path, what: str, field: str) -> AdapterFileError:
    return AdapterFileError(f"{archive} holds {what}; it is not unpacked: {raised(field)}")


def _unreadable(archive: Path, error: Exception) -> AdapterFileError:
    text = f"{type(error).__name__}: {first_line(error)}".strip(": ")
    return AdapterFileError(f"{archive} cannot be read as a zip or tar archive ({text}); is it cut off?")
