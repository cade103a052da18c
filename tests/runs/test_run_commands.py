"""The program `adapters` as people and scripts call it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from adapters.commands import completing, hub, predict
from adapters.commands.app import app, run
from adapters.commands.following import followed
from adapters.configuration import presets
from adapters.runs.rows import read

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
    code, out, _ = called(["predict", output, "-f", data / "train.jsonl", "-o", answers, "--json"], capsys)
    assert code == 0 and json.loads(out) == {"rows": 16, "output": str(answers)}
    code, out, _ = called(["summary", model, output / "adapter", "--json"], capsys)
    assert code == 0 and json.loads(out)[0]["name"] == "mood"
    code, _, err = called(training, capsys)
    assert code == 2 and "is in use" in err and err.count("\n") == 1


def low_rank(model: Any, folder: Path) -> Any:
    """A model with a LoRA that changes something, which is saved too."""
    model.add_adapter("low", config="lora[r=2]", set_active=True)
    for name, parameter in model.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_adapter(folder, "low")
    return model


def test_commands_of_models(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from adapters import AutoAdapterModel

    low_rank(AutoAdapterModel.from_pretrained(model), tmp_path / "low")
    code, out, _ = called(["inspect", model, "-c", "seq_bn"], capsys)
    assert code == 0 and "found whole" in out and "would add" in out
    code, out, _ = called(["merge", model, tmp_path / "low", "-o", tmp_path / "merged"], capsys)
    assert code == 0 and (tmp_path / "merged" / "model.safetensors").is_file()
    merged = BertModel.from_pretrained(tmp_path / "merged").state_dict()
    before = BertModel.from_pretrained(model).state_dict()
    changed = {key for key, value in before.items() if not torch.equal(merged[key], value)}
    assert merged.keys() == before.keys() and changed and all("query" in key or "value" in key for key in changed)
    code, out, _ = called(["convert", model, tmp_path / "low", "-r", 1, "-o", tmp_path / "one"], capsys)
    assert code == 0 and (tmp_path / "one" / "adapter_config.json").is_file()
    code, out, _ = called(["export", model, tmp_path / "low", "--for", "vllm", "-o", tmp_path / "peft"], capsys)
    assert code == 0 and "can be served" in out and (tmp_path / "peft" / "adapter_model.safetensors").is_file()
    code, _, err = called(["export", model, tmp_path / "low", "--for", "nobody"], capsys)
    assert code == 2 and "nobody" in err


def test_merged_language_models_keep_their_heads(model: str, tmp_path: Path, capsys: Any) -> None:
    from adapters import AutoAdapterModel

    plain = BertForMaskedLM(BertConfig.from_pretrained(model, tie_word_embeddings=False))
    plain.save_pretrained(tmp_path / "lm")
    own = low_rank(AutoAdapterModel.from_pretrained(tmp_path / "lm"), tmp_path / "low")
    assert called(["merge", tmp_path / "lm", tmp_path / "low", "-o", tmp_path / "merged", "-q"], capsys)[0] == 0
    merged = BertForMaskedLM.from_pretrained(tmp_path / "merged").eval()
    ids = torch.tensor([[2, 7, 8, 3]])
    assert torch.allclose(merged(ids).logits, own.eval()(ids).logits, atol=1e-5)
    assert not torch.allclose(merged(ids).logits, plain.eval()(ids).logits, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--task", "mrcp"], "no task 'mrcp'"),
        (["--kind", "tagging", "--set", "training.lr=1"], "training.lr is not known"),
        (["--kind", "tagging", "--set", "trainnig.epochs=1"], "did you mean training?"),
        (["--kind", "tagging", "--set", "training.epoch=1"], "did you mean training.epochs?"),
        (["--kind", "tagging", "--set", "task.text=[a"], "the value is no YAML (line 1, column 3"),
        (["--kind", "tagging", "--batch-size", "0"], "batch_size is 0: input should be greater"),
        (["--kind", "tagging", "--batch-size", "many"], "'--batch-size'"),
        (["--kind", "tagging", "--learning-rate", "-1"], "learning_rate is -1.0"),
        (["--kind", "tagging", "--epochs", "inf"], "epochs is inf"),
        (["--kind", "tagging", "--epoch", "1"], "--epochs"),
        (["--kind", "tagging", "--set", "seed=true"], "seed is True"),
        (["--kind", "tagging", "--name", "a/b"], "adapter.name is 'a/b'"),
        (["--kind", "tagging", "--text", "a,"], "task.text is ['a', '']"),
        (["--task", "sst2", "--adapter", "seq_bm"], "did you mean 'seq_bn'"),
        (["--task", "sst2", "--adapter", "lora[r=-1]"], "r is -1"),
        (["--task", "sst2", "--model", "/nowhere/model"], "There is no folder /nowhere/model"),
        (["--task", "sst2", "--under", "/nowhere/adapter"], "/nowhere/adapter"),
        (["--task", "sst2", "--set", "adapter.drop_layers=9"], "this model has 2 layers"),
        (["--resume", "--overwrite", "--task", "sst2"], "exclude each other"),
        (["--kind", "tagging", "--set", "training.epochs"], "give a key and a value"),
        (["--kind", "tagging"], "has no column 'ner_tags'"),
        (["--kind", "masked_lm", "--text", "a,b"], "task.text names 2 columns (a, b); masked_lm reads 1, such as text"),
        (["--kind", "regression", "--set", "task.labels=[a]"], "there are no labels in regression"),
        (["--task", "sst2", "--text", "text"], "has no column 'text'"),
        (["--task", "sst2", "--train", "/nowhere.csv"], "There is no file /nowhere.csv"),
        (["--task", "sst2", "--fuse", "a", "--adapter", "lora"], "fuse trains no adapter of its own"),
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


GOOD = '{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n'
BAD_FILES = {
    "unknown label": ("train.jsonl", GOOD, GOOD.replace("1}", "3}"), r"validation.jsonl, line 2: label is 3"),
    "no column": ("train.jsonl", GOOD.replace("text", "txt"), GOOD, r"no column 'text'.*did you mean 'txt'"),
    "null": ("train.jsonl", GOOD.replace('"b"', "null"), GOOD, "line 2 has nothing in column 'text'"),
    "a list": ("train.jsonl", GOOD.replace('"b"', "[1]"), GOOD, "it should be a text"),
    "an empty label": ("train.jsonl", GOOD.replace("1}", '""}'), GOOD, "it should be one label"),
    "no number": ("train.jsonl", GOOD.replace("1}", "NaN}"), GOOD, "line 2: NaN is no number"),
    "broken": ("train.jsonl", GOOD + '{"text": ', GOOD, r"line 3 is no JSON: .*column 10"),
    "empty": ("train.jsonl", GOOD, "", r"validation.jsonl is empty"),
    "one label": ("train.jsonl", GOOD.replace("1}", "0}"), GOOD.splitlines()[0], "all 2 rows .* have the label '0'"),
    "one row": ("train.jsonl", GOOD.splitlines()[0], GOOD.splitlines()[0], "all 1 rows"),
    "no UTF-8": (
        "train.jsonl",
        GOOD.replace("b", "é").encode("latin1"),
        GOOD,
        r"no text in UTF-8 \(byte 0xe9\); iconv",
    ),
    "semicolons": ("train.csv", "text;label\na;0\nb;1\n", "text,label\na,0\n", "first line names text;label alone"),
    "no header": ("train.tsv", "a\t0\nb\t1\n", "a\t0\nb\t1\n", "its first line names a, 0"),
    "a header alone": ("train.csv", "text,label\n", "text,label\n", "empty but for its first line"),
    "an open quote": ("train.csv", 'text,label\n"a,0\nb,1\n', "text,label\na,0\n", "unexpected end of data"),
    "two of a name": ("train.csv", "text,text,label\na,a,0\n", "text,label\na,0\n", "two columns of one name"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_one_line(name: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, train, validation, problem = BAD_FILES[name]
    for split, content in (("train", train), ("validation", validation)):
        path = tmp_path / file.replace("train", split)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    call = ["train", "-m", model, "--kind", "classification", "--data-dir", tmp_path, "-o", tmp_path / "out"]
    code, _, err = called(call, capsys)
    assert code == 2 and re.search(problem, err) and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_outputs_that_are_in_use(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny.splits(tmp_path / "data", tiny.sentences(4))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("mine")
    base = ["train", "-m", model, "--task", "sst2", "--data-dir", data, "-o"]
    for flags in ([], ["--resume"], ["--overwrite"]):
        code, _, err = called([*base, tmp_path / "thesis", *flags], capsys)
        assert code == 2 and "it holds thesis.tex, and no run" in err and err.count("\n") == 1
        code, _, err = called([*base, tmp_path / "thesis" / "thesis.tex", *flags], capsys)
        assert code == 2 and "is a file" in err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_tables_as_spreadsheets_write_them(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '\ufefftext,label\r\n"it was ""good"",\r\nreally",yes\r\nbad,no\r\n'
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_bytes(text.encode())
    output = tmp_path / "out"
    call = ["train", "-m", model, "--kind", "classification", "--data-dir", tmp_path, "-o", output, "-q"]
    assert called([*call, "--set", "training.max_steps=1"], capsys)[0] == 0
    assert called(["evaluate", output, "-q"], capsys)[0] == 0
    for name in ("a.csv", "a.tsv", "a.json", "a.jsonl"):
        code, _, err = called(["predict", output, "-f", tmp_path / "train.csv", "-o", tmp_path / name, "-q"], capsys)
        assert code == 0 and not err
    tables = [read(tmp_path / name) for name in ("a.csv", "a.tsv", "a.json", "a.jsonl")]
    assert len({tuple(str(row["score"]) for row in table.rows) for table in tables}) == 1
    code, _, err = called(["predict", output, "-t", "a", "-o", tmp_path / "a.xlsx"], capsys)
    assert code == 2 and "ends with '.xlsx'" in err


def test_pushed_and_pulled_adapters_answer_alike(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [{"sentence1": "it was good", "sentence2": f"it was {w}", "label": w == "fine"} for w in ("fine", "bad")]
    data, output, hub = tiny.splits(tmp_path / "data", pairs), tmp_path / "out", tmp_path / "hub"
    call = ["train", "-m", model, "--task", "mrpc", "--data-dir", data, "-o", output, "--epochs", 1, "-q"]
    assert called(call, capsys)[0] == 0
    assert called(["hub", "init", hub, "-q"], capsys)[0] == 0
    assert called(["push", output, "paraphrase/mrpc@me", "--hub", hub], capsys)[0] == 0
    card = next((hub / "adapters").rglob("*.yaml")).read_text()
    assert "accuracy" in card and "Trained for 1 epochs" in card
    pulled = tmp_path / "pulled"
    assert called(["pull", "paraphrase/mrpc@me", pulled, "--hub", hub, "-m", model], capsys)[0] == 0
    texts = ["-t", "it was good", "-t", "it was fine"]
    code, own, _ = called(["predict", output, *texts], capsys)
    for adapter in ([pulled], ["paraphrase/mrpc@me", "--hub", hub]):  # which know their columns
        code, theirs, _ = called(["predict", *adapter, "-m", model, *texts], capsys)
        assert code == 0 and theirs == own
    code, _, err = called(["predict", pulled, "-m", model, "--columns", "sentence1", *texts[:2]], capsys)
    assert code == 0
    code, _, err = called(["predict", pulled, "-m", model, "--columns", "sentence1,sentence1", *texts], capsys)
    assert code == 2 and "each once" in err
    code, _, err = called(["predict", pulled, *texts], capsys)
    assert code == 2 and "say --model too" in err
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(pairs[0]) + "\n"))
    code, out, _ = called(["predict", output, "-f", "-"], capsys)
    assert code == 0 and len(out.splitlines()) == 1


def test_a_run_goes_on_without_being_told_again(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = tiny.splits(tmp_path / "data", tiny.sentences(8)), tmp_path / "out"
    call = ["train", "-m", model, "--task", "sst2", "--data-dir", data, "-o", output, "--set", "adapter.config=null"]
    code, out, _ = called([*call, "--set", "training.max_steps=2", "--json"], capsys)
    first = json.loads(out)
    code_of_none, _, err = called(["train", "--resume", "-o", tmp_path / "none"], capsys)
    assert code_of_none == 2 and "holds no run to go on with" in err
    assert code == 0 and first["bytes"] == sum(path.stat().st_size for path in (output / "adapter").glob("*head*"))
    (output / "metrics.json").unlink()  # as if it had been killed before
    code, out, _ = called(["train", "--resume", "-o", output, "--json"], capsys)
    assert code == 0 and json.loads(out)["loss"] == first["loss"]
    assert f"# It came to loss {first['loss']}" in (output / "run.yaml").read_text()


def test_what_a_terminal_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with followed(quiet=False) as watch:
        watch({"step": 1, "steps": 2, "loss": 0.5})
        watch({"step": 1, "steps": 2, "batch": 1, "batches": 3})
        watch({"step": 2, "steps": 2, "epoch": 1.0, "eval_loss": 0.25, "eval_accuracy": 87.5, "eval_runtime": 3.0})
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"step +epoch +train loss +loss +accuracy\s+2 +1 +0.5 +0.25 +87.5", shown)
    assert "2/2" in shown and "runtime" not in shown


def test_shells_complete_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(completing.CONFIGURATIONS) == set(presets())
    assert completing.configurations("lo") == ["lora", "loreft"] and completing.tasks("mr") == ["mrpc"]
    assert completing.kinds("tag") == ["tagging"] and completing.keys("training.ep") == ["training.epochs="]
    code, out, _ = called(["--version"], capsys)
    assert code == 0 and re.fullmatch(r"adapters \d\S+\n", out)


def test_all_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    names = [[str(one.name)] for one in app.registered_commands]
    names += [["hub", str(one.name)] for one in hub.app.registered_commands]
    for name in names:
        out = called([*name, "--help"], capsys)[1]
        assert f"adapters {' '.join(name)}" in out.partition("Examples:")[2], name


def test_answers_of_several_lines_stay_in_theirs() -> None:
    answers = [{"text": "one\ntwo", "n": 1}, {"text": 'a "b"', "n": [1]}]
    lines = predict._tabs(answers).splitlines()
    assert lines == ["text\tn", '"one\\ntwo"\t1', 'a "b"\t[1]']


def test_help_is_there_at_once() -> None:
    for call in (["--help"], ["train", "--help"], ["hub"]):
        code = (
            f"import sys\nfrom adapters.commands.app import run\ntry:\n    run({call})\nexcept SystemExit as end:\n"
            "    assert not end.code and not {'torch', 'transformers'} & set(sys.modules)"
        )
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert "Usage" in shown and max(map(len, shown.splitlines())) <= 80
        assert "Examples:" in shown or "train" not in call


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


def test_readers_that_have_enough_are_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    call = [sys.executable, "-m", "adapters.commands", "config-schema"]
    ended = subprocess.run(call, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert ended.returncode == 1 and not ended.stderr
