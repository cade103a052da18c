"""A hub in a folder on the web, to be read. It needs `starlette` and `uvicorn`: pip install "adapters[serve]"."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import HubError
from .reading import FolderHub

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

_PUBLIC = ("adapters", "architectures", "dist", "files")


def application(root: str | Path) -> Starlette:
    """A web application with the cards, the index and the archives of a hub, and a page that lists them.

    Only these are served, and only to be read; names that begin with a dot are not.

    Raises:
        HubError: the folder is no hub, or the packages that serve are not installed.
    """
    try:
        import uvicorn  # noqa: F401  # whoever serves needs it too
        from starlette.applications import Starlette
        from starlette.responses import HTMLResponse, PlainTextResponse
        from starlette.routing import Mount, Route
        from starlette.staticfiles import StaticFiles
    except ModuleNotFoundError as error:
        raise HubError(f'Serving needs {error.name}: pip install "adapters[serve]".') from None

    hub = FolderHub(root)

    class PublicFiles(StaticFiles):  # type: ignore[misc, unused-ignore]
        """Files without those that are hidden, such as archives that are still being written."""

        async def get_response(self, path: str, scope: Any) -> Any:
            if any(part.startswith(".") for part in Path(path).parts):
                return PlainTextResponse("Not Found", 404)
            return await super().get_response(path, scope)

    def page(request: Request) -> Any:
        return HTMLResponse(_page(hub))

    parts = [Mount(f"/{n}", PublicFiles(directory=hub.root / n, check_dir=False), name=n) for n in _PUBLIC]
    return Starlette(routes=[Route("/", page), *parts])


def serve(served: Starlette, host: str = "127.0.0.1", port: int = 8000, quiet: bool = False) -> None:
    """Serve until the process is stopped.

    Args:
        served: What `application` gave.
        host: The address to listen at; "0.0.0.0" lets other machines in.
        port: The port; 0 is any that is free.
        quiet: Whether to say nothing of requests.
    """
    import uvicorn

    uvicorn.run(served, host=host, port=port, log_level="warning" if quiet else "info")


def _page(hub: FolderHub) -> str:
    cells = [
        (f"{info.task}/{info.subtask}@{info.username}", str(info.model_name), info.adapter_id) for info in hub.all()
    ]
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
    head = "<tr><th>name</th><th>model</th><th>direct name</th></tr>"
    return f"<!doctype html><meta charset='utf-8'><title>Adapters</title><table>{head}{rows}</table>"
