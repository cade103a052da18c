"""Prediction heads. `HEADS` is the only list of their types: a new head is a file and a line here."""

from typing import Any

from .base import HeadInputs as HeadInputs
from .base import PredictionHead as PredictionHead
from .base import label_map as label_map
from .classification import ClassificationHead as ClassificationHead
from .classification import MultiLabelClassificationHead as MultiLabelClassificationHead
from .outputs import MultiHeadOutput as MultiHeadOutput

HEADS: dict[str, Any] = {
    "classification": ClassificationHead,
    "multilabel_classification": MultiLabelClassificationHead,
}

LABELS = frozenset({"labels", "start_positions", "end_positions", "labels_arcs", "labels_rels", "word_starts"})
"""The names of the arguments that heads take from the call of a model."""
