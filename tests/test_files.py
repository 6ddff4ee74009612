"""Files: whole or absent, whatever goes wrong in between."""

import os

import pytest

from micronets_jax import files


def test_what_was_written_is_there_and_readable_by_others(tmp_path):
    path = files.write(tmp_path / "a.json", "{}\n")
    assert path.read_bytes() == b"{}\n" and path.stat().st_mode & 0o777 == 0o644
    assert files.write(path, b"\0") == path and path.read_bytes() == b"\0"


def test_a_full_disk_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch):
    path = files.write(tmp_path / "model.tflite", b"first")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(path, b"second")
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["model.tflite"]


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.whole(tmp_path / "cache.bin") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)
