"""Where the published numbers and models lie that benchmarks compare with."""

from __future__ import annotations

import os
import pathlib
import sys


def reference_folder() -> pathlib.Path:
    """What ``MICRONETS_REFERENCE`` names; ends the program with a sentence where it does not."""
    named = os.environ.get("MICRONETS_REFERENCE", "")
    if not named or not (pathlib.Path(named) / "models").is_dir():
        sys.exit(
            f"error: MICRONETS_REFERENCE={named!r}: name the folder of published numbers and models"
        )
    return pathlib.Path(named)
