"""What all tests share: quiet libraries, one thread, the data beside the project."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
import torch
import transformers

from places import SHARED


def pytest_configure() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data that is not part of the project; tests that need it are skipped where it is not there."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there; set ADAPTERS_SHARED to the folder with goldens/ and data/")
    return SHARED
