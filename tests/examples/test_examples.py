"""Every example runs as its description says, with a tiny model on tiny data."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.testing
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXT = "the film book ship was is good bad fine poor long old not very she he read saw and"
WORDS = TEXT.split()
TRAINING = ("accelerate", "torchmetrics", "matplotlib")
NEEDS = {"lora_causal_lm": (), "image_classification": ("PIL",)}  # others need all of the above
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny encoder and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({w: n for n, w in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=32, **names).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    # with usual weights so small a model hardly sees its words
    sizes |= {"vocab_size": len(SPECIAL) + len(WORDS), "max_position_embeddings": 32}
    config = BertConfig(**sizes, initializer_range=0.2, hidden_dropout_prob=0.0)
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tasks that a word decides."""
    folder = tmp_path_factory.mktemp("data")
    for task, labels in (("mrpc", 2), ("stsb", 1), ("cb", 3), ("rte", 2)):
        for split, count in (("train", 24), ("validation", 12)):
            rows = [
                {"sentence1": sentence(n), "sentence2": sentence(n + 3), "label": n / 4 if labels == 1 else n % labels}
                for n in range(count)
            ]
            write(folder / task / f"{split}.jsonl", rows)
    for split in ("train", "test"):
        kinds = [("weblog", "email")[n % 2] for n in range(24)]
        write(folder / "ud_en_ewt" / f"{split}.jsonl", [tagged(n, f"{kind}-{n}") for n, kind in enumerate(kinds)])
    return folder


def sentence(n: int) -> str:
    return " ".join(WORDS[(n * step) % len(WORDS)] for step in range(1, 4 + n % 4))


def tagged(n: int, name: str) -> dict[str, Any]:
    tokens = sentence(n).split()
    tags = [("NOUN", "VERB", "DET")[len(token) % 3] for token in tokens]
    return {"id": name, "text": " ".join(tokens), "tokens": tokens, "upos": tags}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs an example, and gives what it prints."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)

    def call(example: str, *arguments: object, fails: str | None = None) -> str:
        for library in NEEDS.get(example, TRAINING):
            pytest.importorskip(library)
        app = typer.Typer(add_completion=False)
        app.command()(__import__(example).main)
        result = typer.testing.CliRunner().invoke(app, [str(argument) for argument in arguments])
        if fails is not None:
            assert isinstance(result.exception, SystemExit) and fails in str(result.exception)
        elif result.exception is not None:
            raise result.exception
        return result.stdout

    return call


def test_language_and_task(run: Any, model: str, data: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--data", data, "--language-steps", 4, "--task-steps", 200, "--rate", 0.003]
    run("language_and_task", *options)
    figures = json.loads((tmp_path / "language-and-task" / "figures.json").read_text())
    assert [(one["tested on"], one["on top of"]) for one in figures] == [
        *(("source", "source"), ("target", "source"), ("target", "target"))
    ]
    assert 70 < figures[0]["accuracy"] <= 100  # 45 of 100 words have the most frequent tag
    assert all(0 <= one["accuracy"] <= 100 for one in figures)
    for name in ("source", "target", "task"):
        assert (tmp_path / "language-and-task" / name / "adapter_config.json").is_file()


def test_language_folders(run: Any, model: str, data: Path, tmp_path: Path) -> None:
    for name in ("here", "there"):
        rows = [tagged(n, "") for n in range(20)]
        write(tmp_path / name / "test.jsonl", rows)
        (tmp_path / name / "text.txt").write_text("\n".join(row["text"] for row in rows))
    options = ["--model", model, "--source", "here", "--language-steps", 1, "--task-steps", 1]
    run("language_and_task", *options, "--target", "there", fails="train.jsonl")
    run("language_and_task", *options, fails="Give --source and --target")
    write(tmp_path / "here" / "train.jsonl", rows)
    assert run("language_and_task", *options, "--target", "there").count("adapter") == 3


WAYS = ["head alone", "own", "own, twice the steps", "mrpc", "fusion", "fusion with own"]


def test_adapter_fusion(run: Any, model: str, data: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--data", data, "--epochs", 1, "--source-epochs", 1, "--sources", "mrpc"]
    options += ["--seeds", 1, "--rates", 1e-3]
    first = run("adapter_fusion", *options)
    figures = json.loads((tmp_path / "fusion.json").read_text())
    assert [one["way"] for one in figures["runs"]] == WAYS
    assert all(0 <= one["metrics"][name] <= 100 for one in figures["runs"] for name in ("accuracy", "f1"))
    shares = {one["way"]: one["trained %"] for one in figures["runs"]}
    assert 0 < shares["head alone"] < shares["mrpc"] == shares["own"]
    assert shares["fusion"] == shares["fusion with own"] > shares["head alone"]
    written = (tmp_path / "fusion.json").stat().st_mtime_ns
    again = run("adapter_fusion", *options)
    assert (tmp_path / "fusion.json").stat().st_mtime_ns == written  # nothing was trained again
    assert again.splitlines()[-8:] == first.splitlines()[-8:]
    run("adapter_fusion", *options, "--batch-size", 8, fails="other settings")
    run("adapter_fusion", *options, "--output", "x.json", "--source-epochs", 2, fails="another --folder")


def test_rates_of_fusion(run: Any, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way is trained with all rates and one seed, and with the best rate and all seeds."""
    pytest.importorskip("torchmetrics")
    import adapter_fusion

    scores = {0.1: 50.0, 0.2: 70.0, 0.3: 60.0}

    def fitted(self: Any, model: Any, name: str, how: Any, limit: int | None = None) -> dict[str, Any]:
        return {"score": scores[how.rate] + how.seed if limit is None else 0.0, "trained %": 1.0}

    monkeypatch.setattr(adapter_fusion.Experiment, "fitted", fitted)
    monkeypatch.setattr(adapter_fusion.Experiment, "prepared", lambda self, way, own: Unsaved())
    rates = [option for rate in scores for option in ("--rates", rate)]
    printed = run("adapter_fusion", "--model", model, "--sources", "mrpc", *rates, "--seeds", 2)
    figures = json.loads((tmp_path / "fusion.json").read_text())["runs"]
    for way in WAYS:
        runs = {(one["rate"], one["seed"]) for one in figures if one["way"] == way}
        assert runs == {(0.1, 1), (0.2, 1), (0.3, 1), (0.2, 2)}
    assert printed.count("0.2     71.5 ± 0.7") == len(WAYS)


class Unsaved:
    """Instead of a model."""

    def save_adapter(self, folder: Path, name: str, with_head: bool) -> None:
        folder.mkdir(parents=True)


def test_adapter_drop(run: Any, model: str, data: Path, tmp_path: Path) -> None:
    printed = run("adapter_drop", "--model", model, "--data", data, "--epochs", 2, "--rounds", 2, "--tasks", 3)
    figures = json.loads((tmp_path / "adapter-drop" / "figures.json").read_text())
    assert all(len(found) == 3 and all(0 <= one <= 100 for one in found) for found in figures["score"].values())
    assert [*figures["speed"]] == ["1 adapter", "3 adapters"]
    for speed in figures["speed"].values():
        assert speed[0]["ratio"] == 1 and all(point["per second"] > 0 for point in speed)
    assert len(printed.splitlines()) == 4
    assert (tmp_path / "adapter-drop" / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_parallel_inference(run: Any, model: str, data: Path, tmp_path: Path) -> None:
    printed = run("parallel_inference", "--model", model, "--rounds", 1)  # it checks that all ways say the same
    assert len(re.findall(r" ms +\d+\.\d\d times", printed)) == 5
    run("adapter_drop", "--model", model, "--data", data, "--epochs", 1, "--rounds", 1)
    folders = [option for kind in ("usual", "robust") for option in ("--adapters", f"adapter-drop/{kind}")]
    assert "every one of 2 tasks" in run("parallel_inference", "--model", model, "--rounds", 1, *folders)
    run("parallel_inference", "--model", model, *folders[:2], fails="at least twice")


def test_lora_causal_lm(run: Any, data: Path, tmp_path: Path) -> None:
    (tmp_path / "style.txt").write_text("\n".join(["she read a very long book and saw the film"] * 40))
    printed = run("lora_causal_lm", "--data", data, "--text", "style.txt", "--base-steps", 4, "--steps", 12)
    before, after = map(float, re.findall(r"perplexity ([\d.]+) before, ([\d.]+) after", printed)[0])
    assert after < before
    assert "reloaded: largest difference 0\n" in printed and "merged: largest difference" in printed
    assert (tmp_path / "lora-causal-lm" / "style" / "adapter_config.json").is_file()
    run("lora_causal_lm", "--quantise", "2bit", fails="neither 4bit nor 8bit")


def test_quantised_lora(run: Any, data: Path, tmp_path: Path) -> None:
    options = ["--data", data, "--base-steps", 2, "--steps", 3, "--quantise", "4bit"]
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        run("lora_causal_lm", *options, fails="pip install bitsandbytes")
    else:
        assert "reloaded: largest difference 0\n" in run("lora_causal_lm", *options)


def test_image_classification(run: Any, tmp_path: Path) -> None:
    printed = run("image_classification", "--epochs", 2)
    before, after = map(float, re.findall(r"accuracy ([\d.]+) before, ([\d.]+) after", printed)[0])
    assert max(45, before) < after <= 100
    assert (tmp_path / "image-classification" / "shapes" / "head_config.json").is_file()
    (tmp_path / "empty").mkdir()
    run("image_classification", "--images", tmp_path / "empty", fails="images of 0 labels")


def test_whole_model_and_adapter(run: Any, model: str, data: Path, tmp_path: Path) -> None:
    printed = run("whole_model_and_adapter", "--model", model, "--data", data, "--epochs", 1)
    assert "gives the same logits" in printed and 0 <= float(re.findall(r"rte: ([\d.]+)", printed)[0]) <= 100
    from adapters import AutoAdapterModel

    former, trained = (
        AutoAdapterModel.from_pretrained(model),
        AutoAdapterModel.from_pretrained(tmp_path / "whole-model"),
    )
    before, after = former.state_dict(), trained.state_dict()
    layers = [name for name in before if name.startswith("bert.encoder") and name.endswith("query.weight")]
    assert layers and all(not torch.equal(before[name], after[name]) for name in layers)


def test_a_task_that_is_not_there(run: Any, model: str, data: Path) -> None:
    run("whole_model_and_adapter", "--model", model, "--data", data, "--task", "sst2", fails="There is no")
    run("whole_model_and_adapter", "--model", model, "--data", data, "--task", "x", fails="There is no task 'x'")


@pytest.mark.slow
def test_as_a_script(model: str, data: Path, tmp_path: Path) -> None:
    """They find what lies beside them from any folder."""
    pytest.importorskip("torchmetrics")
    command = [sys.executable, str(EXAMPLES / "parallel_inference.py"), "--model", model, "--rounds", "1"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ})
    assert found.returncode == 0 and "adapter_names" in found.stdout, found.stderr
