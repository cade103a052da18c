"""All of GLUE in the files that GLUE hands out: the table, the files of a submission, and going on when stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from adapters.commands.app import run
from adapters.runs import RunConfig, RunError
from adapters.runs.fitting import train
from adapters.runs.glue import run_glue

pytest.importorskip("accelerate")

COUNT = 8
A, B = "it was good", 'the "film was not'  # quotation marks are what they are
NLI = ("entailment", "neutral", "contradiction")
BINARY = ("entailment", "not_entailment")
MNLI = "index\tpromptID\tpairID\tgenre\tsentence1\tsentence2"
Line = Callable[[int], str]
# Folder, name of the file without .tsv, first line, others.
FILES: list[tuple[str, str, str | None, Line]] = [
    *[("CoLA", name, None, lambda n: f"gj04\t{n % 2}\t{'*' if n % 2 else ''}\t{A}") for name in ("train", "dev")],
    ("CoLA", "test", "index\tsentence", lambda n: f"{n}\t{A}"),
    *[("SST-2", name, "sentence\tlabel", lambda n: f"{A}\t{n % 2}") for name in ("train", "dev")],
    ("SST-2", "test", "index\tsentence", lambda n: f"{n}\t{A}"),
    *[
        ("MRPC", name, "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", lambda n: f"{n % 2}\t1\t2\t{A}\t{B}")
        for name in ("train", "dev")
    ],
    ("MRPC", "test", "index\t#1 ID\t#2 ID\t#1 String\t#2 String", lambda n: f"{n}\t1\t2\t{A}\t{B}"),
    *[
        ("STS-B", name, "index\tgenre\tsentence1\tsentence2\tscore", lambda n: f"{n}\tnews\t{A}\t{B}\t{n / 2}")
        for name in ("train", "dev")
    ],
    ("STS-B", "test", "index\tgenre\tsentence1\tsentence2", lambda n: f"{n}\tnews\t{A}\t{B}"),
    *[
        (
            "QQP",
            name,
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
            lambda n: f"{n}\t1\t2\t{A}\t{B}\t{n % 2}",
        )
        for name in ("train", "dev")
    ],
    ("QQP", "test", "id\tquestion1\tquestion2", lambda n: f"{COUNT - n}\t{A}\t{B}"),
    *[
        ("MNLI", name, f"{MNLI}\tlabel1\tgold_label", lambda n: f"{n}\t1\t1e\tfiction\t{A}\t{B}\t-\t{NLI[n % 3]}")
        for name in ("train", "dev_matched", "dev_mismatched")
    ],
    *[("MNLI", f"test_{name}", MNLI, lambda n: f"{n}\t1\t1e\tfiction\t{A}\t{B}") for name in ("matched", "mismatched")],
    *[
        ("QNLI", name, "index\tquestion\tsentence\tlabel", lambda n: f"{n}\t{A}\t{B}\t{BINARY[n % 2]}")
        for name in ("train", "dev")
    ],
    ("QNLI", "test", "index\tquestion\tsentence", lambda n: f"{n}\t{A}\t{B}"),
    *[
        ("RTE", name, "index\tsentence1\tsentence2\tlabel", lambda n: f"{n}\t{A}\t{B}\t{BINARY[n % 2]}")
        for name in ("train", "dev")
    ],
    ("RTE", "test", "index\tsentence1\tsentence2", lambda n: f"{n}\t{A}\t{B}"),
    *[
        ("WNLI", name, "index\tsentence1\tsentence2\tlabel", lambda n: f"{n}\t{A}\t{B}\t{n % 2}")
        for name in ("train", "dev")
    ],
    ("WNLI", "test", "index\tsentence1\tsentence2", lambda n: f"{n}\t{A}\t{B}"),
    ("diagnostic", "diagnostic", "index\tsentence1\tsentence2", lambda n: f"{n}\t{A}\t{B}"),
]
ALLOWED = {
    **{name: {"0", "1"} for name in ("CoLA", "SST-2", "MRPC", "QQP", "WNLI")},
    **{name: set(NLI) for name in ("MNLI-m", "MNLI-mm", "AX")},
    **{name: set(BINARY) for name in ("QNLI", "RTE")},
}
TABLE = ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI(m)", "MNLI(mm)", "QNLI", "RTE"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


def glue_data(folder: Path, only: tuple[str, ...] = ()) -> Path:
    """The files of GLUE, or of some of its tasks, with few rows."""
    for task, name, first, line in FILES:
        if not only or task in only:
            lines = [*([] if first is None else [first]), *map(line, range(COUNT))]
            (folder / task).mkdir(parents=True, exist_ok=True)
            (folder / task / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_the_table_and_the_submission(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = glue_data(tmp_path / "data")
    with (data / "QQP" / "train.tsv").open("a") as file:
        file.write("9\t1\t2\tcut off\n")
    call = ["glue", "-m", model, "--data-dir", str(data), "-o", str(tmp_path / "out")]
    call += ["--set", "training.max_steps=1", "--set", "training.batch_size=8"]
    with pytest.warns(UserWarning, match="1 lines have another number of columns"), pytest.raises(SystemExit) as ended:
        run([*call, "--quiet", "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["scores"]) == [*TABLE, "Total"] and found["missing"] == [] and list(found["beside"]) == ["WNLI"]
    assert found["scores"]["Total"] == pytest.approx(sum(found["scores"][name] for name in TABLE) / len(TABLE))
    files = {path.stem: path.read_text().splitlines() for path in (tmp_path / "out" / "submission").iterdir()}
    assert files.keys() == {*ALLOWED, "STS-B"}
    for name, lines in files.items():
        numbers, answers = zip(*(line.split("\t") for line in lines[1:]), strict=True)
        assert lines[0] == "index\tprediction"
        assert list(map(int, numbers)) == ([COUNT - n for n in range(COUNT)] if name == "QQP" else [*range(COUNT)])
        assert set(answers) <= ALLOWED[name] if name in ALLOWED else all(0 <= float(value) <= 5 for value in answers)
    for path in data.rglob("test*.tsv"):
        path.unlink()
    with pytest.warns(UserWarning), pytest.raises(SystemExit):  # nothing is done again
        run(call)
    shown = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in shown[0].strip("|").split("|")] == [*TABLE, "Total"] and len(shown) == 3
    assert shown[2].split("|")[1].strip() == f"{found['scores']['CoLA']:.1f}"


def test_it_goes_on_where_it_was_stopped(model: str, tmp_path: Path) -> None:
    data = glue_data(tmp_path / "data", ("SST-2", "RTE"))
    settings = {"model": model, "training.epochs": 3, "training.batch_size": 4, "training.learning_rate": 0.01}

    def stopping(task: str) -> Any:
        def watch(point: Any) -> None:
            if task == "rte" and point["step"] == 3:
                raise InterruptedError

        return watch

    whole = run_glue(settings, data, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        run_glue(settings, data, tmp_path / "out", None, stopping)
    written = (tmp_path / "out" / "sst2" / "metrics.json").stat().st_mtime_ns
    seen: list[int] = []
    result = run_glue(settings, data, tmp_path / "out", None, lambda task: lambda point: seen.append(point["step"]))
    assert result.scores == whole.scores and min(seen) == 3  # from the state after the first of three rounds
    assert (tmp_path / "out" / "sst2" / "metrics.json").stat().st_mtime_ns == written
    for name in ("SST-2.tsv", "RTE.tsv"):
        own, other = (tmp_path / folder / "submission" / name for folder in ("out", "whole"))
        assert own.read_text() == other.read_text()
    assert set(result.missing) == {"cola", "mrpc", "stsb", "qqp", "mnli", "qnli", "wnli"}
    with pytest.raises(RunError, match=r"training\.epochs is 3"):
        run_glue({**settings, "training.epochs": 1}, data, tmp_path / "out")


def test_what_is_not_there_is_said(model: str, tmp_path: Path) -> None:
    glue_data(tmp_path / "data", ("RTE",))
    with pytest.raises(RunError, match="no task 'snli' in GLUE"):
        run_glue({"model": model}, tmp_path / "data", tmp_path / "out", ["snli"])
    with pytest.raises(RunError, match="holds no data of mrpc"):
        run_glue({"model": model}, tmp_path / "data", tmp_path / "out", ["mrpc"])
    with pytest.raises(RunError, match="There is no folder"):
        run_glue({"model": model}, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(RunError, match=r"task\.name is 'mrpc'; each task of GLUE has its own"):
        run_glue({"model": model, "task.name": "mrpc"}, tmp_path / "data", tmp_path / "out")


def a_task(**changes: Any) -> RunConfig:
    known = {"model": "nowhere", "task.name": "mnli", "output": "nowhere"}
    return RunConfig.read(None, known | {name.replace("__", "."): value for name, value in changes.items()})


def test_tasks_are_fetched_by_datasets(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"premise": A, "hypothesis": B, "label": n % 3, "idx": n} for n in range(COUNT)]
    asked: list[tuple[str, ...]] = []

    class Fake:
        @staticmethod
        def load_dataset(path: str, name: str, split: str) -> list[dict[str, Any]]:
            asked.append((path, name, split))
            return rows if not split.startswith("test") else [{**row, "label": -1} for row in rows]

    monkeypatch.setitem(sys.modules, "datasets", Fake)
    train(a_task(model=model, output=str(tmp_path / "out"), training__max_steps=1))
    assert asked == [("nyu-mll/glue", "mnli", "train"), ("nyu-mll/glue", "mnli", "validation_matched")]
    asked.clear()
    result = run_glue({"model": model, "training.max_steps": 1}, None, tmp_path / "glue", ["mnli"])
    assert [split for _, _, split in asked[2:]] == [
        *("validation_matched", "test_matched", "validation_mismatched", "test_mismatched"),
    ]
    assert [path.name for path in result.files] == ["MNLI-m.tsv", "MNLI-mm.tsv"] and not result.missing
    monkeypatch.setattr(Fake, "load_dataset", staticmethod(lambda *args, **options: 1 / 0))
    with pytest.raises(RunError, match=r"cannot be fetched from the Hugging Face Hub .*--data-dir"):
        train(a_task(model=model, output=str(tmp_path / "other")))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RunError, match="--data-dir"):
        train(a_task(model=model, output=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()


SCRIPT = Path(__file__).parents[2] / "examples" / "run_adapter_bert.py"
FLAGS = {
    "bottleneck_size": 8,
    "non_linearity": "gelu",
    "task": "mrpc",
    "batch_size": 8,
    "epochs": 1,
    "max_seq_length": 24,
    "learning_rate": 3e-4,
    "warmup_ratio": 0.1,
}


def test_the_script_of_the_first_adapters(model: str, tmp_path: Path) -> None:
    data = glue_data(tmp_path, ("MRPC",)) / "MRPC"
    flags = {**FLAGS, "casing": model, "saved_models_dir": tmp_path / "saved_models", "data_dir": data}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "saved_models" / "mrpc" / "adapter" / "adapter_config.json").read_text())["config"]
    assert config["mh_adapter"] and config["output_adapter"] and config["non_linearity"] == "gelu"
    assert config["reduction_factor"] == 32 / 8
