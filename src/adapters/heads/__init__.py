"""Prediction heads. `HEADS` is the only list of their types: a new head is a file and a line here."""

from .base import HeadInputs as HeadInputs
from .base import PredictionHead as PredictionHead
from .base import TaskHead as TaskHead
from .base import label_map as label_map
from .choice import MultipleChoiceHead as MultipleChoiceHead
from .classification import ClassificationHead as ClassificationHead
from .classification import MultiLabelClassificationHead as MultiLabelClassificationHead
from .embedding import EmbeddingHead as EmbeddingHead
from .embedding import EmbeddingOutput as EmbeddingOutput
from .image import ImageClassificationHead as ImageClassificationHead
from .language_modeling import BertStyleMaskedLMHead as BertStyleMaskedLMHead
from .language_modeling import CausalLMHead as CausalLMHead
from .language_modeling import LanguageModelHead as LanguageModelHead
from .language_modeling import Seq2SeqLMHead as Seq2SeqLMHead
from .outputs import MultiHeadOutput as MultiHeadOutput
from .own_code import StaticClassHead as StaticClassHead
from .parsing import Biaffine as Biaffine
from .parsing import BiaffineParsingHead as BiaffineParsingHead
from .parsing import DependencyParsingOutput as DependencyParsingOutput
from .ranking import RankingHead as RankingHead
from .regression import TokenRegressionHead as TokenRegressionHead
from .static import StaticHeadError as StaticHeadError
from .tagging import QuestionAnsweringHead as QuestionAnsweringHead
from .tagging import TaggingHead as TaggingHead

HEADS: dict[str, type[PredictionHead]] = {
    "classification": ClassificationHead,
    "multilabel_classification": MultiLabelClassificationHead,
    "tagging": TaggingHead,
    "multiple_choice": MultipleChoiceHead,
    "question_answering": QuestionAnsweringHead,
    "dependency_parsing": BiaffineParsingHead,
    "masked_lm": BertStyleMaskedLMHead,
    "causal_lm": CausalLMHead,
    "seq2seq_lm": Seq2SeqLMHead,
    "image_classification": ImageClassificationHead,
    "token_regression": TokenRegressionHead,
    "embedding": EmbeddingHead,
    "ranking": RankingHead,
    "static_class": StaticClassHead,
}

LABELS = frozenset(
    {
        *("labels", "start_positions", "end_positions", "labels_arcs", "labels_rels", "word_starts"),
        *("margin", "return_loss"),
    }
)
"""The names of the arguments that heads take from the call of a model."""
