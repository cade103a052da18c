"""docs/command-line.md does what it says: its commands run, in order, with its file."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import tiny

from adapters.commands.app import run

pytest.importorskip("accelerate")
DOCUMENT = Path(__file__).parents[2] / "docs" / "command-line.md"


def test_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.model_folder(tmp_path / "model")
    tiny.splits(tmp_path / "reviews", tiny.sentences(16))
    tiny.write(tmp_path / "reviews" / "test.jsonl", tiny.sentences(3))
    tiny.splits(tmp_path / "glue" / "sst2", tiny.sentences(8))
    for language, block in re.findall(r"```(yaml|bash)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        if language == "yaml":
            (tmp_path / "run.yaml").write_text(block)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "adapters"
            with pytest.raises(SystemExit) as end:
                run(arguments)
            assert not end.value.code, capsys.readouterr().err
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "runs" / "lora-for-vllm" / "adapter_model.safetensors").is_file()
