"""Does AdapterHub's `adapters` 1.3 read what this library writes?

    python tests/interop/resave_for_1_3.py ../shared/goldens /tmp/resaved [--format bin] [--old ../venvs/old/bin/python]

Every golden case is copied. What release 1.3 wrote in it is loaded here, and written over the copy by this library.
Then release 1.3, in its own environment, replays the copies and compares with the outputs that it gave before. Cases
that are expected to differ are named below, with the reason; any other failure ends the program with status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

OWN_FORMAT = "same"
RELEASE = "1.3"

# Cases that differ, and why.
EXPECTED = {
    "bert4/avg_loreft": "1.3 averages the parameters of a LoReFT, which give the same rows in many ways",
    "t5/fuse_par": "1.3 differs by the same 1.7e-5 with its own files: the softmax of a fusion with large scores",
    "whisper/nest_fuse_stack": "1.3 differs by the same 1.1e-5 with its own files: the softmax of a fusion",
}


def resave(case: dict[str, Any], root: Path, out: Path, chosen: str) -> list[str]:
    """Load the files of a case, and write them over its copy; gives the folders that were written."""
    import replay

    folder, base, copy = root / case["path"], root / case["base"], out / case["path"]
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    described = json.loads((folder / "case.json").read_text())
    replay.ATTN = None if described["reference_attention"] == "default" else described["reference_attention"]
    model = replay.build_model(described, str(base), str(folder))
    written = []
    if described["model"].get("path"):
        shutil.rmtree(copy / described["model"]["path"])
        model.save_pretrained(copy / described["model"]["path"])
        written.append(described["model"]["path"])
    for op in described["ops"]:
        replay.apply_ops(model, [op], str(folder))
        if op["op"].startswith("load_"):
            is_safe = op.get("use_safetensors", False) if chosen == OWN_FORMAT else chosen == "safetensors"
            write(model, op, copy / op["path"], is_safe)
            op["use_safetensors"] = is_safe
            written.append(op["path"])
    (copy / "case.json").write_text(json.dumps(described))
    return written


def write(model: Any, op: dict[str, Any], folder: Path, use_safetensors: bool) -> None:
    """Write again what one call has loaded."""
    kind, name = op["op"].removeprefix("load_"), op.get("load_as")
    if kind == "adapter":
        name = name or json.loads((folder / "adapter_config.json").read_text())["name"]
        shutil.rmtree(folder)
        with_head = op.get("with_head", True)
        model.save_adapter(folder, name, with_head, use_safetensors=use_safetensors, for_release=RELEASE)
    elif kind == "adapter_fusion":
        name = name or json.loads((folder / "adapter_fusion_config.json").read_text())["name"]
        with_head = (folder / "head_config.json").is_file() and op.get("with_head", True)
        shutil.rmtree(folder)
        model.save_adapter_fusion(
            folder, name, with_head=with_head, use_safetensors=use_safetensors, for_release=RELEASE
        )
    elif kind == "head":
        name = name or json.loads((folder / "head_config.json").read_text())["name"]
        shutil.rmtree(folder)
        model.save_head(folder, name, use_safetensors=use_safetensors)
    elif kind == "adapter_setup":
        setup, heads = model.load_adapter_setup(folder, use_safetensors=op.get("use_safetensors", False))
        shutil.rmtree(folder)
        model.save_adapter_setup(folder, setup, head_setup=heads, use_safetensors=use_safetensors, for_release=RELEASE)
    else:
        raise AssertionError(f"no way to write again what {op['op']} loads")


def main() -> int:
    """Write all, and let release 1.3 read it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("goldens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--format", choices=[OWN_FORMAT, "bin", "safetensors"], default=OWN_FORMAT)
    parser.add_argument("--old", default="/work/venvs/old/bin/python", help="a Python with adapters 1.3")
    parser.add_argument("only", nargs="*", help="parts of the names of cases")
    given = parser.parse_args()
    sys.path.insert(0, str(given.goldens))
    sys.dont_write_bytecode = True
    if given.out.exists():
        shutil.rmtree(given.out)
    manifest = json.loads((given.goldens / "manifest.json").read_text())
    cases = [c for c in manifest["cases"] if not given.only or any(part in c["id"] for part in given.only)]
    unwritten: dict[str, str] = {}
    replayed = []
    for case in cases:
        try:
            if resave(case, given.goldens, given.out, given.format):
                replayed.append(case)
            else:
                unwritten[case["id"]] = "loads no files"
        except Exception as error:
            unwritten[case["id"]] = f"{type(error).__name__}: {str(error)[:200]}"
        shutil.copytree(given.goldens / case["base"], given.out / case["base"], dirs_exist_ok=True)
    (given.out / "manifest.json").write_text(json.dumps({**manifest, "cases": replayed}))
    for name in ("replay.py", "bases.py"):
        shutil.copy(given.goldens / name, given.out / name)
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [given.old, str(given.out / "replay.py"), str(given.out), "--attn", "reference", "--no-cache"]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=given.out)
    lines = [line for line in found.stdout.splitlines() if line.startswith(("ok", "FAIL"))]
    failed = {line.split()[1]: line.partition(line.split()[1])[2].strip() for line in lines if line.startswith("FAIL")}
    print(f"{len(cases)} cases, {len(replayed)} written again, {len(lines) - len(failed)} with equal outputs in 1.3")
    unexplained = 0
    for name, reason in {**unwritten, **failed}.items():
        why = EXPECTED.get(name)
        unexplained += why is None and reason != "loads no files"
        print(f"{'expected' if why else 'FAILED'} {name}: {why or reason}")
    if len(lines) != len(replayed):
        print(found.stderr[-2000:])
        return 1
    return int(unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
