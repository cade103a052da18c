"""An adapter and a head for images: a vision transformer learns from a folder of them.

    python examples/image_classification.py --model google/vit-base-patch16-224-in21k --images photos
    python examples/image_classification.py

`--images` has a folder for each label, with its images in it. Every fifth one is kept for testing:

    3 labels, 960 images to learn from, 240 to test
    accuracy 31.7 before, 88.3 after; the adapter and its head are in image-classification/shapes

Without `--images` some are drawn: circles, squares and triangles of any size and colour. Without `--model` there is no
pretrained model: a tiny ViT with random weights stays as it is, and only the adapter and the head learn. A real one
learns more from less.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated, Any

import numpy
import torch
import typer
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import ViTConfig, set_seed

from adapters import AutoAdapterModel

SIDE = 32


def draw_images(folder: Path, count: int, rng: random.Random) -> None:
    """Draw so many images of each shape."""
    for shape in ("circle", "square", "triangle"):
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            back, front = (tuple(rng.randrange(*between) for _ in range(3)) for between in ((0, 100), (150, 256)))
            image = Image.new("RGB", (SIDE, SIDE), back)
            size = rng.randrange(12, 24)
            x, y = rng.randrange(SIDE - size), rng.randrange(SIDE - size)
            pen, box = ImageDraw.Draw(image), (x, y, x + size, y + size)
            if shape == "circle":
                pen.ellipse(box, fill=front)
            elif shape == "square":
                pen.rectangle(box, fill=front)
            else:
                pen.polygon([(x, y + size), (x + size, y + size), (x + size // 2, y)], fill=front)
            image.save(folder / shape / f"{number}.png")


def pixels(paths: list[Path], side: int) -> Tensor:
    """Images as a ViT reads them, with values from -1 to 1. Shape: (B, 3, side, side)."""
    found = []
    for path in paths:
        with Image.open(path) as image:
            values = numpy.asarray(image.convert("RGB").resize((side, side)), dtype="float32")
        found.append(torch.from_numpy(values).permute(2, 0, 1) / 127.5 - 1)
    return torch.stack(found)


def tiny_model() -> Any:
    """A ViT that has learned nothing. With weights as small as usual ones it would hardly see anything."""
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config = ViTConfig(**sizes, num_attention_heads=4, image_size=SIDE, patch_size=8, initializer_range=0.15)
    return AutoAdapterModel.from_config(config)


def train(model: Any, paths: list[Path], labels: Tensor, epochs: int, rate: float) -> None:
    """Train what is not frozen."""
    own = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(paths)), 16):
            images = pixels([paths[i] for i in rows], model.config.image_size).to(model.device)
            loss = model(pixel_values=images, labels=labels[rows].to(model.device)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()


@torch.inference_mode()
def accuracy(model: Any, paths: list[Path], labels: Tensor) -> float:
    """The share of images with the right label, in per cent."""
    model.eval()
    right = 0
    for start in range(0, len(paths), 64):
        images = pixels(paths[start : start + 64], model.config.image_size).to(model.device)
        right += int((model(pixel_values=images).logits.argmax(-1).cpu() == labels[start : start + 64]).sum())
    return 100 * right / len(paths)


def main(
    images: Annotated[Path | None, typer.Option(help="A folder of folders; by default some are drawn.")] = None,
    model: Annotated[str | None, typer.Option(help="A folder or name; by default a tiny ViT.")] = None,
    config: Annotated[str, typer.Option(help="That of the adapter.")] = "double_seq_bn[reduction_factor=2]",
    epochs: Annotated[int, typer.Option(min=1, help="Rounds over the images.")] = 15,
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="The seed.")] = 1,
    output: Annotated[Path, typer.Option(help="A folder for the adapter.")] = Path("image-classification"),
) -> None:
    """Train an adapter on images, and test it."""
    set_seed(seed)
    if images is None:
        images = output / "drawn"
        draw_images(images, 400, random.Random(seed))
    endings = (".png", ".jpg", ".jpeg", ".webp")
    paths = sorted(path for path in images.glob("*/*") if path.suffix.lower() in endings)
    names = sorted({path.parent.name for path in paths})
    if len(names) < 2:
        raise SystemExit(f"{images} has images of {len(names)} labels: it needs a folder for each label.")
    random.Random(seed).shuffle(paths)
    labels = torch.tensor([names.index(path.parent.name) for path in paths])
    test = torch.arange(len(paths)) % 5 == 0
    learned, tested = ([path for path, is_one in zip(paths, rows, strict=True) if is_one] for rows in (~test, test))
    print(f"{len(names)} labels, {len(learned)} images to learn from, {len(tested)} to test")

    made = tiny_model() if model is None else AutoAdapterModel.from_pretrained(model)
    made.to("cuda" if torch.cuda.is_available() else "cpu")
    made.add_adapter("shapes", config=config)
    made.add_image_classification_head("shapes", num_labels=len(names), id2label=dict(enumerate(names)))
    made.train_adapter("shapes")
    before = accuracy(made, tested, labels[test])
    made.train()
    train(made, learned, labels[~test], epochs, rate)
    after = accuracy(made, tested, labels[test])
    made.save_adapter(output / "shapes", "shapes")
    print(f"accuracy {before:.1f} before, {after:.1f} after; the adapter and its head are in {output / 'shapes'}")


if __name__ == "__main__":
    typer.run(main)
