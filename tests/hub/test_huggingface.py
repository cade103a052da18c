"""The Hugging Face Hub, played by a server on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from fake_huggingface import HuggingFace, Repository
from published import BASE, named_model, same
from servers import Site
from torch import nn
from transformers import BertConfig

import adapters
from adapters.composition import Stack
from adapters.hub import (
    AdapterNotFoundError,
    DownloadError,
    HubError,
    OfflineError,
    get_adapter_info,
    list_adapters,
    pull_from_hf_model_hub,
    pull_from_hub,
    resolve,
)
from adapters.hub.writing import HubFolder

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37, "vocab_size": 100}


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HuggingFace]:
    """A Hugging Face Hub that the client is allowed to reach, and an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    with HuggingFace() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(resolve, "ADAPTER_HUB_URL", f"{running.url}/dist/v2/")  # which is not there
        yield running


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """A model with heads, from a folder, and a trained adapter with a head."""
    base = adapters.AutoAdapterModel.from_config(BertConfig(**TINY))
    base.save_pretrained(tmp_path / BASE)
    model = adapters.AutoAdapterModel.from_pretrained(str(tmp_path / BASE))
    model.add_adapter("a", config="lora")
    model.add_classification_head("a", num_labels=3)
    return model


def test_pushed_is_loaded(online: HuggingFace, model: Any) -> None:
    address = model.push_adapter_to_hub("me/bert-a", "a", datasets_tag="glue", commit_message="First")
    assert address == f"{online.url}/me/bert-a"
    repository = online.repositories["me/bert-a"]
    files = {"README.md", "adapter_config.json", "adapter.safetensors", "head_config.json", "model_head.safetensors"}
    assert repository.branches["main"].keys() == files
    assert repository.messages == ["First"]
    new = adapters.AutoAdapterModel.from_pretrained(model.name_or_path)
    assert new.load_adapter("me/bert-a", set_active=True) == "a"
    assert same(new, "a", model, "a") and new.active_head == "a"
    assert new.load_adapter("me/bert-a", load_as="headless", with_head=False) == "headless"
    assert list(new.heads) == ["a"]
    assert Path(pull_from_hf_model_hub("me/bert-a"), "adapter_config.json").is_file()


def test_only_what_is_needed_is_downloaded(online: HuggingFace, model: Any) -> None:
    model.push_adapter_to_hub("me/bert-a", "a")
    online.repositories["me/bert-a"].branches["main"].update(
        {"optimizer.pt": b"0" * 100, "sub/adapter.safetensors": b""}
    )
    model.load_adapter("me/bert-a")
    asked = [
        line for line in online.log if "optimizer" in line or "sub/" in line or "README" in line.partition("GET")[2]
    ]
    assert asked == []


def test_cards_say_what_others_search(online: HuggingFace, model: Any) -> None:
    model.name_or_path = BASE
    model.push_adapter_to_hub(
        "me/bert-a",
        "a",
        datasets_tag="sst2",
        adapter_card_kwargs={
            "task": "sentiment/sst-2",
            "tags": ["mine"],
            "language": "en",
            "license": "apache-2.0",
            "metrics": ["f1"],
            "results": {"accuracy": 0.93},
            "citation": "@misc{me}",
            "architecture_training": "Trained at night.",
        },
    )
    text = online.repositories["me/bert-a"].branches["main"]["README.md"].decode()
    data = huggingface_hub.ModelCard(text).data
    assert data.base_model == BASE and data.library_name == "adapters" and data.license == "apache-2.0"
    assert data.datasets == ["sst2"] and data.metrics == ["f1", "accuracy"] and data.language == "en"
    assert data.tags == ["adapter-transformers", "bert", "adapterhub:sentiment/sst-2", "mine"]
    assert data.pipeline_tag == "text-classification"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.93, "sst2")
    assert all(words in text for words in ("Trained at night.", "@misc{me}", "| accuracy | 0.93 |", "classification"))
    with pytest.raises(HubError, match=r"A card has no licence; adapter_card_kwargs takes .*license"):
        model.push_adapter_to_hub("me/bert-a", "a", adapter_card_kwargs={"licence": "mit"})


@pytest.mark.parametrize("what", ["adapter", "setup"])
def test_the_snippet_of_a_card_runs(online: HuggingFace, model: Any, what: str, tmp_path: Path) -> None:
    if what == "adapter":
        model.push_adapter_to_hub("me/bert-a", "a")
    else:
        model.add_adapter("b")
        model.push_adapter_setup_to_hub("me/bert-a", Stack("b", "a"), head_setup="a")
    text = online.repositories["me/bert-a"].branches["main"]["README.md"].decode()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(snippet, scope)
    assert scope["model"].active_adapters == (Stack("a") if what == "adapter" else Stack("b", "a"))
    assert scope["model"].active_head == "a"
    assert "base_model" not in text  # it is a folder here, which nobody else has


def test_cards_are_not_overwritten(online: HuggingFace, model: Any, tmp_path: Path) -> None:
    model.push_adapter_to_hub("me/bert-a", "a")
    files = online.repositories["me/bert-a"].branches["main"]
    files["README.md"] = b"---\ntags: []\n---\nmine"
    model.push_adapter_to_hub("me/bert-a", "a")
    assert files["README.md"].endswith(b"mine")
    model.push_adapter_to_hub("me/bert-a", "a", overwrite_adapter_card=True)
    assert b"AutoAdapterModel" in files["README.md"]
    folder = tmp_path / "local"
    folder.mkdir()
    (folder / "README.md").write_text("---\ntags: [x]\n---\nwritten by hand")
    model.push_adapter_to_hub("me/other", "a", local_path=folder)
    assert online.repositories["me/other"].branches["main"]["README.md"].endswith(b"written by hand")
    assert (folder / "adapter_config.json").is_file()


def test_branches_proposals_and_private_repositories(online: HuggingFace, model: Any) -> None:
    model.push_adapter_to_hub("bert-a", "a", private=True, token="secret")
    assert online.repositories["me/bert-a"].private
    with pytest.raises(AdapterNotFoundError, match="or it is private"):
        named_model().load_adapter("me/bert-a")
    model.push_adapter_to_hub("me/bert-a", "a", revision="v2", token="secret")
    model.push_adapter_to_hub("me/bert-a", "a", create_pr=True, token="secret")
    assert len(online.repositories["me/bert-a"].proposals) == 1
    new = adapters.AutoAdapterModel.from_pretrained(model.name_or_path)
    assert new.load_adapter("me/bert-a", version="v2", token="secret") == "a"
    with pytest.raises(AdapterNotFoundError, match="has no version 'v3'"):
        new.load_adapter("me/bert-a", version="v3", token="secret")
    with pytest.raises(HubError, match="version is for hubs in a folder"):
        model.push_adapter_to_hub("me/bert-a", "a", version="2")


def test_offline_the_cache_is_used(online: HuggingFace, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model.push_adapter_to_hub("me/bert-a", "a")
    with pytest.raises(OfflineError, match="not in the cache"):
        pull_from_hf_model_hub("me/bert-a", local_files_only=True)
    model.load_adapter("me/bert-a", load_as="b")
    online.log.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model.load_adapter("me/bert-a", load_as="c")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    model.load_adapter("me/bert-a", load_as="d", local_files_only=True)
    assert online.log == [] and same(model, "b", model, "d")
    with pytest.raises(OfflineError):
        monkeypatch.setenv("ADAPTERS_OFFLINE", "1")
        pull_from_hf_model_hub("me/other")


def test_what_is_not_there(online: HuggingFace, model: Any) -> None:
    online.repositories["me/empty"] = Repository({"main": {"README.md": b"---\ntags: []\n---\n"}})
    with pytest.raises(AdapterNotFoundError, match="There is no repository me/nothing"):
        pull_from_hf_model_hub("me/nothing")
    with pytest.raises(AdapterNotFoundError, match=r"has no adapter_config\.json: it holds no adapter"):
        pull_from_hf_model_hub("me/empty")
    with pytest.raises(ValueError, match="none"):
        model.push_adapter_to_hub("me/new", "none")
    assert "me/new" not in online.repositories


def test_no_connection(monkeypatch: pytest.MonkeyPatch, online: HuggingFace, model: Any) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries again and again
    for call in (
        lambda: pull_from_hf_model_hub("me/bert-a"),
        lambda: list_adapters(),
        lambda: get_adapter_info("me/bert-a"),
        lambda: model.push_adapter_to_hub("me/bert-a", "a"),
    ):
        with pytest.raises(DownloadError, match="cannot be"):
            call()


def test_lists_and_information(online: HuggingFace, model: Any) -> None:
    model.name_or_path = BASE
    model.push_adapter_to_hub("me/bert-a", "a", adapter_card_kwargs={"task": "sentiment/sst-2"})
    model.name_or_path = "roberta-base"
    model.push_adapter_to_hub("me/roberta-a", "a", adapter_card_kwargs={"tags": ["adapters"]})
    assert sorted(info.adapter_id for info in list_adapters()) == ["me/bert-a", "me/roberta-a"]
    (info,) = list_adapters(BASE)
    assert (info.source, info.task, info.subtask, info.username) == ("hf", "sentiment", "sst-2", "me")
    assert info.adapter_config is not None and info.adapter_config["architecture"] == "lora"
    assert get_adapter_info("me/bert-a") == info
    assert get_adapter_info("me/nothing") is None


def test_lists_of_other_hubs(hub: HubFolder, saved: Path, monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    hub.add(saved / "sst-2", "sentiment/sst-2@me")
    hub.add(saved / "big", "sentiment/sst-2@me")
    hub.add(saved / "small", "sts/qqp@you", model_name="roberta-base")
    site.folder = hub.root
    for place in (hub.root, site.url):
        assert len(list_adapters(hub=place)) == 3
        (info,) = list_adapters("FacebookAI/roberta-base", hub=place)
        assert info.adapter_id == "@you/roberta-base_sts_qqp_" + info.adapter_id.rpartition("_")[2]
        assert get_adapter_info(info.adapter_id, hub=place) == get_adapter_info("sts/qqp@you", hub=place) == info
        assert get_adapter_info("sts/mrpc", hub=place) is None
        with pytest.raises(HubError, match="several"):
            get_adapter_info("sst-2", hub=place)
    monkeypatch.setenv("ADAPTERS_HUB", str(hub.root))
    assert len(list_adapters()) == 3 and get_adapter_info("qqp") == info
    model = named_model("roberta-base")
    assert model.load_adapter(info.adapter_id) == "small"


def test_both_hubs_side_by_side(
    online: HuggingFace, model: Any, hub: HubFolder, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTERS_HUB", str(hub.root))
    model.name_or_path = BASE
    assert model.push_adapter_to_hub("me/bert-a", "a") == f"{online.url}/me/bert-a"
    assert model.push_adapter_to_hub("sentiment/sst-2@me", "a", adapter_card_kwargs={"results": {"f1": 0.5}}) == (
        "sentiment/sst-2@me"
    )
    assert model.load_adapter("me/bert-a", load_as="x") == "x"
    assert model.load_adapter("sentiment/sst-2@me", load_as="y") == "y"
    hub.add(saved / "sst-2", "me/bert-a@org")  # the hub that is named comes before the Hugging Face Hub
    assert named_model().load_adapter("me/bert-a") == "sst-2"
    assert model.load_adapter("me/bert-a", hub="hf") == "a"
    with pytest.raises(HubError, match="revision: only for the Hugging Face Hub"):
        model.push_adapter_to_hub("sentiment/sst-2@me", "a", revision="x")
    with pytest.raises(HubError, match="can only be read"):
        model.push_adapter_to_hub("sentiment/sst-2@me", "a", hub="http://127.0.0.1:9")
    monkeypatch.delenv("ADAPTERS_HUB")
    with pytest.raises(HubError, match="name it in ADAPTERS_HUB"):
        model.push_adapter_to_hub("sentiment/sst-2@me", "a")


def test_names_that_adapterhub_has_left_behind(
    online: HuggingFace,
    hub: HubFolder,
    saved: Path,
    trained: nn.Module,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`sentiment/sst-2@ukp`, with nothing set up: the index of old, and the adapter from the Hugging Face Hub."""
    hub.add(saved / "sst-2", "sentiment/sst-2@ukp", file="old-name")
    hub.add(saved / "big", "sentiment/sst-2@ukp", file="other-name")
    site.folder = hub.root
    monkeypatch.setattr(resolve, "ADAPTER_HUB_URL", f"{site.url}/dist/v2/")
    folder = saved / "sst-2"
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    online.repositories["AdapterHub/old-name"] = Repository({"main": dict(files), "1": dict(files)})
    model = named_model()
    assert model.load_adapter("sentiment/sst-2@ukp") == "sst-2"
    assert "is now AdapterHub/old-name on the Hugging Face Hub" in caplog.text
    assert model.load_adapter("sst-2", version="1") == "sst-2"
    assert model.load_adapter("@ukp/old-name", load_as="direct") == "direct"
    assert same(model, "direct", trained, "sst-2")
    assert not any("files/" in path for path, _ in site.log)
    assert model.load_adapter("sentiment/sst-2@ukp", config="houlsby") == "big"
    assert "AdapterHub/other-name is not there; it is downloaded from" in caplog.text
    assert Path(pull_from_hub("sst-2@ukp", BASE, adapter_config="lora")).is_dir()  # not strict, as in 1.3
    with pytest.raises(AdapterNotFoundError, match="did you mean 'sentiment/sst-2@ukp'"):
        model.load_adapter("sentiment/sst2@ukp")
