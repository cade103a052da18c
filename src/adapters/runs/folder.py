"""The output of a run: what lies in its folder.

run.yaml          the configuration, whole, with the versions that it ran with
metrics.json      what was measured in the end
history.jsonl     what was measured on the way
curve.png         the same, drawn
README.md         the card of the adapter
adapter/ (or model/)   what was trained
checkpoints/      what an interrupted run goes on from; gone when it is finished
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ..checkpoints.files import atomically
from .config import RunConfig
from .errors import RunError

RUN, METRICS, HISTORY, CURVE, CARD = "run.yaml", "metrics.json", "history.jsonl", "curve.png", "README.md"
_VERSIONS = ("adapters", "torch", "transformers")


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

    def claim(self, config: RunConfig, resume: bool, overwrite: bool) -> None:
        """Take the folder for a run, and write its configuration.

        Args:
            config: The run.
            resume: Whether it may go on with what an interrupted run has left.
            overwrite: Whether a former run may be removed.

        Raises:
            RunError: the folder is in use, or holds another run than the one to go on with.
        """
        try:
            used = sorted(self.path.iterdir()) if self.path.exists() else []
        except NotADirectoryError:
            raise RunError(f"{self.path} is a file; the output of a run is a folder.") from None
        if overwrite and (self.path / RUN).is_file():
            shutil.rmtree(self.path)
        elif used and not resume:
            what = "a run" if (self.path / RUN).is_file() else f"{len(used)} files"
            raise RunError(
                f"{self.path} is in use: it holds {what}. Choose another output, or pass --resume to go on with an "
                "interrupted run, or --overwrite to begin it anew."
            )
        elif used:
            former = self.config()
            if former != config:
                raise RunError(f"{self.path} holds another run, whose {_difference(former, config)}.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path} cannot be made: {error.strerror}.") from None
        versions = {name: version(name) for name in _VERSIONS}
        self._write(RUN, f"{config.to_yaml()}# It ran with {', '.join(f'{n} {v}' for n, v in versions.items())}.\n")

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
        """The newest state that is whole."""
        found = [p for p in self.checkpoints.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
        return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write what was measured on the way."""
        self._write(HISTORY, "".join(json.dumps(point) + "\n" for point in history))

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write what was measured in the end, and remove the states on the way."""
        self._write(METRICS, json.dumps(metrics, indent=2) + "\n")
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


def _difference(former: RunConfig, config: RunConfig) -> str:
    """The first field that two configurations differ in, with both values."""
    one, other = _flat(yaml.safe_load(former.to_yaml())), _flat(yaml.safe_load(config.to_yaml()))
    name = next((name for name in one if one[name] != other.get(name)), "fields")
    return f"{name} is {one.get(name)!r}, not {other.get(name)!r}"


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        inner = isinstance(value, dict) and prefix.count(".") < 1
        found |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found
