"""Data files are read as they are meant, and what is wrong is said with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.runs import RunError
from adapters.runs.rows import read, split_file

CONLLU = (
    "# text = It is\n1\tIt\tit\tPRON\t_\t_\t2\tnsubj\t_\t_\n2-3\tis\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "2\tis\tbe\tVERB\t_\t_\t0\troot\t_\t_\n\n1\tWas\tbe\tAUX\t_\t_\t0\troot\t_\t_\n"
)
FILES = {
    "a.jsonl": ('{"text": "é", "label": 1}\n\n{"text": "b", "label": 0}\n', [1, 3]),
    "a.json": ('[{"text": "é", "label": 1}, {"text": "b", "label": 0}]', [1, 2]),
    "a.csv": ('text,label\né,1\n"b",0\n', [2, 3]),
    "a.tsv": ("text\tlabel\né\t1\nb\t0\n", [2, 3]),
}


@pytest.mark.parametrize("name", FILES)
def test_tables(tmp_path: Path, name: str) -> None:
    text, lines = FILES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    rows = read(tmp_path / name)
    assert rows.texts("text") == ["é", "b"] and [int(value) for value in rows.column("label")] == [1, 0]
    assert list(rows.lines) == lines and len(rows.first(1)) == 1
    with pytest.raises(RunError, match=r"line \d has no column 'labels'; it has text, label \(did you mean 'label'"):
        rows.column("labels")


def test_trees_and_texts(tmp_path: Path) -> None:
    (tmp_path / "dev.conllu").write_text(CONLLU)
    rows = read(tmp_path / "dev.conllu")
    assert rows.rows[0] == {
        "tokens": ["It", "is"],
        "upos": ["PRON", "VERB"],
        "head": [2, 0],
        "deprel": ["nsubj", "root"],
    }
    assert rows.column("tokens")[1] == ["Was"] and split_file(tmp_path, "validation") == tmp_path / "dev.conllu"
    (tmp_path / "a.txt").write_text("One.\n\nTwo.\n")
    assert read(tmp_path / "a.txt").texts("text") == ["One.", "Two."]
    assert split_file(tmp_path, "train") is None


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", '{"a": 1}\n{', "line 2 is no JSON"),
        ("a.jsonl", "[1]", "line 1 holds list"),
        ("a.json", '{"a": 1}', "a list of objects"),
        ("a.csv", "a,b\n1\n", "line 2 has another number of columns"),
        ("a.conllu", "1\tIt\n\n", "has 2 fields"),
        ("a.parquet", "x", "ends with '.parquet'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, text: str, problem: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RunError, match=problem):
        read(tmp_path / name)


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a\n1\n")
    with pytest.raises(RunError, match=r"no file .*trian.csv \(did you mean 'train.csv'"):
        read(tmp_path / "trian.csv")
    with pytest.raises(RunError, match="There is no folder"):
        split_file(tmp_path / "data", "train")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="no text in UTF-8"):
        read(tmp_path / "b.csv")
