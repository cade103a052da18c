"""`python -m adapters.demo`."""

import os
import sys

from .requirements import what_to_install


def main() -> None:
    """Check that everything is installed before the imports that need it."""
    problem = what_to_install()
    if problem is not None:
        sys.exit(problem)
    # Read by huggingface_hub when it is imported: the demo must never wait for a network.
    os.environ["HF_HUB_OFFLINE"] = "1"
    from .cli import run

    run()


if __name__ == "__main__":
    main()
