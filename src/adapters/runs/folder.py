"""The output of a run: what lies in its folder.

run.yaml          the configuration, whole, with the versions that it ran with and what it came to
metrics.json      what was measured in the end
history.jsonl     what was measured on the way
curve.png         the same, drawn
README.md         the card of the adapter
adapter/ (or model/)   what was trained
checkpoints/      what an interrupted run goes on from; gone when it is finished
.lock             says that a process is training here; gone when it ends
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ..checkpoints.files import atomically
from ..checkpoints.transactions import is_temporary
from .config import RunConfig
from .errors import RunError, is_disk_full

RUN, METRICS, HISTORY, CURVE, CARD = "run.yaml", "metrics.json", "history.jsonl", "curve.png", "README.md"
ADAPTER, MODEL = "adapter", "model"
"""The folders that hold what was trained."""

_LOCK, _STATE = ".lock", "trainer_state.json"
_VERSIONS = ("adapters", "torch", "transformers")

try:
    import fcntl
except ImportError:  # not on Windows: there, two processes should not train into one folder at once
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Args:
        path: The folder.
    """

    path: Path

    @property
    def checkpoints(self) -> Path:
        """What an interrupted run goes on from."""
        return self.path / "checkpoints"

    def check(self, config: RunConfig, resume: bool, overwrite: bool) -> None:
        """See whether the folder can be taken for a run. Nothing is written.

        Args:
            config: The run.
            resume: Whether it may go on with what an interrupted run has left.
            overwrite: Whether a former run may be removed.

        Raises:
            RunError: the folder is in use, or holds another run than the one to go on with.
        """
        if resume and overwrite:
            raise RunError("--resume and --overwrite exclude each other.")
        try:
            found = sorted(self.path.iterdir()) if self.path.exists() else []
        except NotADirectoryError:
            raise RunError(f"{self.path} is a file; the output of a run is a folder.") from None
        used = [path for path in found if path.name != _LOCK and not is_temporary(path)]
        if not used or (overwrite and (self.path / RUN).is_file()):
            return
        if not (self.path / RUN).is_file():
            names = ", ".join(path.name for path in used[:6]) + (" …" if len(used) > 6 else "")
            raise RunError(f"{self.path} is in use: it holds {names}, and no run. Choose another output.")
        if not resume:
            raise RunError(
                f"{self.path} is in use: it holds a run{' that is finished' if self.is_finished else ''}. Choose "
                "another output, or pass --resume to go on with an interrupted run, or --overwrite to begin it anew."
            )
        former = self.config()
        if _flat_config(former) != _flat_config(config):
            raise RunError(
                f"{self.path} holds another run, whose {_difference(former, config)}. Choose another output, or pass "
                "--overwrite."
            )

    @contextlib.contextmanager
    def claimed(self, config: RunConfig, resume: bool, overwrite: bool) -> Iterator[None]:
        """Take the folder for a run as long as a `with` block lasts, and write its configuration.

        Args:
            config: The run.
            resume: Whether it may go on with what an interrupted run has left.
            overwrite: Whether a former run may be removed.

        Raises:
            RunError: see `check`; or another process is training there.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path} cannot be made: {error.strerror}.") from None
        with self._locked():
            self.check(config, resume, overwrite)
            if overwrite:
                self._remove()
            try:
                if not self.is_finished:
                    self._drop_cut_off()
                    self._write(RUN, f"{config.to_yaml()}{self._notes({})}")
                yield
            except BaseException as error:
                if self.is_finished:
                    raise
                is_begun = any(_state(path) is not None for path in self.checkpoints.glob("checkpoint-*"))
                if not is_begun:  # there is nothing to go on from
                    self._remove()
                if not is_disk_full(error):
                    raise
                then = f"go on with: adapters train --resume --output {self.path}" if is_begun else "begin anew"
                raise RunError(f"The disk of {self.path} is full. Make space, and {then}.") from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # A file of its own, which no other file replaces. The lock ends with the process, whatever ends that.
        with (self.path / _LOCK).open("a") as file:
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(file.fileno()), (self.path / _LOCK).stat()):
                    raise FileNotFoundError  # it was another process's, which ended meanwhile
            except OSError:
                raise RunError(f"{self.path} is in use: another process is training in it.") from None
            try:
                yield
            finally:
                (self.path / _LOCK).unlink(missing_ok=True)
                if not any(self.path.iterdir()):
                    self.path.rmdir()

    def _remove(self) -> None:
        """Remove what a run has written, and nothing else that may be in the folder. The configuration goes last."""
        for name in (METRICS, HISTORY, CURVE):
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.checkpoints, self.path / ADAPTER, self.path / MODEL):
            if folder.exists():
                shutil.rmtree(folder)
        (self.path / RUN).unlink(missing_ok=True)

    def _drop_cut_off(self) -> None:
        """Remove states that a process was killed in writing: they take space, and nobody can go on from them."""
        for path in self.checkpoints.glob("checkpoint-*"):
            if _state(path) is None:
                shutil.rmtree(path)

    def _notes(self, metrics: Mapping[str, Any]) -> str:
        """Comments at the end of the configuration."""
        versions = ", ".join(f"{name} {version(name)}" for name in _VERSIONS)
        measured = ", ".join(f"{name} {value}" for name, value in metrics.items())
        return f"# It ran with {versions}.\n" + (f"# It came to {measured}.\n" if measured else "")

    def config(self) -> RunConfig:
        """The configuration of the run in the folder.

        Raises:
            RunError: there is none.
        """
        if not (self.path / RUN).is_file():
            raise RunError(f"{self.path} holds no run: there is no {RUN} in it.")
        return RunConfig.read(self.path / RUN)

    @property
    def is_finished(self) -> bool:
        """Whether the run in the folder has come to its end."""
        return (self.path / METRICS).is_file()

    def last_checkpoint(self) -> Path | None:
        """The newest state that is whole.

        It names the best one by its path, which is written anew: the folder may have another name than it had.
        """
        states = {path: state for path in self.checkpoints.glob("checkpoint-*") if (state := _state(path)) is not None}
        last = max(states, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
        if last is not None and states[last].get("best_model_checkpoint"):
            best = str(self.checkpoints / Path(states[last]["best_model_checkpoint"]).name)
            text = json.dumps({**states[last], "best_model_checkpoint": best}, indent=2, sort_keys=True) + "\n"
            atomically(last / _STATE, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return last

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write what was measured on the way."""
        self._write(HISTORY, "".join(json.dumps(point) + "\n" for point in history))

    def finish(self, config: RunConfig, metrics: Mapping[str, Any]) -> None:
        """Write what was measured in the end, and remove the states on the way."""
        self._write(RUN, f"{config.to_yaml()}{self._notes(metrics)}")
        self._write(METRICS, json.dumps(metrics, indent=2) + "\n")
        self.clear()

    def clear(self) -> None:
        """Remove the states on the way."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def write_card(self, folder: Path, text: str) -> None:
        """Write the card of what was trained beside it."""
        atomically(folder / CARD, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def metrics(self) -> dict[str, Any]:
        """What was measured in the end."""
        found: dict[str, Any] = json.loads((self.path / METRICS).read_text(encoding="utf-8"))
        return found

    def _write(self, name: str, text: str) -> None:
        atomically(self.path / name, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _state(checkpoint: Path) -> dict[str, Any] | None:
    """What the Trainer has noted in a checkpoint, the last file that it writes; None if that is not there whole."""
    try:
        found: dict[str, Any] = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _difference(former: RunConfig, config: RunConfig) -> str:
    """The first field that two configurations differ in, with both values."""
    one, other = _flat_config(former), _flat_config(config)
    name = next((name for name in one if one[name] != other.get(name)), "fields")
    return f"{name} is {one.get(name)!r}, not {other.get(name)!r}"


def _flat_config(config: RunConfig) -> dict[str, Any]:
    """The fields of a configuration but its output, which may have been given another name."""
    found = _flat(yaml.safe_load(config.to_yaml()))
    del found["output"]
    return found


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        inner = isinstance(value, dict) and prefix.count(".") < 1
        found |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found
