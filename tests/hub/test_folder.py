"""A hub in a folder: what is written, by how many at once, and what verifying finds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from published import BASE, NAME, named_model, same
from torch import nn

from adapters.configuration import AdapterConfig, presets
from adapters.hub import AdapterNotFoundError, CardError, HubError
from adapters.hub.cards import AdapterCard, full_config, named_config, read_card
from adapters.hub.verifying import verify
from adapters.hub.writing import HubFolder


def index_of(hub: HubFolder, model: str = BASE) -> dict[str, dict[str, dict[str, object]]]:
    data: dict[str, dict[str, dict[str, object]]] = json.loads((hub.root / f"dist/v2/index/{model}.json").read_text())
    return data


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and p.suffix}


def test_the_layout_is_adapterhubs(hub: HubFolder, saved: Path) -> None:
    new = hub.add(saved / "sst-2", NAME, facts={"author": "Me", "score": "0.9", "license": "mit"})
    assert new.direct == f"@me/{BASE}_sentiment_sst-2_seq_bn"
    card = yaml.safe_load(new.card.read_text())
    assert {"type", "task", "subtask", "model_type", "model_name", "author", "config", "files"} <= card.keys()
    assert card["config"] == {"using": "seq_bn"}
    assert card["files"][0].keys() == {"version", "url", "sha1", "sha256", "score"}
    entry = f"adapters/me/{BASE}_sentiment_sst-2_seq_bn.json"
    assert index_of(hub) == {
        "sentiment": {"sst-2": {"default": entry, "9076f36a74755ac4": {"versions": {"me": entry}}}}
    }
    data = json.loads((hub.root / "dist/v2" / entry).read_text())
    assert data["config_id"] == "9076f36a74755ac4"
    assert data["default_version"] == "1"
    assert (
        data["files"]["1"].items() >= {"sha256": new.sha256, "url": f"files/{new.sha256[:2]}/{new.sha256}.zip"}.items()
    )
    assert json.loads((hub.root / "dist/v2/all.json").read_text()) == [data["info"]]
    assert data["info"].keys() == {
        *("source", "adapter_id", "model_name", "task", "subtask", "username", "adapter_config", "sha1_checksum"),
    }
    assert verify(hub) == []


def test_an_address_is_for_older_readers(hub: HubFolder, saved: Path) -> None:
    HubFolder.init(hub.root, "https://example.org/hub")
    new = hub.add(saved / "sst-2", NAME)
    data = json.loads((hub.root / f"dist/v2/adapters/me/{new.card.stem}.json").read_text())
    assert data["files"]["1"]["url"].startswith("https://example.org/hub/files/")
    assert named_model().load_adapter(NAME, hub=hub.root) == "sst-2"


def test_versions(hub: HubFolder, saved: Path, trained: nn.Module) -> None:
    hub.add(saved / "sst-2", NAME, facts={"description": "first"})
    trained.save_adapter(hub.root.parent / "again", "sst-2", meta_dict={"note": "again"})
    second = hub.add(hub.root.parent / "again", NAME, facts={"description": "second"})
    assert second.version == "2"
    card = read_card(second.card, AdapterCard)
    assert (card.default_version, card.description, [f.version for f in card.files]) == ("2", "second", ["1", "2"])
    third = hub.add(saved / "sst-2", NAME, version="beta", is_default=False)
    assert read_card(third.card, AdapterCard).default_version == "2"
    with pytest.raises(HubError, match="has a version 'beta' already"):
        hub.add(saved / "sst-2", NAME, version="beta")
    hub.add(saved / "sst-2", NAME, version="beta", overwrite=True)
    for version in ("1", "beta", None):
        assert named_model().load_adapter(NAME, hub=hub.root, version=version) == "sst-2"
    with pytest.raises(AdapterNotFoundError, match="no version 'x'; it has '1', '2', 'beta'"):
        named_model().load_adapter(NAME, hub=hub.root, version="x")
    hub.remove(NAME, "beta")
    hub.remove(NAME, "2")
    assert read_card(second.card, AdapterCard).default_version == "1"
    assert verify(hub) == []  # also no archive is left that nobody names
    hub.remove(second.direct)
    assert {p.split("/")[0] for p in tree(hub.root)} == {"dist", "hub.yaml"}


def test_several_organisations_and_configurations(hub: HubFolder, saved: Path, trained: nn.Module) -> None:
    hub.add(saved / "big", NAME)
    assert index_of(hub)["sentiment"]["sst-2"]["default"] == f"adapters/me/{BASE}_sentiment_sst-2_double_seq_bn.json"
    hub.add(saved / "sst-2", NAME)
    assert index_of(hub)["sentiment"]["sst-2"]["default"] == f"adapters/me/{BASE}_sentiment_sst-2_seq_bn.json"
    hub.add(saved / "small", "sentiment/sst-2@you")
    model = named_model()
    for config, name in (("double_seq_bn", "big"), ("lora[r=2]", "small"), ("seq_bn", "sst-2"), (None, "sst-2")):
        assert model.load_adapter("sst-2", hub=hub.root, config=config) == name
        assert same(model, name, trained, name)
    hub.add(saved / "sst-2", "sentiment/sst-2@you")
    assert "default" not in index_of(hub)["sentiment"]["sst-2"]


def test_cards_hold_any_configuration() -> None:
    for config in (*presets().values(), AdapterConfig.load("lora[r=3]|seq_bn[reduction_factor=7]")):
        fields = json.loads(json.dumps(config.to_dict()))
        written = named_config(fields, {})
        card = read_like(written)
        assert full_config(card, {}) == fields
    assert named_config({**presets()["seq_bn"].to_dict(), "reduction_factor": 2}, {}) == {
        "using": "seq_bn",
        "reduction_factor": 2,
    }


def read_like(config: dict[str, object]) -> AdapterCard:
    file = {"version": "1", "url": "x", "sha1": "0" * 40, "sha256": "0" * 64}
    facts = {"task": "t", "subtask": "s", "model_type": "m", "model_name": "n", "author": "a", "default_version": "1"}
    return AdapterCard.model_validate({**facts, "config": config, "files": [file]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.pop("task"), "task: field required"),
        (lambda card: card.update(task="a/b"), "task: value error, 'a/b' cannot be the task"),
        (lambda card: card.update(task="../x"), "cannot be the task"),
        (lambda card: card.update(model_name="../../x"), "cannot be the name of a model"),
        (lambda card: card.update(tusk="x"), "tusk: extra inputs are not permitted"),
        (lambda card: card.update(default_version="9"), "default_version is '9', and the files have"),
        (lambda card: card.update(files=[]), "files: list should have at least 1 item"),
        (lambda card: card["files"][0].update(sha256="0"), "files.0.sha256"),
        (lambda card: card.update(config={"non_linearity": "relu"}), "config needs 'using'"),
        (lambda card: card.update(config={"using": "none_such"}), "no configuration 'none_such'"),
    ],
)
def test_cards_are_checked(
    hub: HubFolder, saved: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    new = hub.add(saved / "sst-2", NAME)
    card = yaml.safe_load(new.card.read_text())
    change(card)
    new.card.write_text(yaml.safe_dump(card))
    assert any(message in problem.what for problem in verify(hub)), verify(hub)
    with pytest.raises(CardError, match="seq_bn"):
        hub.reindex()


def test_a_wrong_card_is_said_before_anything_is_written(hub: HubFolder, saved: Path) -> None:
    (hub.root / "adapters" / "you").mkdir()
    (hub.root / "adapters" / "you" / "x.yaml").write_text("task: x")
    before = tree(hub.root)
    with pytest.raises(CardError, match=r"x\.yaml: .*field required"):
        hub.add(saved / "sst-2", NAME)
    assert tree(hub.root) == before


@pytest.mark.parametrize("text", ["a: [", "just words", "- 1", "!!python/object/apply:os.system ['true']", "\x00"])
def test_what_is_no_card(hub: HubFolder, text: str) -> None:
    path = hub.root / "adapters" / "me" / "x.yaml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(CardError, match=r"x\.yaml"):
        hub.reindex()
    assert verify(hub)


def test_what_verifying_finds(hub: HubFolder, saved: Path) -> None:
    new = hub.add(saved / "sst-2", NAME)
    archive = hub.root / "files" / new.sha256[:2] / f"{new.sha256}.zip"
    content, index = archive.read_bytes(), hub.root / f"dist/v2/index/{BASE}.json"

    def found() -> str:
        return "\n".join(f"{problem.place}: {problem.what}" for problem in verify(hub))

    archive.write_bytes(content[:-1])
    assert "and the card says" in found()
    archive.unlink()
    assert "is missing" in found()
    archive.write_bytes(content)
    index.write_text("{}")
    assert f"{BASE}.json: is not what the cards say" in found()
    index.unlink()
    assert "missing; `adapters hub reindex`" in found()
    (index.parent / "other.json").write_text("{}")
    assert "no card is behind it" in found()
    (archive.parent / "left.zip").write_bytes(b"")
    assert "no card names this file" in found()
    (archive.parent / "left.zip").unlink()
    assert hub.reindex() == 2
    new.card.write_text(new.card.read_text().replace("seq_bn", "double_seq_bn"))
    assert "that of the files 9076f36a74755ac4" in found()


@pytest.mark.parametrize("name", ["sst-2@me", "sentiment/sst-2", "@me/x", "a/b/c@me", "../x/y@me"])
def test_whole_names_are_published(hub: HubFolder, saved: Path, name: str) -> None:
    before = tree(hub.root)
    with pytest.raises(HubError):
        hub.add(saved / "sst-2", name)
    assert tree(hub.root) == before


def test_what_cannot_be_published(hub: HubFolder, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    before = tree(hub.root)
    with pytest.raises(HubError, match="holds no adapter, fusion, head or setup"):
        hub.add(tmp_path / "empty", NAME)
    with pytest.raises(HubError, match=r"There is no .*nowhere"):
        hub.add(tmp_path / "nowhere", NAME)
    with pytest.raises(CardError, match="metrik"):
        hub.add(saved / "sst-2", NAME, facts={"metrik": "x"})
    with pytest.raises(HubError, match="another adapter under this file name; it has another configuration"):
        hub.add(saved / "sst-2", NAME, file="one")
        hub.add(saved / "big", NAME, file="one")
    hub.remove("@me/one")
    assert tree(hub.root) == before
    with pytest.raises(AdapterNotFoundError):
        hub.remove(NAME)
    with pytest.raises(HubError, match="not empty, and no hub"):
        HubFolder.init(saved)
    with pytest.raises(HubError, match="`adapters hub init"):
        HubFolder(saved)


def test_configurations_with_a_name(hub: HubFolder, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_architecture("tiny", "seq_bn[reduction_factor=8]", "a small one")
    model = named_model()
    model.add_adapter("a", config=f"tiny@{hub.root}")
    assert model.adapters_config.get("a")["reduction_factor"] == 8
    monkeypatch.setenv("ADAPTERS_HUB", str(hub.root))
    model.add_adapter("b", config="tiny[non_linearity=gelu]@hub")
    assert model.adapters_config.get("b")["non_linearity"] == "gelu"
    model.save_adapter(hub.root.parent / "a", "a")
    new = hub.add(hub.root.parent / "a", NAME)
    assert new.direct.endswith("_tiny")
    assert yaml.safe_load(new.card.read_text())["config"] == {"using": "tiny"}
    assert named_model().load_adapter(NAME, config="tiny@hub") == "a"
    with pytest.raises(HubError, match=f"'tiny' is used by {new.direct}"):
        hub.add_architecture("tiny", "lora", overwrite=True)
    with pytest.raises(AdapterNotFoundError, match="no configuration 'tony'; it has tiny"):
        model.add_adapter("c", config="tony@hub")
    monkeypatch.delenv("ADAPTERS_HUB")
    with pytest.raises(HubError, match="ADAPTERS_HUB names no hub"):
        model.add_adapter("c", config="tiny@hub")
    assert list(model.adapters_config.adapters) == ["a", "b"]


# -- many at once, and what is left of those that are killed ---------------------------------------------------------

_ADDING = """
import sys
from adapters.hub.writing import HubFolder
root, saved, number = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
for i in range(3):
    HubFolder(root).add(saved, f"task/sub{number}-{i}@org{number}")
    HubFolder(root).add(saved, "task/shared@all", version=f"{number}.{i}")
"""


def adding(hub: HubFolder, saved: Path, number: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _ADDING, str(hub.root), str(saved / "sst-2"), str(number)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def started(processes: list[subprocess.Popen[str]]) -> None:
    """Wait until all are ready, and let them go."""
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


@pytest.mark.slow
def test_eight_processes_lose_nothing(hub: HubFolder, saved: Path) -> None:
    processes = [adding(hub, saved, number) for number in range(8)]
    started(processes)
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    cards = hub.cards()
    assert len(cards) == 25
    (shared,) = [card for (org, _), card in cards.items() if org == "all"]
    assert sorted(f.version for f in shared.files) == sorted(f"{n}.{i}" for n in range(8) for i in range(3))
    assert len(index_of(hub)["task"]) == 25
    assert verify(hub) == []


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_a_hub(hub: HubFolder, saved: Path) -> None:
    for number in range(4):
        process = adding(hub, saved, number)
        started([process])
        time.sleep(0.02 * number)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        hub.cards()  # all are whole
        for path in (hub.root / "dist").rglob("*.json"):
            json.loads(path.read_text())
    hub.add(saved / "sst-2", NAME)
    assert named_model().load_adapter(NAME, hub=hub.root) == "sst-2"
    assert {problem.what for problem in verify(hub)} <= {"no card names this file"}
