"""Prediction heads. `HEADS` is the only list of their types: a new head is a file and a line here."""

from .base import HeadBuilder as HeadBuilder
from .base import HeadInputs as HeadInputs
from .base import PredictionHead as PredictionHead
from .base import label_map as label_map
from .classification import ClassificationHead as ClassificationHead

HEADS: dict[str, HeadBuilder] = {
    "classification": ClassificationHead,
    "multilabel_classification": ClassificationHead,
}
