"""Real labelled text without a download: the docstrings of Python's own standard library.

The task is to read the first paragraph of a docstring and say what kind of code it documents. The label needs no
annotator, because the syntax tree next to the docstring knows the answer.
"""

import ast
import hashlib
import re
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = {
    "module": "a module or package",
    "class": "a class that is not an exception",
    "exception": "an exception or warning class",
    "function": "a function or method that returns a value",
    "procedure": "a function or method that returns nothing",
}

# Not the library itself (other people's packages, tests, bundled programs), or generated files that all read alike.
_LEFT_OUT = {
    "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "encodings",
    "pydoc_data", "__phello__",
}  # fmt: skip

_MIN_WORDS = 4
_MAX_PER_MODULE_AND_KIND = 30
_MAX_PER_KIND = 900
_TEST_FOLD, _FOLDS = 0, 4

_FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_Documented = ast.Module | ast.ClassDef | _FunctionNode


@dataclass(frozen=True)
class Example:
    """The first paragraph of one docstring, and what it documents."""

    text: str
    kind: str
    module: str
    name: str

    @property
    def package(self) -> str:
        """The top-level package or module, the unit that is never divided between training and test."""
        return self.module.partition(".")[0]


@dataclass(frozen=True)
class Split:
    train: list[Example]
    test: list[Example]


def harvest(library: Path | None = None) -> list[Example]:
    """Every usable docstring of the standard library, in a fixed order.

    The files are parsed, never imported. A text that stands in several places counts once, so that no test text was
    seen in training; a text found under two kinds has no right answer and is dropped.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    kinds_of_text: dict[str, set[str]] = defaultdict(set)
    first_of_text: dict[str, Example] = {}
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if _LEFT_OUT.isdisjoint(relative.parts):
            for example in _examples_of_file(path, _module_name(relative)):
                key = example.text.lower()
                kinds_of_text[key].add(example.kind)
                first_of_text.setdefault(key, example)
    unambiguous = [example for key, example in first_of_text.items() if len(kinds_of_text[key]) == 1]
    return _balance(unambiguous)


def split(examples: list[Example], test_fold: int = _TEST_FOLD) -> Split:
    """Divide by top-level package: asyncio, with all its submodules, is either training or test, never both.

    The side follows from a hash of the name, so it is the same on every machine and with every version of Python.
    """
    train: list[Example] = []
    test: list[Example] = []
    for example in examples:
        (test if _stable_hash(example.package) % _FOLDS == test_fold else train).append(example)
    return Split(train, test)


def _module_name(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _examples_of_file(path: Path, module: str) -> Iterator[Example]:
    tree = ast.parse(path.read_bytes())
    exceptions = _exception_classes(tree)
    for node in ast.walk(tree):
        if not isinstance(node, _Documented):
            continue
        kind = _kind(node, exceptions)
        docstring = ast.get_docstring(node)
        if kind is None or docstring is None:
            continue
        name = module if isinstance(node, ast.Module) else node.name
        text = _first_paragraph(docstring, name)
        if len(re.findall(r"[A-Za-z]{2,}", text)) >= _MIN_WORDS:
            yield Example(text, kind, module, name)


def _first_paragraph(docstring: str, name: str) -> str:
    """The summary, without the signature that older docstrings open with.

    `Sections` such as "Returns:" come later and would give the answer away, and so would `read(size) -> bytes`.
    The length of the whole docstring would too: those of modules are by far the longest.
    """
    signature = rf"(?:\w+\.)*{re.escape(name)}\([^)]*\)(?:[ \t]*->.*)?"
    without_signature = re.sub(signature, "", docstring).lstrip(" \t\n:.-")
    paragraph = re.split(r"\n\s*\n|>>>", without_signature)[0]
    return " ".join(paragraph.split())


def _kind(node: _Documented, exceptions: set[str]) -> str | None:
    """The label, or None where the code does not give a clear one."""
    if isinstance(node, ast.Module):
        return "module"
    if isinstance(node, ast.ClassDef):
        return "exception" if node.name in exceptions else "class"
    if isinstance(node, ast.AsyncFunctionDef) or _is_property(node) or _is_stub(node):
        return None
    own = list(_own_statements(node))
    if any(isinstance(item, ast.Yield | ast.YieldFrom) for item in own):
        return None
    returns = (item.value for item in own if isinstance(item, ast.Return))
    return "function" if any(value is not None and not _is_none(value) for value in returns) else "procedure"


def _exception_classes(tree: ast.Module) -> set[str]:
    """Names of the exception classes of a file, including those that inherit from another one of the same file."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = {_last_name(base) for base in node.bases}
            if bases & found or any(base.endswith(("Error", "Exception", "Warning")) for base in bases):
                found.add(node.name)
    return found


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def _is_property(node: _FunctionNode) -> bool:
    """Whether it is read or set like a value: its docstring describes the value."""
    return any(_last_name(decorator).endswith(("property", "setter", "deleter")) for decorator in node.decorator_list)


def _is_stub(node: _FunctionNode) -> bool:
    """Whether the body says nothing about what the documented function returns: empty, or it only raises."""
    return all(
        isinstance(statement, ast.Pass | ast.Raise)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in node.body
    )


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _own_statements(node: _FunctionNode) -> Iterator[ast.AST]:
    """The nodes of a function body without those of functions and classes defined inside it."""
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        item = waiting.pop()
        if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield item
            waiting.extend(ast.iter_child_nodes(item))


def _balance(examples: Iterable[Example]) -> list[Example]:
    """Keep no more than a handful per module and a few hundred per kind, so that no big module (tkinter has several
    hundred docstrings) and no common kind dominates. Which ones stay is decided by a hash of the text."""
    per_module: Counter[tuple[str, str]] = Counter()
    per_kind: Counter[str] = Counter()
    kept = []
    for example in sorted(examples, key=lambda example: _stable_hash(example.text)):
        place = (example.module, example.kind)
        if per_module[place] < _MAX_PER_MODULE_AND_KIND and per_kind[example.kind] < _MAX_PER_KIND:
            per_module[place] += 1
            per_kind[example.kind] += 1
            kept.append(example)
    return kept


def _stable_hash(text: str) -> int:
    """Unlike hash(), the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
