"""`adapters inspect`, `summary`, `merge`, `convert` and `export`: commands about a model and adapters of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import Json, Place, Quiet, adapter_in, examples, note, without_loading, write_json

INSPECT = examples("adapters inspect bert-base-uncased", 'adapters inspect gpt2 --config "lora[r=8]"')
SUMMARY = examples("adapters summary bert-base-uncased runs/mrpc")
MERGE = examples("adapters merge bert-base-uncased runs/lora --output merged")
CONVERT = examples("adapters convert bert-base-uncased runs/dora --rank 8 --output as-lora")
DEMO = examples("adapters demo --quick", "adapters demo --output my-demo --epochs 5")
EXPORT = examples(
    "adapters export llama runs/lora --for vllm",
    "adapters export llama runs/lora --for vllm --output served",
)

Model = Annotated[str, typer.Argument(help="A model: a folder, or a name on the Hugging Face Hub.", metavar="MODEL")]
Adapter = Annotated[str, typer.Argument(help="A folder, an archive, or a name on a hub.", metavar="ADAPTER")]
Folder = Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")]
Rank = Annotated[int | None, typer.Option("--rank", "-r", min=1, help="Rank of the LoRA that it is converted to.")]


def inspect_command(
    model: Model,
    config: Annotated[str | None, typer.Option("--config", "-c", help='Such as "seq_bn": what it would add.')] = None,
) -> None:
    """Show the parts of a model that adapters act on, and what a configuration would add."""
    import torch
    from transformers import AutoConfig, AutoModel

    from ..inspection import inspect
    from ..runs.models import place_of

    with torch.device("meta"):  # its weights are not needed
        parts = AutoModel.from_config(AutoConfig.from_pretrained(place_of(model)))  # type: ignore[no-untyped-call]
    with torch.device("cpu"):
        typer.echo(inspect(parts, config))


def summary_command(
    model: Model,
    adapters: Annotated[list[str] | None, typer.Argument(help="Adapters to load.", metavar="ADAPTER…")] = None,
    hub: Place = None,
    json: Json = False,
) -> None:
    """Load adapters into a model, and show their sizes."""
    loaded = _loaded(model, adapters or (), hub)[0]
    if json:
        write_json(loaded.adapter_summary(as_dict=True))
    else:
        typer.echo(loaded.adapter_summary())


def merge_command(
    model: Model, adapter: Adapter, output: Folder, hub: Place = None, json: Json = False, quiet: Quiet = False
) -> None:
    """Put an adapter into the weights of a model, and write it as a plain model of transformers."""
    import os
    import shutil

    _check_is_free(output)
    loaded = _plain(model)
    name = loaded.load_adapter(adapter_in(adapter), hub=hub, with_head=False)
    loaded.merge_adapter(name)
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.unfinished")
    try:
        loaded.save_pretrained(unfinished)
        _save_tokenizer(model, unfinished)
        os.replace(unfinished, output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    if json:
        write_json({"merged": name, "output": str(output)})
    note(f"{name} is part of the model in {output}; a head of its own is not: it is in the adapter.", quiet or json)


def convert_command(
    model: Model,
    adapter: Adapter,
    output: Folder,
    rank: Rank = None,
    hub: Place = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn an adapter that changes weights into a plain LoRA, and say how near it is."""
    from ..interchange.conversion import convert_to_lora

    _check_is_free(output)
    loaded, (name,) = _loaded(model, [adapter], hub)
    report = convert_to_lora(loaded, name, f"{name}-lora", rank)
    loaded.save_adapter(output, f"{name}-lora")
    if json:
        write_json(asdict(report))
    else:
        typer.echo(str(report))
    note(f"{name}-lora is in {output}", quiet or json)


def export_command(
    model: Model,
    adapter: Adapter,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder; without it nothing is written.")
    ] = None,
    consumer: Annotated[str, typer.Option("--for", help="peft, vllm, lorax, tgi or llama.cpp.")] = "peft",
    rank: Rank = None,
    hub: Place = None,
    json: Json = False,
) -> None:
    """Write an adapter in the layout of PEFT for a program that serves it, or say why that cannot be."""
    from ..interchange.exporting import check_export, export_adapter

    if output is not None:
        _check_is_free(output)
    loaded, (name,) = _loaded(model, [adapter], hub)
    report = check_export(loaded, name, consumer, rank=rank)
    if output is not None and report.is_served:
        report = export_adapter(loaded, name, output, consumer, rank=rank)
    if json:
        write_json({**asdict(report), "is_served": report.is_served})
    else:
        typer.echo(str(report))
    if not report.is_served:
        raise typer.Exit(1)


def demo_command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for the adapter, the picture and the test set.")
    ] = Path("demo-output"),
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Rounds over the training texts.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny run that shows every part; learns little.")] = False,
) -> None:
    """Train an adapter on a real model and real text, offline, in some minutes."""
    from ..demo.__main__ import prepare

    prepare()
    from ..demo import cli, training

    cli.main(output, training.EPOCHS if epochs is None else epochs, seed, quick)


def _loaded(model: str, adapters: Any, hub: str | None) -> tuple[Any, list[str]]:
    """A model with adapters, and their names."""
    from ..runs.models import load_model, place_of

    without_loading(quiet=False)
    loaded = load_model(place_of(model))
    return loaded, [loaded.load_adapter(adapter_in(adapter), hub=hub) for adapter in adapters]


def _plain(model: str) -> Any:
    """A model of the class that it was saved with, so that it keeps its own head, such as that of a language model."""
    import transformers

    from ..model import init
    from ..runs.models import place_of

    place = place_of(model)
    names = transformers.AutoConfig.from_pretrained(place).architectures or ()
    own = next((found for name in names if (found := getattr(transformers, name, None))), transformers.AutoModel)
    without_loading(quiet=False)
    loaded = own.from_pretrained(place, dtype="auto")
    init(loaded)
    return loaded


def _check_is_free(output: Path) -> None:
    """See whether a folder can be written.

    Raises:
        AdapterFileError: there is a file, or something in it.
    """
    from ..checkpoints.files import AdapterFileError

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        what = "is not empty" if output.is_dir() else "is a file"
        raise AdapterFileError(f"{output} {what}; choose another folder.")


def _save_tokenizer(model: str, output: Path) -> None:
    """Write the tokenizer of a model beside it, if it has one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError):  # models of images and speech have none
        return
    tokenizer.save_pretrained(output)
