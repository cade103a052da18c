"""From names to adapters in a model: what is tried, in which order, and what is said if nothing fits."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from published import BASE, NAME, named_model, same
from servers import Site, redirect
from torch import nn

from adapters.checkpoints.files import AdapterFileError
from adapters.composition import Fuse, Stack
from adapters.hub import AdapterNotFoundError, AmbiguousAdapterError, ChecksumError, HubError, OfflineError, resolve
from adapters.hub.writing import HubFolder


@pytest.fixture
def place(request: pytest.FixtureRequest, filled: HubFolder, site: Site) -> str:
    """The same hub, in a folder or on the web."""
    site.folder = filled.root
    return str(filled.root) if request.param == "folder" else site.url


folder_and_web = pytest.mark.parametrize("place", ["folder", "web"], indirect=True)


@folder_and_web
def test_names_of_the_seeds(place: str, trained: nn.Module) -> None:
    model = named_model()
    assert model.load_adapter(NAME, hub=place) == "sst-2"
    assert model.load_adapter(NAME, "houlsby", hub=place, load_as="houlsby", set_active=True) == "houlsby"
    assert model.load_adapter("sts/qqp@you", hub=place, with_head=False) == "small"
    assert model.load_adapter(f"@me/{BASE}_sentiment_sst-2_seq_bn", hub=place, load_as="direct") == "direct"
    assert model.load_adapter("qqp", hub=place, load_as="q", leave_out=[0]) == "q"
    assert same(model, "sst-2", trained, "sst-2") and same(model, "houlsby", trained, "big")
    assert same(model, "direct", trained, "sst-2") and same(model, "small", trained, "small")
    assert model.active_adapters == Stack("houlsby")
    assert all("layer.0." not in name for name, _ in model.named_parameters() if ".q." in name)


@folder_and_web
def test_the_hub_in_use(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERS_HUB", place)
    assert named_model().load_adapter(NAME) == "sst-2"
    assert named_model("google-bert/bert-base-uncased").load_adapter("sentiment") == "sst-2"
    assert named_model("something-else").load_adapter(NAME, model_name=BASE) == "sst-2"


@folder_and_web
def test_what_is_not_there(place: str) -> None:
    model = named_model()
    for name, message in (
        ("sst2", "did you mean 'sst-2'"),
        ("sentiment/sst-2@you", "'you' has published no"),
        ("@me/nothing", "There is no"),
        ("a/b/c", "is no name of an adapter on a hub"),
    ):
        with pytest.raises(HubError, match=message):
            model.load_adapter(name, hub=place)
    with pytest.raises(AdapterNotFoundError, match="has no adapters for roberta-base"):
        named_model("roberta-base").load_adapter(NAME, hub=place)
    with pytest.raises(HubError, match="give model_name"):
        named_model("").load_adapter(NAME, hub=place)
    with pytest.raises(AdapterNotFoundError, match="of the configuration"):
        model.load_adapter(NAME, config="lora", hub=place)
    assert not model.adapters_config.adapters


def test_several_have_the_name(filled: HubFolder, saved: Path) -> None:
    filled.add(saved / "sst-2", "sentiment/sst-2@you")
    with pytest.raises(AmbiguousAdapterError, match="several") as error:
        named_model().load_adapter("sst-2", hub=filled.root)
    assert any("@you/" in name for name in error.value.candidates)
    assert named_model().load_adapter("sst-2@you", hub=filled.root) == "sst-2"


def test_what_is_wrong_with_a_hub(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(HubError, match="`adapters hub init`"):
        named_model().load_adapter(NAME, hub=tmp_path / "nowhere")
    with pytest.raises(HubError, match="`adapters hub reindex`"):
        named_model().load_adapter(NAME, hub=saved)
    with pytest.raises(HubError, match="no name of a repository"):
        named_model().load_adapter(NAME, hub="hf")


# -- folders, archives, addresses ------------------------------------------------------------------------------------


def test_a_folder_comes_first(filled: HubFolder, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTERS_HUB", str(filled.root))
    (tmp_path / "sst-2").mkdir()
    assert named_model().load_adapter("sst-2") == "sst-2"  # the folder holds nothing
    shutil.copytree(saved / "small", tmp_path / "sst-2", dirs_exist_ok=True)
    assert named_model().load_adapter("sst-2") == "small"
    assert named_model().load_adapter("sst-2", hub=filled.root) == "sst-2"
    assert resolve.resolve(Path("sst-2")).folder == Path("sst-2")


@pytest.mark.parametrize("format", ["zip", "tar", "gztar"])
@pytest.mark.parametrize("inside", [".", "sst-2"])
def test_archives(saved: Path, tmp_path: Path, format: str, inside: str, trained: nn.Module) -> None:
    root = saved if inside != "." else saved / "sst-2"
    path = shutil.make_archive(str(tmp_path / "some"), format, root, inside)
    model = named_model()
    assert model.load_adapter(path) == "sst-2"
    assert same(model, "sst-2", trained, "sst-2")
    with pytest.raises(ChecksumError):
        model.load_adapter(path, checksum="0" * 64)
    assert model.load_adapter(path, checksum=hashlib.sha1(Path(path).read_bytes()).hexdigest()) == "sst-2"


def test_addresses(site: Site, saved: Path, tmp_path: Path, trained: nn.Module) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "some"), "zip", saved / "sst-2"))
    site.files["/some.zip"] = path.read_bytes()
    site.faults["/short"] = [redirect("/some.zip")]
    model = named_model()
    assert model.load_adapter(f"{site.url}/short") == "sst-2"
    assert same(model, "sst-2", trained, "sst-2")
    asked = len(site.log)
    assert model.load_adapter(f"{site.url}/some.zip", checksum=hashlib.sha256(path.read_bytes()).hexdigest()) == "sst-2"
    assert len(site.log) == asked  # it was in the cache by its checksum
    with pytest.raises(OfflineError, match="not in the cache"):
        model.load_adapter(f"{site.url}/other.zip", local_files_only=True)
    with pytest.raises(AdapterNotFoundError, match="404"):
        model.load_adapter(f"{site.url}/other.zip")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "nowhere.zip", "~/nowhere-at-all"])
def test_paths_are_no_names(name: str) -> None:
    with pytest.raises(AdapterFileError, match=r"no adapter_config\.json in .*which does not exist"):
        named_model().load_adapter(name)


def test_all_places_are_named(monkeypatch: pytest.MonkeyPatch, filled: HubFolder, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ab").mkdir()
    with pytest.raises(AdapterNotFoundError) as error:
        named_model().load_adapter("ab/cd")
    for place in ("this machine", "Hugging Face Hub", "AdapterHub"):
        assert f"On {place}" in str(error.value) or f"On the {place}" in str(error.value)
    monkeypatch.setenv("ADAPTERS_HUB", str(filled.root))
    with pytest.raises(AdapterNotFoundError, match=r"ADAPTERS_HUB(.|\n)*Hugging Face Hub") as error:
        named_model().load_adapter("ab/cd")
    assert "On AdapterHub" not in str(error.value)
    with pytest.raises(AdapterNotFoundError, match=r"a folder without adapter_config\.json"):
        named_model().load_adapter("ab")
    with pytest.raises(HubError, match="is no folder, no archive, no address"):
        named_model().load_adapter("?")
    with pytest.raises(HubError, match="checksum is for archives"):
        named_model().load_adapter("ab", checksum="0" * 64)
    with pytest.raises(HubError, match="is no checksum"):
        named_model().load_adapter("http://127.0.0.1:9/a.zip", checksum="md5:1")


# -- hubs are not believed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["folder", "web"], indirect=True)
@pytest.mark.parametrize(
    "url", ["../../secret.zip", "/etc/passwd", "file:///etc/passwd", "files/../../x", "C:\\x", "ftp://host/a.zip", ""]
)
def test_archives_are_within_the_hub(place: str, filled: HubFolder, url: str) -> None:
    entry = filled.root / f"dist/v2/adapters/me/{BASE}_sentiment_sst-2_seq_bn.json"
    data = json.loads(entry.read_text())
    data["files"]["1"] = {"url": url, "sha256": None}
    entry.write_text(json.dumps(data))
    with pytest.raises(HubError, match=r"no path within|no address|does not say where"):
        named_model().load_adapter(NAME, hub=place)


@pytest.mark.parametrize("place", ["folder", "web"], indirect=True)
def test_another_archive_is_refused(place: str, filled: HubFolder, saved: Path) -> None:
    for path in (filled.root / "files").rglob("*.zip"):
        path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ChecksumError, match="is not what was published"):
        named_model().load_adapter(NAME, hub=place)


@pytest.mark.parametrize("text", ["{", "[]", '{"sentiment": 1}', '{"sentiment": {"sst-2": {"x": {"versions": 1}}}}'])
@pytest.mark.parametrize("place", ["folder", "web"], indirect=True)
def test_a_broken_index(place: str, filled: HubFolder, text: str) -> None:
    (filled.root / f"dist/v2/index/{BASE}.json").write_text(text)
    with pytest.raises(HubError, match=r"JSON|no index|There is no"):
        named_model().load_adapter(NAME, hub=place)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"default_version": "1", "files": []}', '{"default_version": 1, "files": {}}']
)
def test_a_broken_entry(filled: HubFolder, text: str) -> None:
    (filled.root / f"dist/v2/adapters/me/{BASE}_sentiment_sst-2_seq_bn.json").write_text(text)
    with pytest.raises(HubError, match=r"no entry of an adapter|has no version"):
        named_model().load_adapter(NAME, hub=filled.root)


# -- other things than adapters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("web", [False, True])
def test_setups_fusions_and_heads(hub: HubFolder, site: Site, trained: nn.Module, tmp_path: Path, web: bool) -> None:
    from transformers import BertConfig

    import adapters

    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37
    )
    model = adapters.AutoAdapterModel.from_config(config)
    for name in ("a", "b"):
        model.add_adapter(name)
    model.add_classification_head("b", num_labels=3)
    model.add_adapter_fusion(Fuse("a", "b"))
    model.save_adapter_fusion(tmp_path / "fusion", "a,b")
    model.save_head(tmp_path / "head", "b")
    model.save_adapter_setup(tmp_path / "setup", Stack("a", "b"), head_setup="b")
    for kind in ("fusion", "head", "setup"):
        hub.add(tmp_path / kind, f"some/{kind}@me", model_name=BASE)
    site.folder = hub.root
    place = site.url if web else hub.root
    new = adapters.AutoAdapterModel.from_config(config)
    new.name_or_path = BASE
    setup, heads = new.load_adapter_setup("some/setup@me", hub=place, set_active=True)
    assert (setup, heads, new.active_head) == (Stack("a", "b"), "b", "b")
    assert new.load_adapter_fusion("some/fusion@me", hub=place) == "a,b"
    assert new.load_head("head", hub=place, load_as="c") == "c"
    assert same(new, "b", model, "b")
    with pytest.raises(HubError, match="is a setup: load it with load_adapter_setup"):
        new.load_adapter("some/setup@me", hub=place)


def test_a_tar_with_a_path_outside(tmp_path: Path, saved: Path) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as file:
        file.add(saved / "sst-2" / "adapter_config.json", "../outside.json")
    with pytest.raises(HubError, match="outside"):
        named_model().load_adapter(path)
    assert not (tmp_path / "outside.json").exists()
