"""Files from elsewhere: archives are unpacked into one folder only, checksums are compared, sizes are limited."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.checkpoints.archives import checksum, content_folder, extracted, is_archive, verify_checksum
from adapters.checkpoints.files import AdapterFileError
from adapters.checkpoints.limits import file_limits

Files = dict[str, bytes]
FILES: Files = {"adapter_config.json": b"{}", "inner/weights.bin": bytes(range(256)) * 9}


def zipped(path: Path, files: Files) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)


def tarred(mode: str) -> Callable[[Path, Files], None]:
    def write(path: Path, files: Files) -> None:
        with tarfile.open(path, mode) as packed:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                packed.addfile(info, io.BytesIO(content))

    return write


KINDS = {
    "zip": zipped,
    "tar": tarred("w"),
    "tar.gz": tarred("w:gz"),
    "tar.bz2": tarred("w:bz2"),
    "tar.xz": tarred("w:xz"),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def contents(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(archive: Path, message: str) -> None:
    """It is not unpacked, and nothing is left of it, in the folder or beside it."""
    before = contents(archive.parent)
    with pytest.raises(AdapterFileError, match=message):
        extracted(archive, archive.parent / "here" / "there")
    assert contents(archive.parent) == before and not list((archive.parent / "here").iterdir())


# -- archives -------------------------------------------------------------------------------------------------------


@every_kind
def test_archives(kind: str, tmp_path: Path) -> None:
    archive = tmp_path / "named.anyhow"
    KINDS[kind](archive, FILES)
    assert is_archive(archive) and not is_archive(tmp_path)
    folder = extracted(archive, tmp_path / "new" / "folder")
    assert contents(folder) == FILES and folder == tmp_path / "new" / "folder"
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    with pytest.raises(FileExistsError, match="is there already"):
        extracted(archive, folder)


@every_kind
@pytest.mark.parametrize(
    "name",
    ["../out", "inner/../../out", "/tmp/out", "..", "a/../../../out", "C:\\out", "..\\out", "C:out", "/", ".", ""],
)
def test_paths_outside_of_the_folder(kind: str, name: str, tmp_path: Path) -> None:
    if kind == "zip" and not name:
        pytest.skip("zipfile writes no such name")
    KINDS[kind](tmp_path / "x", {**FILES, name: b"trap"})
    refused(tmp_path / "x", "outside of its folder|without a name|cannot be read")


@pytest.mark.parametrize("linked", ["/etc/passwd", "../../out", "adapter_config.json"])
@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "FIFOTYPE", "GNUTYPE_SPARSE"])
def test_links_and_devices_in_tar(kind: str, linked: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x", "w") as packed:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = getattr(tarfile, kind), linked
        packed.addfile(info)
    refused(tmp_path / "x", "link or device")


def test_links_in_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w") as packed:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(info, "/etc/passwd")
    refused(tmp_path / "x", "link or device")


@every_kind
def test_bombs(kind: str, tmp_path: Path) -> None:
    """What is much larger than its archive, or simply too large, or too many."""
    zeros = b"\0" * (2 << 20)
    KINDS[kind](tmp_path / "x", {str(i): zeros for i in range(3)})
    with file_limits(archive_bytes=5 << 20):
        refused(tmp_path / "x", "more than 5242880 bytes.*file_limits")
    with file_limits(archive_files=2):
        refused(tmp_path / "x", "more than 2 files.*file_limits")
    assert len(contents(extracted(tmp_path / "x", tmp_path / "all"))) == 3
    if kind != "tar":
        KINDS[kind](tmp_path / "bomb", {str(i): b"\0" * (10 << 20) for i in range(7)})
        refused(tmp_path / "bomb", "more than .* bytes")


def test_sizes_that_are_lies(tmp_path: Path) -> None:
    """A zip archive may say that a file is small, and a tar archive that a header is large."""
    zipped(tmp_path / "x", {"a": b"\0" * 100_000})
    data = bytearray((tmp_path / "x").read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = (1).to_bytes(4, "little")
    (tmp_path / "x").write_bytes(data)
    refused(tmp_path / "x", "cannot be read")
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "y").write_bytes(info.tobuf() + b"\0" * 4_000_000)
    refused(tmp_path / "y", "header that is too long|cannot be read")


@every_kind
def test_archives_that_are_cut_off_or_changed(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / "whole", {"a": os.urandom(50_000), **FILES})
    whole = (tmp_path / "whole").read_bytes()
    for keep in range(0, min(len(whole) - 1200, 54_000), 2_500):  # tar archives end in zeros
        (tmp_path / "x").write_bytes(whole[:keep])
        refused(tmp_path / "x", "cannot be read|has no end")


def test_something_else_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nonsense" * 100)
    assert not is_archive(tmp_path / "x")
    refused(tmp_path / "x", "cannot be read as a zip or tar archive")


def test_names_that_collide(tmp_path: Path) -> None:
    tarred("w")(tmp_path / "x", {"a": b"1", "a/b": b"2"})
    refused(tmp_path / "x", "twice")
    tarred("w")(tmp_path / "x", {"a/b": b"1", "a": b"2"})
    refused(tmp_path / "x", "twice")
    tarred("w")(tmp_path / "x", {"a/b": b"1", "./a/b": b"2"})
    refused(tmp_path / "x", "twice")


def test_folder_within_an_archive(tmp_path: Path) -> None:
    """Archives often hold one folder; what macOS adds beside it is left out."""
    zipped(tmp_path / "x", {"sst-2/a.json": b"1", "sst-2/b/c": b"2", "__MACOSX/sst-2/._a.json": b"3"})
    assert content_folder(extracted(tmp_path / "x", tmp_path / "y")) == tmp_path / "y" / "sst-2"


# -- checksums ------------------------------------------------------------------------------------------------------


def test_checksums(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    sha1, sha256 = checksum(path, "sha1"), checksum(path)
    assert sha1 == "sha1:a9993e364706816aba3e25717850c26c9cd0d89d"
    assert sha256 == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for expected in (sha1, sha256, sha256.upper(), sha1[5:], f" {sha256[7:]}\n"):
        verify_checksum(path, expected)
    path.write_bytes(b"abd")
    for expected in (sha1, sha256[7:]):
        with pytest.raises(AdapterFileError, match=r"has the checksum sha.*was expected.*changed on its way"):
            verify_checksum(path, expected)
    for expected in ("", "abc", "md5:" + "0" * 32, "sha256:" + "0" * 40, "sha1:" + "g" * 40):
        with pytest.raises(ValueError, match="is no checksum"):
            verify_checksum(path, expected)
