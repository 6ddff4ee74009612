"""What all tests share: the reference folder, and strict arithmetic."""

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def reference() -> pathlib.Path:
    """The folder of published numbers, models and recordings; skips where it is not given."""
    folder = os.environ.get("MICRONETS_REFERENCE")
    if not folder:
        pytest.skip("set MICRONETS_REFERENCE to the folder of reference numbers to run this test")
    path = pathlib.Path(folder)
    if not path.is_dir():
        pytest.fail(f"MICRONETS_REFERENCE={folder} is not a folder")
    return path
