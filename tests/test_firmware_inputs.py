"""What a model is fed: arrays by the names of its inputs, finite numbers by default."""

from typing import Any

import numpy as np
import pytest

from micronets_jax.firmware import inputs
from micronets_jax.firmware.boards import FirmwareError


def entry(index: int, name: str, shape: tuple[int, ...], dtype: str = "int8") -> dict:
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return {
        "way": "input", "index": index, "name": name, "shape": list(shape), "dtype": dtype,
        "bytes": count,
    }  # fmt: skip


TWO = [entry(0, "serving_default_b:0", (1, 3)), entry(1, "serving_default_a:0", (1, 2))]
B, A = np.array([[1, 2, 3]], np.int8), np.array([[-4, -5]], np.int8)


def test_the_generator_is_the_one_of_the_firmware():
    s, expected = 12345, []
    for _ in range(3):
        s = (s * 1664525 + 1013904223) % 2**32
        expected.append(s >> 24)
    assert inputs.noise(3, 12345).tolist() == expected


def test_floats_of_the_generator_are_finite_and_take_a_byte_each():
    interface = [entry(0, "x", (2, 500), "float32"), entry(1, "k", (7,))]
    raw = inputs.generated(12345, interface)
    x, k = inputs.split(raw, interface, "input")
    stream = inputs.noise(1007, 12345)
    np.testing.assert_array_equal(x.reshape(-1), (stream[:1000].astype(np.float32) - 128) / 32)
    np.testing.assert_array_equal(k.view(np.uint8), stream[1000:])
    assert (x.min(), x.max()) == (-4, 127 / 32)


@pytest.mark.parametrize(
    "names", [("serving_default_b:0", "serving_default_a:0"), ("b", "a"), ("arr_0", "arr_1")]
)
@pytest.mark.parametrize("turned", [False, True])
def test_arrays_go_by_the_names_of_the_inputs(names, turned, tmp_path):
    """Also where the names' own order is another one: b comes before a in this model."""
    arrays: dict[str, Any] = dict(zip(names, (B, A), strict=True))
    if turned:
        arrays = dict(reversed(arrays.items()))
    np.savez(tmp_path / "x.npz", **arrays)
    (raw,) = inputs.load(str(tmp_path / "x.npz"), TWO)
    assert raw == B.tobytes() + A.tobytes()


@pytest.mark.parametrize("arrays", [{"x": B, "h": A}, {"b": B}, {"b": B, "a": A, "c": A}, {}])
def test_other_names_are_refused(arrays, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(FirmwareError, match=r"the model's inputs are b, a: name one array after"):
        inputs.load(str(tmp_path / "x.npz"), TWO)


def test_one_array_for_two_inputs_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", B)
    with pytest.raises(FirmwareError, match=r"has 2 inputs: give an \.npz with arrays named b, a"):
        inputs.load(str(tmp_path / "x.npy"), TWO)


def test_a_wrong_shape_names_the_input(tmp_path):
    np.savez(tmp_path / "x.npz", b=B, a=B)
    with pytest.raises(FirmwareError, match=r"int8 \[1, 3\] came; input 1 \(a\) is int8 \[1, 2\]"):
        inputs.load(str(tmp_path / "x.npz"), TWO)


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(FirmwareError, match=r"x\.npy: there is no such file$"):
        inputs.load(str(tmp_path / "x.npy"), TWO)


def test_a_damaged_archive_is_a_sentence(tmp_path):
    np.savez(tmp_path / "x.npz", b=B, a=A)
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FirmwareError, match="not a readable NumPy file"):
        inputs.load(str(tmp_path / "x.npz"), TWO)


def test_runs_lie_one_behind_the_other(tmp_path):
    """Of every input as many, for a model that remembers."""
    np.savez(tmp_path / "x.npz", b=np.stack([B, B + 1]), a=np.stack([A, A - 1]))
    runs = inputs.load(str(tmp_path / "x.npz"), TWO, stream=True)
    assert runs == [B.tobytes() + A.tobytes(), (B + 1).tobytes() + (A - 1).tobytes()]
    np.savez(tmp_path / "x.npz", b=np.stack([B, B]), a=A)
    with pytest.raises(FirmwareError, match=r"input 1 \(a\) is .*; one behind the other for"):
        inputs.load(str(tmp_path / "x.npz"), TWO, stream=True)
