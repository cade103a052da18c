"""Reading and writing the files of an adapter: JSON and tensors, safely and atomically."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter.safetensors", "pytorch_adapter.bin")
INTERFACE_CONFIG = "adapter_interface.json"
FUSION_CONFIG = "adapter_fusion_config.json"
FUSION_WEIGHTS = ("model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin")
SETUP_CONFIG = "adapter_setup.json"
HEAD_CONFIG = "head_config.json"
HEAD_WEIGHTS = ("model_head.safetensors", "pytorch_model_head.bin")


class AdapterFileError(ValueError):
    """A file is not what it should be: missing, torn, or of something else."""


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that at every moment the old or the new one is there whole, also if the process is killed.

    Args:
        path: The file.
        write: Writes the new content to the path that it is given, in the same folder.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(data, indent=2, sort_keys=True)
    atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        AdapterFileError: the file is missing, cut off, or no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterFileError(f"There is no {path.name} in {path.parent}{_contents(path.parent)}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, OSError, RecursionError) as error:
        raise AdapterFileError(f"{path} cannot be read as JSON ({error}); is it cut off?") from None
    if not isinstance(data, dict):
        raise AdapterFileError(f"{path} holds {type(data).__name__} instead of a JSON object.")
    return data


def write_tensors(folder: Path, names: tuple[str, str], tensors: Mapping[str, Tensor], use_safetensors: bool) -> None:
    """Write tensors atomically, and remove the file of the other format, which would be out of date.

    Args:
        folder: The folder.
        names: The file's name in safetensors and in PyTorch's format.
        tensors: The tensors by name. Two names may share one tensor.
        use_safetensors: Which format.
    """
    empty = [key for key, tensor in tensors.items() if tensor.is_meta or tensor.numel() == 0]
    if empty:
        raise AdapterFileError(
            f"Not saved: {', '.join(empty)} hold no numbers here (sharded over processes, or on the meta device)."
        )
    detached: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        detached[key] = plain.clone() if plain.data_ptr() in seen else plain  # safetensors refuses shared memory
        seen.add(plain.data_ptr())
    safe, unsafe = folder / names[0], folder / names[1]
    if use_safetensors:
        atomically(safe, lambda temporary: save_file(detached, temporary))
    else:
        atomically(unsafe, lambda temporary: torch.save(detached, temporary))
    (unsafe if use_safetensors else safe).unlink(missing_ok=True)


def read_tensors(folder: Path, names: tuple[str, str], safetensors_only: bool = False) -> dict[str, Tensor]:
    """Read tensors to the CPU: safetensors if there are any, else PyTorch's format, weights only.

    Raises:
        AdapterFileError: no file is there, or it is cut off, or holds anything but tensors.
    """
    safe, unsafe = folder / names[0], folder / names[1]
    try:
        if safe.is_file():
            return load_file(safe)
        if unsafe.is_file() and not safetensors_only:
            data = torch.load(unsafe, map_location="cpu", weights_only=True)
            if isinstance(data, dict) and all(isinstance(t, Tensor) for t in data.values()):
                return data
            raise AdapterFileError(f"{unsafe} does not hold tensors by name.")
    except AdapterFileError:
        raise
    except SafetensorError as error:
        raise AdapterFileError(f"{safe} cannot be read ({error}); is it cut off?") from None
    except Exception as error:  # torch.load raises whatever it meets in a broken file
        raise AdapterFileError(
            f"{unsafe} cannot be read as weights ({type(error).__name__}: {str(error).partition(chr(10))[0]})."
        ) from None
    wanted = names[0] if safetensors_only else f"{names[0]} or {names[1]}"
    raise AdapterFileError(f"There is no {wanted} in {folder}{_contents(folder)}")


def has_weights(folder: Path, names: tuple[str, str]) -> bool:
    """Whether one of the files is there."""
    return any((folder / name).is_file() for name in names)


def _contents(folder: Path) -> str:
    if not folder.is_dir():
        return ", which is no folder." if folder.exists() else ", which does not exist."
    names = sorted(p.name for p in folder.iterdir())
    return f"; it holds {', '.join(names[:12]) or 'nothing'}."
