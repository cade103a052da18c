"""Names of adapters, and how they are looked up in an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.hub import AdapterNotFoundError, AmbiguousAdapterError, HubError
from adapters.hub.identifiers import Identifier, parse, parsed
from adapters.hub.index import config_id_of, find
from adapters.hub.model_names import known_names, published_name
from adapters.hub.pulling import find_in_index

PFEIFFER, HOULSBY, LORA = map(config_id_of, ("seq_bn", "double_seq_bn", "lora"))


def versions(*orgs: str, file: str = "x", **more: str) -> dict[str, Any]:
    return {"versions": {org: f"adapters/{org}/{file}.json" for org in orgs}, **more}


# What AdapterHub wrote: a default for each subtask, and for configurations of several organisations.
INDEX: dict[str, Any] = {
    "sentiment": {
        "sst-2": {
            "default": "adapters/ukp/pf.json",
            PFEIFFER: versions("ukp", "me", file="pf", default="adapters/ukp/pf.json"),
            HOULSBY: versions("ukp", "they", file="h"),
        },
        "imdb": {"default": "adapters/ukp/imdb.json", PFEIFFER: versions("ukp", file="imdb")},
    },
    "sts": {"qqp": {"default": "adapters/ukp/qqp.json", PFEIFFER: versions("ukp", file="qqp")}},
    "nli": {"rte": {HOULSBY: versions("me", file="rte")}, "imdb": {HOULSBY: versions("me", file="imdb")}},
    "lang": {"en": {PFEIFFER: versions("a", "b", file="en")}},
    "old": {"one": {"default": "adapters/ukp/one.json"}},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sentiment/sst-2@ukp", Identifier(("sentiment", "sst-2"), "ukp")),
        ("sts/qqp", Identifier(("sts", "qqp"))),
        ("sst-2", Identifier(("sst-2",))),
        ("sst-2@ukp", Identifier(("sst-2",), "ukp")),
        ("@ukp/bert-base-uncased_sts_qqp_pfeiffer", Identifier((), "ukp", "bert-base-uncased_sts_qqp_pfeiffer")),
        ("lang/zh-Hant_v1.0+x", Identifier(("lang", "zh-Hant_v1.0+x"))),
        ("язык/русский@я", Identifier(("язык", "русский"), "я")),
    ],
)
def test_names_are_taken_apart(text: str, expected: Identifier) -> None:
    assert parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    ["", "@", "a/b/c", "@a", "@a/b/c", "a@", "a@b@c", "../x", "a/..", "/a", "a\\b", "a/b@../c", ".a", "a\n", "a?"],
)
def test_what_is_no_name(text: str) -> None:
    assert parsed(text) is None
    with pytest.raises(HubError, match="is no name of an adapter on a hub; write <task>/<subtask>@<org>"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "config", "file"),
    [
        ("sentiment/sst-2", None, "ukp/pf"),
        ("sentiment/sst-2@ukp", None, "ukp/pf"),
        ("sentiment/sst-2@me", None, "me/pf"),
        ("sst-2@they", None, "they/h"),
        ("sentiment/sst-2@ukp", HOULSBY, "ukp/h"),
        ("sentiment/sst-2", PFEIFFER, "ukp/pf"),
        ("sst-2@me", PFEIFFER, "me/pf"),
        ("sts", None, "ukp/qqp"),
        ("qqp", None, "ukp/qqp"),
        ("rte", None, "me/rte"),
        ("imdb@ukp", None, "ukp/imdb"),
        ("en@b", None, "b/en"),
        ("old/one", None, "ukp/one"),
    ],
)
def test_names_are_looked_up(text: str, config: str | None, file: str) -> None:
    assert find(INDEX, parse(text), config) == f"adapters/{file}.json"


@pytest.mark.parametrize(
    ("text", "config", "candidates"),
    [
        ("imdb", None, ["nli/imdb", "sentiment/imdb"]),
        ("sentiment@ukp", None, ["sentiment/imdb@ukp", "sentiment/sst-2@ukp"]),
        ("en", None, ["lang/en@a", "lang/en@b"]),
        ("sst-2", HOULSBY, ["sentiment/sst-2@they", "sentiment/sst-2@ukp"]),
    ],
)
def test_several_are_listed(text: str, config: str | None, candidates: list[str]) -> None:
    with pytest.raises(AmbiguousAdapterError) as error:
        find(INDEX, parse(text), config)
    assert sorted(name.partition(" (")[0] for name in error.value.candidates) == candidates
    assert all(name in str(error.value) for name in candidates)


@pytest.mark.parametrize(
    ("text", "config", "message"),
    [
        ("sst2", None, "did you mean 'sst-2'"),
        ("Sentiment/SST-2@UKP", None, "did you mean 'sentiment/sst-2@ukp'"),
        ("sentimant/sst-2", None, "did you mean 'sentiment/sst-2'"),
        ("sts/qqp@you", None, "'you' has published no 'sts/qqp'; there are sts/qqp@ukp"),
        ("sts/qqp@ukp", LORA, f"no 'sts/qqp@ukp' of the configuration {LORA}; there are sts/qqp@ukp"),
        ("zzz", None, "There is no 'zzz' among its 10 adapters"),
    ],
)
def test_none_is_explained(text: str, config: str | None, message: str) -> None:
    with pytest.raises(AdapterNotFoundError, match=message):
        find(INDEX, parse(text), config)


def test_another_configuration_will_do(caplog: pytest.LogCaptureFixture) -> None:
    assert find(INDEX, parse("sentiment/sst-2@ukp"), LORA, strict=False) == "adapters/ukp/pf.json"
    assert f"of the configuration {LORA}" in caplog.text


@pytest.mark.parametrize("index", [[], {"a": []}, {"a": {"b": 1}}, {"a": {"b": {"c": {}}}}, {"a": {"b": {"c": "d"}}}])
def test_what_is_no_index(index: Any) -> None:
    with pytest.raises(HubError, match="no index"):
        find(index, parse("a/b"))


def test_find_in_index_as_in_adapterhub(tmp_path: Path) -> None:
    """The function of 1.3, with an index in a file: None if there is none, and the default unless it is strict."""
    file = tmp_path / "index.json"
    file.write_text(json.dumps(INDEX))
    import adapters

    pfeiffer, lora = adapters.SeqBnConfig(), adapters.LoRAConfig()
    assert find_in_index("sentiment/sst-2@me", "bert", pfeiffer, index_file=file) == "adapters/me/pf.json"
    assert find_in_index("sentiment/sst-2@ukp", "bert", lora, index_file=file) == "adapters/ukp/pf.json"
    assert find_in_index("nothing/here", "bert", index_file=file) is None
    assert str(find_in_index("@ukp/file", "bert")).endswith("dist/v2/adapters/ukp/file.json")
    with pytest.raises(ValueError, match="of the configuration"):
        find_in_index("sentiment/sst-2@ukp", "bert", lora, strict=True, index_file=file)


def test_names_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert known_names("bert-base-uncased") == ["bert-base-uncased"]
    assert known_names("google-bert/bert-base-uncased") == ["google-bert/bert-base-uncased", "bert-base-uncased"]
    assert known_names("facebook/bart-base") == ["facebook/bart-base"]
    assert published_name("FacebookAI/roberta-base") == "roberta-base"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    assert known_names(str(tmp_path / "models" / "tiny")) == ["tiny"]
    assert known_names("models/tiny") == ["models/tiny", "tiny"]
    assert known_names("/not/there") == []
