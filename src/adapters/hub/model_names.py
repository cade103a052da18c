"""The names by which indices may know a model."""

from __future__ import annotations

from pathlib import Path

# The Hugging Face Hub has moved models that once had no organisation; AdapterHub's index has their old names.
_CANONICAL = frozenset(
    ("albert", "almanach", "distilbert", "facebookai", "google-bert", "google-t5", "openai-community", "xlnet")
)


def known_names(model_name: str) -> list[str]:
    """The names to look for in an index, in order.

    >>> known_names("google-bert/bert-base-uncased")
    ['google-bert/bert-base-uncased', 'bert-base-uncased']

    A folder of this machine is looked up by its last name, with which it was most likely downloaded.
    """
    path = Path(model_name).expanduser()
    names = [] if path.is_absolute() else [model_name.strip("/")]
    org, _, last = model_name.strip("/").rpartition("/")
    if path.is_dir():
        names.append(path.resolve().name)
    elif org.lower() in _CANONICAL:
        names.append(last)
    return list(dict.fromkeys(name for name in names if name))


def published_name(model_name: str) -> str:
    """The name of a model under which adapters are published, which all readers know.

    >>> published_name("google-bert/bert-base-uncased")
    'bert-base-uncased'
    """
    return (known_names(model_name) or [Path(model_name).name])[-1]


def file_name(model_name: str) -> str:
    """A model's name as a part of the names of files."""
    return model_name.replace("/", "-").strip(".-")
