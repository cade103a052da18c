"""Downloads: whole or not at all, within limits, and each only once."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import Fault, Handler, Site, cut, cut_without_length, dripping, endless, redirect, silent, status

from adapters.hub import AdapterNotFoundError, ChecksumError, DownloadError, HubError, OfflineError, store
from adapters.hub.download import Limits, check_url, fetch
from adapters.hub.store import Checksums

QUICK = Limits(pause=0.01, silence=0.3)
CONTENT = bytes(range(256)) * 400


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    """An archive with one file that does not get smaller."""
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("adapter_config.json", CONTENT)
    return path.read_bytes()


def sums(body: bytes) -> Checksums:
    return Checksums(hashlib.sha256(body).hexdigest(), hashlib.sha1(body).hexdigest())


def cached(home: Path) -> list[str]:
    """What of archives is in the cache, but locks."""
    folders = [home / "archives", home / "parts"]
    return [p.name for folder in folders if folder.is_dir() for p in folder.iterdir() if p.suffix != ".lock"]


def test_a_file_arrives(site: Site, tmp_path: Path) -> None:
    site.files["/a"] = CONTENT
    seen: list[tuple[int, int | None]] = []
    answer = fetch(f"{site.url}/a", tmp_path / "a", QUICK, progress=lambda *step: seen.append(step))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert answer.headers["etag"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "faults",
    [
        [cut(1000)],
        [cut(1000), cut(50000)],
        [status(503), status(429), status(502)],
        [silent(0.6)],
        [lambda handler, body: handler.answer(206, body[7:], content_range="bytes 7-9/9")],
    ],
    ids=["cut", "cut again", "busy", "silent", "another part"],
)
def test_it_is_tried_again(site: Site, tmp_path: Path, faults: list[Fault]) -> None:
    site.files["/a"], site.faults["/a"] = CONTENT, list(faults)
    fetch(f"{site.url}/a", tmp_path / "a", QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert len(site.asked("/a")) == len(faults) + 1


@pytest.mark.parametrize("has_ranges", [True, False])
def test_what_is_there_is_continued(site: Site, tmp_path: Path, has_ranges: bool) -> None:
    site.files["/a"], site.faults["/a"], site.has_ranges = CONTENT, [cut(1000)], has_ranges
    fetch(f"{site.url}/a", tmp_path / "a", QUICK)
    assert site.asked("/a")[1]["range"] == "bytes=1000-"
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_file_that_changes_meanwhile_is_not_mixed(site: Site, tmp_path: Path) -> None:
    site.files["/a"], site.faults["/a"] = CONTENT, [cut(1000)]
    with pytest.raises(DownloadError, match=r"received 1000 bytes, expected 102400\) \(tried 1 times\)"):
        fetch(f"{site.url}/a", tmp_path / "a", dataclasses.replace(QUICK, tries=1))
    site.files["/a"] = CONTENT[::-1]
    fetch(f"{site.url}/a", tmp_path / "a", QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]


def test_a_file_that_became_shorter(site: Site, tmp_path: Path) -> None:
    site.files["/a"], site.faults["/a"] = CONTENT, [cut(1000)]
    with pytest.raises(DownloadError):
        fetch(f"{site.url}/a", tmp_path / "a", dataclasses.replace(QUICK, tries=1))
    site.files["/a"] = b"short"
    site.faults["/a"] = [status(416)]
    fetch(f"{site.url}/a", tmp_path / "a", QUICK)
    assert (tmp_path / "a").read_bytes() == b"short"


def test_nothing_is_downloaded_twice(site: Site, tmp_path: Path) -> None:
    site.files["/a"] = CONTENT
    known = fetch(f"{site.url}/a", tmp_path / "a", QUICK).headers
    assert fetch(f"{site.url}/a", tmp_path / "b", QUICK, known).is_unchanged
    assert not (tmp_path / "b").exists()


REFUSED: list[tuple[str, Callable[[Site], Fault], Limits, str]] = [
    ("refused", lambda site: status(403), QUICK, "says 403"),
    ("broken", lambda site: status(500), dataclasses.replace(QUICK, tries=1), "says 500"),
    ("silent", lambda site: silent(0.5), dataclasses.replace(QUICK, tries=1, silence=0.1), "silent for 0.1 seconds"),
    ("too slow", lambda site: dripping(0.05), dataclasses.replace(QUICK, seconds=0.3), "more than 0.3 seconds"),
    ("too large", lambda site: status(200), dataclasses.replace(QUICK, bytes=1), "at most 1 are downloaded"),
    ("endless", lambda site: endless, dataclasses.replace(QUICK, bytes=1 << 20), "more than 1,048,576 bytes"),
    ("in circles", lambda site: redirect("/a"), QUICK, "redirects more than 5 times"),
    ("to a file", lambda site: redirect("file:///etc/passwd"), QUICK, "redirects to 'file:///etc/passwd'"),
    ("to another protocol", lambda site: redirect("ftp://127.0.0.1/a"), QUICK, "where no download may go"),
    ("nowhere", lambda site: redirect("http://:80/a"), QUICK, "no address"),
]


@pytest.mark.parametrize(("name", "fault", "limits", "message"), REFUSED, ids=[case[0] for case in REFUSED])
def test_it_is_refused(
    site: Site, tmp_path: Path, name: str, fault: Callable[[Site], Fault], limits: Limits, message: str
) -> None:
    site.files["/a"], site.faults["/a"] = CONTENT, [fault(site)] * 10
    with pytest.raises(DownloadError, match=message):
        fetch(f"{site.url}/a", tmp_path / "a", limits)


def test_redirects_are_followed(site: Site, tmp_path: Path) -> None:
    site.files["/b/c"], site.faults["/a"], site.faults["/b"] = CONTENT, [redirect("/b")], [redirect(f"{site.url}/b/c")]
    fetch(f"{site.url}/a", tmp_path / "a", QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_what_is_not_there_is_not_tried_again(site: Site, tmp_path: Path) -> None:
    with pytest.raises(AdapterNotFoundError, match="404"):
        fetch(f"{site.url}/a", tmp_path / "a", QUICK)
    assert len(site.log) == 1


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "https://", "http://[", "http://h:port/", "a"])
def test_addresses(url: str) -> None:
    with pytest.raises(DownloadError, match="no address"):
        check_url(url)


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="could not be downloaded"):
        fetch("http://127.0.0.1:9/a", tmp_path / "a", dataclasses.replace(QUICK, tries=2))


# -- archives -------------------------------------------------------------------------------------------------------


def test_an_archive_is_kept_by_its_checksum(site: Site, archive: bytes, tmp_path: Path) -> None:
    site.files["/a.zip"] = site.files["/elsewhere.zip"] = archive
    folder = store.archive(f"{site.url}/a.zip", sums(archive), QUICK)
    assert (folder / "adapter_config.json").read_bytes() == CONTENT
    assert store.archive(f"{site.url}/elsewhere.zip", sums(archive), QUICK) == folder
    assert store.archive(f"{site.url}/gone.zip", sums(archive), QUICK, offline=True) == folder
    assert len(site.log) == 1
    store.archive(f"{site.url}/a.zip", sums(archive), QUICK, force=True)
    assert len(site.log) == 2
    assert cached(tmp_path / "cache") == [folder.name]


def test_many_threads_download_it_once(site: Site, archive: bytes) -> None:
    site.files["/a.zip"] = archive

    def load(_: int) -> Path:
        return store.archive(f"{site.url}/a.zip", sums(archive), QUICK)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load, range(16)))) == 1
    assert len(site.log) == 1


@pytest.mark.parametrize("known", ["sha256", "sha1"])
def test_another_file_is_refused(site: Site, archive: bytes, tmp_path: Path, known: str) -> None:
    site.files["/a.zip"] = archive
    wrong = Checksums(**{known: "0" * (64 if known == "sha256" else 40)})
    with pytest.raises(ChecksumError, match="is not what was published"):
        store.archive(f"{site.url}/a.zip", wrong, QUICK)
    assert cached(tmp_path / "cache") == []


def test_early_hubs_know_sha1_only(site: Site, archive: bytes) -> None:
    site.files["/a.zip"] = archive
    known = Checksums(sha1=hashlib.sha1(archive).hexdigest())
    folder = store.archive(f"{site.url}/a.zip", known, QUICK)
    assert store.archive(f"{site.url}/a.zip", known, QUICK) == folder
    assert len(site.log) == 1


def test_an_archive_without_a_checksum_is_asked_for_again(site: Site, archive: bytes, tmp_path: Path) -> None:
    url = f"{site.url}/a.zip"
    site.files["/a.zip"] = archive
    first = store.archive(url, limits=QUICK)
    assert store.archive(url, limits=QUICK) == first
    assert "if-none-match" in site.asked("/a.zip")[1]
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as file:
        file.writestr("adapter_config.json", b"new")
    site.files["/a.zip"] = (tmp_path / "new.zip").read_bytes()
    second = store.archive(url, limits=QUICK)
    assert (second / "adapter_config.json").read_bytes() == b"new"
    site.faults["/a.zip"] = [status(500)] * 9
    assert store.archive(url, limits=QUICK) == second  # the copy will do


@pytest.mark.parametrize("fault", [cut_without_length(5000), lambda handler, body: handler.answer(200, b"<html>")])
def test_what_is_no_whole_archive_is_refused(site: Site, archive: bytes, tmp_path: Path, fault: Fault) -> None:
    site.files["/a.zip"], site.faults["/a.zip"] = archive, [fault]
    with pytest.raises(DownloadError, match=r"/a\.zip.*archive"):
        store.archive(f"{site.url}/a.zip", limits=QUICK)
    assert cached(tmp_path / "cache") == []
    assert store.archive(f"{site.url}/a.zip", limits=QUICK).is_dir()


def test_a_download_goes_on_in_the_next_call(site: Site, archive: bytes) -> None:
    site.files["/a.zip"], site.faults["/a.zip"] = archive, [cut(30000)]
    with pytest.raises(DownloadError, match="received 30000 bytes"):
        store.archive(f"{site.url}/a.zip", sums(archive), dataclasses.replace(QUICK, tries=1))
    store.archive(f"{site.url}/a.zip", sums(archive), QUICK)
    assert site.asked("/a.zip")[1]["range"] == "bytes=30000-"


# -- documents ------------------------------------------------------------------------------------------------------


def test_documents_are_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{site.url}/index.json"
    with pytest.raises(OfflineError, match="not in the cache"):
        store.document(url, QUICK, offline=True)
    site.files["/index.json"] = b"{}"
    assert store.document(url, QUICK) == store.document(url, QUICK) == b"{}"
    site.files["/index.json"] = b"[]"
    assert store.document(url, QUICK, offline=True) == b"{}"
    assert store.document(url, QUICK) == b"[]"
    monkeypatch.setenv("ADAPTERS_OFFLINE", "1")
    asked = len(site.log)
    assert store.document(url, QUICK) == b"[]"
    assert len(site.log) == asked


def test_a_server_that_claims_there_is_a_copy(site: Site) -> None:
    def claim(handler: Handler, body: bytes) -> None:
        handler.answer(304, b"")

    site.faults["/a.zip"] = [claim]
    site.faults["/a.json"] = [claim]
    for read in (store.archive, store.document):
        with pytest.raises(HubError):
            read(f"{site.url}/a.{'zip' if read is store.archive else 'json'}", limits=QUICK)
