"""Images with one label each: a folder for each label, or a column with paths.

Shapes: B images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RunError
from ..rows import Row, Rows
from .base import Feature, Prepared
from .classification import Classification

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")


class ImageClassification(Classification):
    """A label for each image. They are opened when they are needed."""

    head_type = "image_classification"
    columns = ("image",)
    counts = range(1, 2)

    def prepared(self, rows: Rows, is_labelled: bool) -> Prepared:
        """The paths of images, seen from the folder of their file, and the numbers of their labels."""
        folder = rows.path if rows.path.is_dir() else rows.path.parent
        paths = [folder / text for text in rows.texts(self.text_columns[0])]
        for line, path in enumerate(paths):
            if not path.is_file():
                raise RunError(f"{rows.where(line)}: there is no image {path}.")
        features: list[Feature] = [{"path": path} for path in paths]
        if is_labelled:
            for feature, number in zip(features, self._labels(rows), strict=True):
                feature["labels"] = number
        return Prepared(rows, features)

    def collated(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """Pixels, as the image processor of the model makes them. Shape: (B, channels, height, width)."""
        from PIL import Image

        images = []
        for feature in features:
            with Image.open(feature["path"]) as image:
                images.append(image.convert("RGB"))
        batch: dict[str, Tensor] = dict(self.processor(images=images, return_tensors="pt"))
        if "labels" in features[0]:
            batch["labels"] = torch.tensor([feature["labels"] for feature in features])
        return batch

    def add_head(self, model: Any, name: str) -> None:
        """An image-classification head with the labels' names."""
        model.add_image_classification_head(name, num_labels=len(self.labels), id2label=self.id2label())


def images_in(folder: Path) -> Rows:
    """The images in a folder: with labels where there is a folder for each, else without.

    Raises:
        RunError: there are none.
    """
    labelled = [path for path in sorted(folder.glob("*/*")) if path.suffix.lower() in SUFFIXES]
    plain = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in SUFFIXES]
    found: list[Row] = [{"image": str(path.relative_to(folder)), "label": path.parent.name} for path in labelled]
    found = found or [{"image": path.name} for path in plain]
    if not found:
        raise RunError(f"{folder} holds no images: there should be a folder for each label, with images in it.")
    return Rows(folder, found, range(1, len(found) + 1))
