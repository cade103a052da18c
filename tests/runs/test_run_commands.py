"""The program `adapters` as people and scripts call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from adapters.commands.app import run

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


def called(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The exit code, and what was written to both streams."""
    with pytest.raises(SystemExit) as ended:
        run([str(argument) for argument in arguments])
    found = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), found.out, found.err


def test_from_a_file_to_answers(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = tiny.splits(tmp_path / "data", tiny.sentences(16)), tmp_path / "out"
    training = [
        "train",
        "-m",
        model,
        "--kind",
        "classification",
        "--data-dir",
        data,
        "--text",
        "sentence",
        "-o",
        output,
    ]
    training += ["--epochs", 1, "--set", "training.batch_size=8", "--name", "mood"]
    code, out, err = called([*training, "--json"], capsys)
    assert code == 0 and json.loads(out)["steps"] == 2 and "step 2/2" in err
    code, out, err = called(["evaluate", output, "--json", "--quiet"], capsys)
    assert code == 0 and json.loads(out)["rows"] == 16 and not err
    code, out, _ = called(["predict", output, "-t", "it was good", "-t", "it was bad"], capsys)
    assert code == 0 and [line.split("\t")[0] in ("0", "1") for line in out.splitlines()] == [True, True]
    answers = tmp_path / "answers.jsonl"
    code, out, _ = called(["predict", output, "-f", data / "train.jsonl", "-o", answers, "-q"], capsys)
    assert code == 0 and not out and len(answers.read_text().splitlines()) == 16
    code, out, _ = called(["summary", model, output / "adapter", "--json"], capsys)
    assert code == 0 and json.loads(out)[0]["name"] == "mood"
    code, _, err = called(training, capsys)
    assert code == 2 and "is in use" in err and err.count("\n") == 1


def test_commands_of_models(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from adapters import AutoAdapterModel

    own = AutoAdapterModel.from_pretrained(model)
    own.add_adapter("low", config="lora[r=2,init_weights=bert]")
    own.save_adapter(tmp_path / "low", "low")
    code, out, _ = called(["inspect", model, "-c", "seq_bn"], capsys)
    assert code == 0 and "found whole" in out and "would add" in out
    code, out, _ = called(["merge", model, tmp_path / "low", "-o", tmp_path / "merged"], capsys)
    assert code == 0 and (tmp_path / "merged" / "model.safetensors").is_file()
    code, out, _ = called(["convert", model, tmp_path / "low", "-r", 1, "-o", tmp_path / "one"], capsys)
    assert code == 0 and (tmp_path / "one" / "adapter_config.json").is_file()
    code, out, _ = called(["export", model, tmp_path / "low", "--for", "vllm", "-o", tmp_path / "peft"], capsys)
    assert code == 0 and "can be served" in out and (tmp_path / "peft" / "adapter_model.safetensors").is_file()
    code, _, err = called(["export", model, tmp_path / "low", "--for", "nobody"], capsys)
    assert code == 2 and "nobody" in err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--task", "mrcp"], "no task 'mrcp'"),
        (["--kind", "tagging", "--set", "training.lr=1"], "training.lr is not known"),
        (["--kind", "tagging", "--set", "training.epochs"], "give a key and a value"),
        (["--kind", "tagging"], "has no column 'ner_tags'"),
        (["--task", "sst2", "--text", "text"], "has no column 'text'"),
        (["--task", "sst2", "--train", "/nowhere.csv"], "There is no file /nowhere.csv"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(
    arguments: list[str], problem: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny.splits(tmp_path / "data", tiny.sentences(4))
    code, _, err = called(["train", "-m", model, "--data-dir", data, "-o", tmp_path / "out", *arguments], capsys)
    assert code == 2 and problem in err and err.count("\n") == 1 and err.startswith("Error: ")
    assert not (tmp_path / "out").exists()


def test_the_schema_describes_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(["config-schema"], capsys)
    schema = json.loads(out)
    sections = [schema, *schema["$defs"].values()]
    fields = [field for section in sections for field in section["properties"].values()]
    assert code == 0 and all("description" in field or "$ref" in field for field in fields)


def test_the_script_of_the_first_users(model: str, tmp_path: Path) -> None:
    """With the flags that its readers know."""
    script = Path(__file__).parents[2] / "examples" / "run_adapter_bert.py"
    data = tiny.splits(tmp_path / "data", tiny.sentences(8))
    flags = f"--casing {model} --bottleneck_size 8 --non_linearity gelu --task sst2 --batch_size 8 --epochs 1"
    flags += " --max_seq_length 128 --learning_rate 3e-4 --warmup_ratio 0.1"
    folders = ["--saved_models_dir", str(tmp_path / "saved"), "--data_dir", str(data)]
    found = subprocess.run([sys.executable, script, *flags.split(), *folders], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "saved" / "sst2" / "adapter" / "adapter.safetensors").is_file() and "accuracy" in found.stdout
