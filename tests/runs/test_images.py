"""Images in folders: learned, measured, and answered, with labels and without."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from adapters.runs import RunConfig, RunError
from adapters.runs.fitting import train
from adapters.runs.using import Trained

pytest.importorskip("accelerate")
pil = pytest.importorskip("PIL.Image")
COLOURS = {"blue": (0, 0, 250), "red": (250, 0, 0)}


def paint(folder: Path, colours: dict[str, str], count: int) -> Path:
    """Images of each colour, in the folder that is said."""
    for colour, place in colours.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pil.new("RGB", (20 + number, 16), COLOURS[colour]).save(folder / place / f"{colour}{number}.png")
    return folder


def test_images_in_folders(tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    ViTModel(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=16,
            patch_size=8,
            initializer_range=0.2,
        )
    ).save_pretrained(model)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(model)
    for split in ("train", "val"):
        paint(data / split, {name: name for name in COLOURS}, 8)
    config = {
        "model": str(model),
        "task.kind": "image_classification",
        "task.data_dir": str(data),
        "training.epochs": 6,
        "training.batch_size": 4,
        "training.learning_rate": 0.02,
        "output": str(tmp_path / "out"),
    }
    assert train(RunConfig.read(None, config)).metrics["accuracy"] == 100
    found = Trained.load(tmp_path / "out")
    assert found.evaluate(found.rows(None, "validation"))["accuracy"] == 100
    plain = paint(tmp_path / "plain", {name: "." for name in COLOURS}, 2)
    answers = found.predict(found.rows(plain, "test"))
    assert [answer["label"] for answer in answers] == ["blue", "blue", "red", "red"]
    assert found.predict(found.rows_of_texts([str(plain / "red0.png")]))[0]["label"] == "red"
    with pytest.raises(RunError, match="line 1 has no column 'label'"):
        found.evaluate(found.rows(plain, "test"))
    (tmp_path / "none").mkdir()
    with pytest.raises(RunError, match="holds no images"):
        found.rows(tmp_path / "none", "test")
    with pytest.raises(RunError, match=r"there is no image .*green\.png"):
        found.predict(found.rows_of_texts(["green.png"]))
