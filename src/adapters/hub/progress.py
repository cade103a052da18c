"""A bar for what is downloaded, where there is a terminal and nobody has switched bars off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from .download import Progress


@contextmanager
def progress_bar(url: str) -> Iterator[Progress]:
    """A bar for one download. It is one of huggingface_hub, and is switched off with the others of that library."""
    from huggingface_hub.utils.tqdm import tqdm

    name = urlsplit(url).path.rpartition("/")[2]
    with (
        tqdm(  # type: ignore[no-untyped-call]
            unit="B", unit_scale=True, desc=name[:40], disable=None, delay=1
        ) as bar
    ):

        def show(received: int, total: int | None) -> None:
            bar.total = total
            bar.update(received - bar.n)

        yield show
