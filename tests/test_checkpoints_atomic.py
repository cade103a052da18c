"""Saving over old files: whatever happens in between, the old ones or the new ones are there, and never some of each.

What is saved is a version: all its numbers, in all its files, are the version's.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters import Fuse, Stack
from adapters.checkpoints import transactions
from adapters.checkpoints.files import AdapterFileError
from adapters.checkpoints.transactions import JOURNAL, consistently, located, together, write
from test_api import auto
from test_checkpoints import files

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def versions() -> Any:
    """A model whose adapters, fusion and heads are to be saved in several versions."""
    model = auto()
    for name in ("a", "b"):
        model.add_adapter(name, "seq_bn[reduction_factor=8]")
        model.add_classification_head(name, num_labels=2)
    model.add_adapter_fusion(["a", "b"])
    return model


def save_adapter(model: Any, folder: Path, version: int) -> None:
    fill(model, version)
    model.save_adapter(folder, "a", meta_dict={"saved": version}, use_safetensors=version % 3 > 0)


def save_setup(model: Any, folder: Path, version: int) -> None:
    """A stack or a mixture, with all that belongs to it."""
    fill(model, version)
    setup = Stack("a", "b") if version % 2 else Fuse("a", "b")
    model.save_adapter_setup(folder, setup, head_setup="b", use_safetensors=version % 3 > 0)


def fill(model: Any, version: int) -> None:
    with torch.no_grad():
        for part in (*(model._adapter_registry[name].modules() for name in "ab"), model.heads.children()):
            for module in part:
                for parameter in module.parameters():
                    parameter.fill_(version)


def load_adapter(model: Any, folder: Path) -> set[float]:
    model.load_adapter(folder)
    return numbers(model, "a")


def load_setup(model: Any, folder: Path) -> set[float]:
    setup, heads = model.load_adapter_setup(folder)
    assert heads == "b"
    found = numbers(model, "a") | numbers(model, "b")
    assert isinstance(setup, Stack if next(iter(found)) % 2 else Fuse)
    return found


def numbers(model: Any, name: str) -> set[float]:
    parameters = [*model._adapter_registry[name].parameters(), *model.heads[name].parameters()]
    return {x.item() for p in parameters for x in (p.min(), p.max())}


KINDS: dict[str, tuple[Callable[..., None], Callable[..., set[float]]]] = {
    "adapter": (save_adapter, load_adapter),
    "setup": (save_setup, load_setup),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def in_child(action: Callable[[], object]) -> int:
    """The exit status of a process that does something."""
    child = os.fork()
    if not child:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


# -- killed ---------------------------------------------------------------------------------------------------------

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")


def ended_at(step: int, folder: Path, action: Callable[[], object]) -> int:
    """The exit status of a process that does something, and ends just before a step of it: 9 if it got there."""

    def watched() -> None:
        left = step

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in CHANGES and str(folder) in str(arguments[0]):
                left -= 1
                if not left:
                    os._exit(9)

        sys.addaudithook(hook)
        action()

    return in_child(watched)


@forks
@every_kind
@pytest.mark.parametrize("foreign", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["beside others", "alone"])
def test_killed_at_each_step(kind: str, foreign: bool, tmp_path: Path) -> None:
    """The process ends before the first, second, third … of all that it does to the folder."""
    save, load = KINDS[kind]
    writer, reader, folder = versions(), versions(), tmp_path / "x"
    save(writer, folder, 1)
    if foreign:
        (folder / "README.md").write_text("kept")
    former, seen = 1.0, set()
    for step in range(1, 300):
        version = step + 1
        status = ended_at(step, folder, lambda version=version: save(writer, folder, version))  # type: ignore[misc]
        found = load(reader, folder)
        assert found in ({former}, {version}), (step, found)
        seen.add(found == {former})
        (former,) = found
        if not status:
            break
        assert status == 9
        if step % 3 == 0:  # what is left over is cleaned up by whoever saves next
            save(writer, folder, version)
            assert load(reader, folder) == {version} and not leftovers(folder)
            former = version
    assert step > 10 and found == {version} and seen == {True, False} and not leftovers(folder)
    assert not foreign or (folder / "README.md").read_text() == "kept"


@forks
@pytest.mark.parametrize("kills", [12, pytest.param(100, marks=pytest.mark.slow)])
@every_kind
def test_killed_at_random_moments(kind: str, kills: int, tmp_path: Path) -> None:
    """By SIGKILL, while it saves version after version."""
    save, load = KINDS[kind]
    writer, reader, folder = versions(), versions(), tmp_path / "x"
    save(writer, folder, 1)
    draw = random.Random(0)
    seen: set[float] = set()
    for kill in range(kills):
        done, tell = os.pipe()
        child = os.fork()
        if not child:
            for version in range(100 * kill, 10**9):
                save(writer, folder, version)
                os.write(tell, b".")
        os.read(done, 1)
        time.sleep(draw.uniform(0, 0.1))
        for end in (done, tell):
            os.close(end)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = load(reader, folder)
        assert len(found) == 1, found
        seen |= found
    assert len(seen) > kills / 4
    save(writer, folder, 7)
    assert load(reader, folder) == {7} and not leftovers(folder)


@forks
@every_kind
def test_first_save_that_is_killed(kind: str, tmp_path: Path) -> None:
    """Where nothing was, there is nothing or all."""
    save, load = KINDS[kind]
    writer, reader = versions(), versions()
    outcomes = set()
    for step in range(1, 300, 1 if kind == "adapter" else 4):
        folder = tmp_path / str(step)
        status = ended_at(step, folder, lambda folder=folder: save(writer, folder, 5))  # type: ignore[misc]
        try:
            outcomes.add(load(reader, folder) == {5})
        except AdapterFileError:
            outcomes.add(False)
            assert status
        if not status:
            break
    assert outcomes == {True, False} and load(reader, folder) == {5}


# -- at the same time -----------------------------------------------------------------------------------------------


@forks
@every_kind
def test_readers_see_one_version(kind: str, tmp_path: Path) -> None:
    """While two processes save again and again, whoever loads gets all of one version, and no error."""
    save, load = KINDS[kind]
    writer, reader, folder = versions(), versions(), tmp_path / "x"
    save(writer, folder, 1)
    children = []
    for first in (0, 1):
        child = os.fork()
        if not child:
            for version in range(100 + first, 10**9, 2):
                save(writer, folder, version)
        children.append(child)
    try:
        end, seen = time.monotonic() + 20, set()
        while time.monotonic() < end and len(seen) < 5:
            found = load(reader, folder)
            assert len(found) == 1, found
            seen |= found
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert len(seen) == 5


# -- no space -------------------------------------------------------------------------------------------------------


@forks
@every_kind
@pytest.mark.parametrize("bytes_", [0, 100, 2000, 4000])
def test_no_space(kind: str, bytes_: int, tmp_path: Path) -> None:
    """The system refuses to write more than some bytes to a file: the old version stays, and nothing else."""
    save, load = KINDS[kind]
    writer, reader, folder = versions(), versions(), tmp_path / "x"
    save(writer, folder, 1)
    before = sorted(folder.rglob("*"))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))
        save(writer, folder, 2)

    assert in_child(limited) == 1
    assert sorted(folder.rglob("*")) == before and load(reader, folder) == {1}


@every_kind
def test_errors_leave_the_old_version(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever file it is that cannot be written."""
    save, load = KINDS[kind]
    model, folder = versions(), tmp_path / "x"
    save(model, folder, 1)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    stage, failed = transactions._Transaction.stage, 0
    for last in range(100):
        left = [last]

        def stage_until(self: Any, path: Path, content: Any, left: list[int] = left) -> None:
            if not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            left[0] -= 1
            stage(self, path, content)

        monkeypatch.setattr(transactions._Transaction, "stage", stage_until)
        try:
            save(model, folder, 2)
        except OSError:
            failed += 1
            assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        else:
            break
    assert failed >= 4 and load(model, folder) == {2}


def test_nothing_is_left_of_a_first_save_that_fails(tmp_path: Path) -> None:
    model = versions()
    model.adapter_to("a", device="meta")
    with pytest.raises(AdapterFileError, match="hold no numbers"):
        model.save_adapter(tmp_path / "new" / "folder", "a")
    assert not files(tmp_path)


# -- journals from elsewhere ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"renamed": 3, "removed": []}',
        '{"renamed": {"../out": "../.1.adapters-tmp/out"}, "removed": ["../kept.bin", "/etc/passwd"]}',
        '{"renamed": {"adapter.safetensors": "README.md", "x": "../kept.bin"}, "removed": ["README.md"]}',
        "[" * 100_000,
    ],
)
def test_journals_reach_nothing_else(text: str, tmp_path: Path) -> None:
    (tmp_path / "kept.bin").write_text("kept")
    model, folder = versions(), tmp_path / "x"
    save_adapter(model, folder, 1)
    (folder / "README.md").write_text("kept")
    (folder / JOURNAL).write_text(text)
    assert load_adapter(model, folder) == {1}
    save_adapter(model, folder, 2)
    assert load_adapter(model, folder) == {2}
    assert (folder / "README.md").read_text() == (tmp_path / "kept.bin").read_text() == "kept"


def test_files_that_are_written_together(tmp_path: Path) -> None:
    """What is nested belongs to the outer block, and readers see nothing of it before this ends."""
    a, b = tmp_path / "a.json", tmp_path / "in" / "b.json"
    with together(tmp_path):
        write(a, lambda path: path.write_text("1"))
        with together(tmp_path / "in"):
            write(b, lambda path: path.write_text("1"))
        assert located(a) is None and located(b) is None
    assert consistently(tmp_path, lambda: [path.read_text() for path in (a, b)]) == ["1", "1"]
    with pytest.raises(ZeroDivisionError), together(tmp_path):
        write(a, lambda path: path.write_text("2"))
        transactions.remove(b)
        _ = 1 / 0
    assert [path.read_text() for path in (a, b)] == ["1", "1"] and not leftovers(tmp_path)


def test_rights_of_files_are_those_that_a_user_gives(tmp_path: Path) -> None:
    """Whatever the writers of the formats do."""
    former = os.umask(0o027)
    try:
        save_adapter(versions(), tmp_path / "x", 1)
    finally:
        os.umask(former)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "x").iterdir()} == {0o640}
