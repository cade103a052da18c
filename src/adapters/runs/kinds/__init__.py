"""The kinds of tasks, one file each; a new one is a file and a line here."""

from .answering import QuestionAnswering
from .base import Kind as Kind
from .base import Prepared as Prepared
from .choice import MultipleChoice
from .classification import Classification, Regression
from .grouped import MultiRC, ReCoRD
from .images import ImageClassification
from .language_modeling import CausalLM, MaskedLM
from .parsing import DependencyParsing
from .seq2seq import Seq2SeqLM
from .tagging import Tagging

KINDS: dict[str, type[Kind]] = {
    "classification": Classification,
    "regression": Regression,
    "multiple_choice": MultipleChoice,
    "tagging": Tagging,
    "question_answering": QuestionAnswering,
    "dependency_parsing": DependencyParsing,
    "masked_lm": MaskedLM,
    "causal_lm": CausalLM,
    "seq2seq_lm": Seq2SeqLM,
    "image_classification": ImageClassification,
}

NAMED: dict[str, type[Kind]] = {"multirc": MultiRC, "record": ReCoRD}
"""Tasks with a kind of their own."""
