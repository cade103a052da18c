"""The program `adapters`, as it is called."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from published import BASE, NAME, named_model
from servers import Site

from adapters.commands.app import run
from adapters.hub.writing import HubFolder


class Program:
    """Calls the program within this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture
        self.errors = ""

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """What it writes; it has to end with this code."""
        with pytest.raises(SystemExit) as end:
            run([str(argument) for argument in arguments])
        written, self.errors = self.capture.readouterr()
        assert (end.value.code or 0) == code, self.errors
        return written

    def json(self, *arguments: object, code: int = 0) -> Any:
        """What it writes as JSON."""
        return json.loads(self(*arguments, "--json", code=code))


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> Program:
    """The program."""
    return Program(capsys)


def test_from_a_folder_to_a_hub_and_back(program: Program, saved: Path, tmp_path: Path) -> None:
    root = tmp_path / "my hub"
    program("hub", "init", root)
    assert program("hub", "add", root, saved / "sst-2", NAME, "--author", "Me", "--score", "0.9") == (
        f"@me/{BASE}_sentiment_sst-2_seq_bn\n"
    )
    new = program.json("hub", "add", root, saved / "big", NAME, "--license", "mit")
    assert new["version"] == "1" and Path(new["card"]).is_file()
    assert program("push", saved / "small", "sts/qqp@you", "--hub", root, "--result", "f1=0.5", "-q") == "sts/qqp@you\n"
    rows = program("list", "--hub", root).splitlines()
    assert len(rows) == 3 and program.errors == "3 adapters\n"
    assert rows[0].split("\t") == [f"@me/{BASE}_sentiment_sst-2_double_seq_bn", "sentiment", "sst-2", "me", BASE]
    assert program("list", "--hub", root, "--quiet", "--model", BASE).splitlines()[0] == rows[0].split("\t")[0]
    listed = program.json("list", "--hub", root)
    assert listed[0]["adapter_config"]["mh_adapter"] is True
    info = program.json("info", "sts/qqp@you", "--hub", root)
    assert info["adapter_config"]["r"] == 2
    assert f"model_name      {BASE}" in program("info", "qqp", "--hub", root)
    folder = Path(program("pull", NAME, "--hub", root, "-m", BASE).strip())
    assert named_model().load_adapter(folder) == "sst-2"
    own = program.json("pull", NAME, tmp_path / "mine", "--hub", root, "-m", BASE, "-c", "double_seq_bn")
    assert own == {"adapter": NAME, "folder": str(tmp_path / "mine"), "kind": "adapter"}
    assert named_model().load_adapter(tmp_path / "mine") == "big"
    program("hub", "add-config", root, "tiny", "seq_bn[reduction_factor=64]")
    assert program("hub", "verify", root) == "" and program.errors == "Nothing is wrong\n"
    program("hub", "remove", root, "qqp")
    program("hub", "remove", root, f"@me/{BASE}_sentiment_sst-2_seq_bn", "--version", "1")
    assert len(program.json("list", "--hub", root)) == 1
    (root / "dist/v2/all.json").unlink()
    assert program("hub", "verify", root, code=1) == ("dist/v2/all.json\tmissing; `adapters hub reindex` writes it\n")
    program("hub", "reindex", root)
    assert program.json("hub", "verify", root) == []


def test_pull_from_an_address(program: Program, site: Site, hub: HubFolder, saved: Path) -> None:
    new = hub.add(saved / "sst-2", NAME)
    site.folder = hub.root
    url = f"{site.url}/files/{new.sha256[:2]}/{new.sha256}.zip"
    folder = program("pull", url, "--checksum", new.sha256, "--quiet").strip()
    assert named_model().load_adapter(folder) == "sst-2" and program.errors == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["list", "--hub", "nowhere"],
            "Error: There is no hub nowhere: no such folder. `adapters hub init` makes one.",
        ),
        (["info", "a/b@c", "--hub", "nowhere"], "Error: There is no hub nowhere"),
        (["info", "nothing", "--hub", "."], "Error: . is no hub: it has no dist/v2."),
        (["pull", "a/b"], "Error: 'a/b' was not found. On this machine"),
        (
            ["pull", "a/b", "--kind", "thing"],
            "Error: There is no kind 'thing'; there are adapter, fusion, head, setup.",
        ),
        (
            ["push", "nowhere", "a/b"],
            "Error: nowhere holds no adapter, fusion, head or setup: there is no such folder.",
        ),
        (["hub", "add", "nowhere", "x", "a/b@c"], "Error: nowhere is no hub; `adapters hub init nowhere` makes one."),
        (["hub", "serve", "nowhere"], "Error: "),
        (["hub", "init", "/proc/none"], "Error: /proc/none: No such file or directory"),
    ],
)
def test_wrong_input_is_said_in_a_line(
    program: Program, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert program(*arguments, code=2) == ""
    assert program.errors.startswith(message) and "Traceback" not in program.errors


@pytest.mark.parametrize(
    "arguments", [["lst"], ["list", "--hubb", "x"], ["pull"], ["hub", "serve", "x", "--port", "-1"]]
)
def test_wrong_options(program: Program, arguments: list[str]) -> None:
    assert program(*arguments, code=2) == ""
    assert "Error: " in program.errors


def test_every_command_has_help(program: Program) -> None:
    names = [
        "list",
        "info",
        "pull",
        "push",
        *(f"hub {n}" for n in ("init", "add", "remove", "reindex", "verify", "serve")),
    ]
    for name in names:
        text = program(*name.split(), "--help")
        assert text.splitlines()[0].strip() or text.splitlines()[1].strip().startswith("Usage")
        assert "--help" in text


def test_help_is_quick() -> None:
    """No library that takes time to load is needed to say what there is."""
    code = "import sys, adapters.commands.app; "
    code += "print([m for m in ('torch', 'transformers', 'pydantic') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_tables_on_a_terminal(program: Program, hub: HubFolder, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(saved / "sst-2", NAME)
    assert "│" not in program("list", "--hub", hub.root)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    assert "│ sentiment" in program("list", "--hub", hub.root)


def test_a_hub_is_served(hub: HubFolder, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("starlette")
    uvicorn = pytest.importorskip("uvicorn")
    import threading
    import time

    from adapters.hub.serving import application

    hub.add(saved / "sst-2", NAME)
    (hub.root / "files" / ".secret").write_text("x")
    (hub.root / "private.txt").write_text("x")
    server = uvicorn.Server(uvicorn.Config(application(hub.root), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        model = named_model()
        assert model.load_adapter(NAME, hub=url) == "sst-2"
        assert b"sentiment/sst-2@me" in urllib.request.urlopen(url).read()
        for path in (
            "files/.secret",
            "private.txt",
            "hub.yaml",
            ".lock",
            "files/../private.txt",
            "files/%2e%2e/hub.yaml",
        ):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{url}/{path}")
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(f"{url}/dist/v2/all.json", data=b"x")
        path = f"{url}/dist/v2/all.json"
        etag = urllib.request.urlopen(path).headers["etag"]
        with pytest.raises(urllib.error.HTTPError, match="304"):
            urllib.request.urlopen(urllib.request.Request(path, headers={"if-none-match": etag}))
    finally:
        server.should_exit = True
        thread.join(timeout=5)
