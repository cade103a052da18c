"""Real labelled text without a download: the docstrings of Python's own standard library.

The task is to read a docstring and say which part of the library it comes from. The label needs
no annotator: a module belongs to one of the topics by which the library's own documentation groups its modules.
"""

import ast
import hashlib
import re
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Topic: what it is about, and the modules and packages that belong to it.
TOPICS: dict[str, tuple[str, str]] = {
    "text": (
        "strings, patterns, markup and data formats",
        "string re textwrap difflib codecs gettext locale html xml json csv plistlib pprint configparser base64 "
        "quopri binhex uu stringprep reprlib tomllib netrc xdrlib",
    ),
    "networking": (
        "sockets, protocols, mail and the web",
        "socket socketserver ssl http urllib ftplib smtplib imaplib poplib nntplib telnetlib xmlrpc ipaddress email "
        "mailbox webbrowser wsgiref cgi smtpd asyncore asynchat mimetypes mailcap",
    ),
    "concurrency": (
        "threads, processes, tasks and signals",
        "asyncio threading multiprocessing concurrent queue sched _threading_local subprocess signal contextvars "
        "selectors _weakrefset",
    ),
    "data types": (
        "numbers, dates and containers",
        "collections datetime _pydatetime calendar _strptime decimal _pydecimal fractions numbers statistics random "
        "heapq bisect enum dataclasses copy types weakref graphlib array _collections_abc _pylong zoneinfo colorsys "
        "functools operator typing abc copyreg",
    ),
    "files": (
        "paths, archives, compression and persistence",
        "os pathlib shutil tempfile glob fnmatch posixpath ntpath genericpath stat filecmp fileinput zipfile tarfile "
        "gzip bz2 lzma _compression _pyio io dbm shelve pickle pickletools sqlite3 linecache zipapp aifc wave sunau "
        "chunk",
    ),
    "testing": (
        "tests, debugging, profiling and logging",
        "unittest doctest pdb bdb trace traceback cProfile profile pstats timeit tracemalloc logging warnings",
    ),
    "language": (
        "compiling, importing and inspecting Python",
        "ast dis inspect tokenize token symtable compileall py_compile importlib pkgutil modulefinder code codeop "
        "pyclbr pydoc opcode runpy zipimport venv distutils lib2to3 ensurepip sysconfig site _bootsubprocess tabnanny",
    ),
    "interface": (
        "windows, terminals and command lines",
        "tkinter turtle idlelib curses cmd argparse optparse getopt rlcompleter getpass pty tty turtledemo",
    ),
}

_TOPIC_OF = {name: topic for topic, (_, names) in TOPICS.items() for name in names.split()}

# Tests of the library are not the library.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__phello__"}

_MIN_WORDS = 5
_MAX_CHARACTERS = 600  # the model reads fewer
_MAX_PER_MODULE = 40
_MAX_PER_TOPIC = 450
_TEST_SHARE = 0.25


@dataclass(frozen=True)
class Example:
    """The text of one docstring, and where it stands."""

    text: str
    topic: str
    module: str
    name: str


@dataclass(frozen=True)
class Split:
    """Texts to train on, and texts of other modules to test on."""

    train: list[Example]
    test: list[Example]


def harvest(library: Path | None = None) -> list[Example]:
    """Every usable docstring of the standard library, in a fixed order.

    The files are parsed, never imported. A text that stands in several places counts once, so that no test text was
    seen in training; a text found under two topics has no right answer and is dropped.

    Raises:
        FileNotFoundError: this Python comes without the source of its library.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    topics_of_text: dict[str, set[str]] = defaultdict(set)
    first_of_text: dict[str, Example] = {}
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        topic = _TOPIC_OF.get(relative.parts[0].removesuffix(".py"))
        if topic is not None and _LEFT_OUT.isdisjoint(relative.parts):
            for example in _examples_of_file(path, _module_name(relative), topic):
                topics_of_text[example.text.lower()].add(topic)
                first_of_text.setdefault(example.text.lower(), example)
    if not first_of_text:
        raise FileNotFoundError(f"There are no Python files with docstrings in {library}, where the library should be.")
    return _balance([example for key, example in first_of_text.items() if len(topics_of_text[key]) == 1])


def split(examples: list[Example]) -> Split:
    """Divide by module: all docstrings of a file are in training, or all are in the test.

    Within each topic modules are taken for the test, in the order of a hash of their names, until they have a quarter
    of the texts: every topic is tested on several modules, and which ones does not depend on the machine.
    """
    for_test: set[str] = set()
    for topic in TOPICS:
        sizes = Counter(example.module for example in examples if example.topic == topic)
        wanted = sizes.total() * _TEST_SHARE
        for module in sorted(sizes, key=_stable_hash):
            if sizes[module] <= wanted / 3:  # no test of a topic is mostly one module
                for_test.add(module)
            if sum(sizes[m] for m in for_test) >= wanted:
                break
    return Split(
        [example for example in examples if example.module not in for_test],
        [example for example in examples if example.module in for_test],
    )


def _module_name(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _examples_of_file(path: Path, module: str, topic: str) -> Iterator[Example]:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # templates and files for another version of Python
        return
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        docstring = ast.get_docstring(node)
        if not docstring:
            continue
        name = module if isinstance(node, ast.Module) else node.name
        text = _prose(docstring, name, module)
        if len(re.findall(r"[A-Za-z]{2,}", text)) >= _MIN_WORDS:
            yield Example(text, topic, module, name)


def _prose(docstring: str, name: str, module: str) -> str:
    """The text before examples, without the signature that older docstrings open with, and without the module's name.

    "The asyncio event loop" would give its topic away to whoever has seen the sister modules of asyncio in training.
    """
    signature = rf"(?:\w+\.)*{re.escape(name)}\([^)]*\)(?:[ \t]*->.*)?"
    without_signature = re.sub(signature, "", docstring).lstrip(" \t\n:.-")
    prose = without_signature.partition(">>>")[0]
    for part in {module, *module.split(".")}:
        prose = re.sub(rf"\b{re.escape(part)}\b", "", prose, flags=re.IGNORECASE)
    return " ".join(prose.split())[:_MAX_CHARACTERS]


def _balance(examples: list[Example]) -> list[Example]:
    """Keep some per module and per topic, so that no big module (tkinter has several hundred docstrings) dominates.

    Which ones stay is decided by a hash of the text.
    """
    per_module: Counter[str] = Counter()
    per_topic: Counter[str] = Counter()
    kept = []
    for example in sorted(examples, key=lambda example: _stable_hash(example.text)):
        if per_module[example.module] < _MAX_PER_MODULE and per_topic[example.topic] < _MAX_PER_TOPIC:
            per_module[example.module] += 1
            per_topic[example.topic] += 1
            kept.append(example)
    return kept


def _stable_hash(text: str) -> int:
    """A number that is the same in every process, other than `hash`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
