"""docs/hub.md does what it says: its Python and its commands run, in order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from adapters.commands.app import run

DOCUMENT = Path(__file__).parents[2] / "docs" / "hub.md"


def test_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTERS_HUB", "")  # so that it is taken back what a block sets
    scope: dict[str, object] = {}
    for language, block in re.findall(r"```(python|bash)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        if language == "python":
            exec(compile(block, str(DOCUMENT), "exec"), scope)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "adapters"
            with pytest.raises(SystemExit) as end:
                run(arguments)
            assert not end.value.code, capsys.readouterr().err
    assert (tmp_path / "copied" / "adapter.safetensors").is_file()
