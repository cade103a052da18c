"""What the tests of hubs share: a cache of their own, and adapters to publish."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from published import NAME, named_model
from servers import Site
from torch import nn

import adapters
import models
from adapters.hub.writing import HubFolder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERS_CACHE", str(tmp_path / "cache"))
    for name in ("ADAPTERS_HUB", "ADAPTERS_OFFLINE", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    """A model with adapters "sst-2" (seq_bn), "big" (double_seq_bn) and "small" (LoRA)."""
    model = named_model()
    for name, config in (("sst-2", "seq_bn"), ("big", "double_seq_bn"), ("small", "lora[r=2]")):
        model.add_adapter(name, config=config)
        models.randomise(model, name)
    return model


@pytest.fixture(scope="session")
def saved(trained: adapters.ModelAdaptersMixin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each of these adapters."""
    folder = tmp_path_factory.mktemp("saved")
    trained.save_all_adapters(folder)
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> HubFolder:
    """An empty hub."""
    return HubFolder.init(tmp_path / "hub")


@pytest.fixture(scope="session")
def template(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub with these adapters, of two organisations."""
    made = HubFolder.init(tmp_path_factory.mktemp("template") / "hub")
    for name, identifier in (("sst-2", NAME), ("big", NAME), ("small", "sts/qqp@you")):
        made.add(saved / name, identifier)
    return made.root


@pytest.fixture
def filled(template: Path, hub: HubFolder) -> HubFolder:
    """A copy of it."""
    shutil.copytree(template, hub.root, dirs_exist_ok=True)
    return hub


@pytest.fixture
def site() -> Iterator[Site]:
    """A web server on this machine."""
    with Site() as running:
        yield running
