"""`python -m adapters.demo`."""

import os
import sys

from .requirements import what_to_install


def prepare() -> None:
    """Check what is installed, and set what is only read when torch and huggingface_hub are imported."""
    problem = what_to_install()
    if problem is not None:
        sys.exit(problem)
    # The demo must never wait for a network.
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Threads that wait for each other must not keep a core busy meanwhile: when another program needs a core too,
    # that makes training five times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main() -> None:
    """Read the command line and run the demo."""
    prepare()
    from .cli import run

    run()


if __name__ == "__main__":
    main()
