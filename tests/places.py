"""Where the data are that are not part of the project: goldens and data sets."""

from __future__ import annotations

import os
from pathlib import Path

SHARED = Path(os.environ.get("ADAPTERS_SHARED", Path(__file__).parents[2] / "shared"))
