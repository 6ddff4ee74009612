"""Front ends on the board: their parameters as tables for ``csrc/firmware/frontend.c``.

Invariant: from the same samples the C code computes the front end that the record beside the model
describes, to within one step of the model's input.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int8, Int16

from micronets_jax import protocol
from micronets_jax.firmware.boards import FirmwareError
from micronets_jax.firmware.engine import Interface, source

_STATE_BYTES = 20  # counters and ticks


@dataclasses.dataclass(frozen=True)
class FrontEnd:
    """A front end as files for a firmware.

    Attributes:
        record: the front end of ``micronets_jax.data``.
        samples: of one input of the model.
        step: new samples of each further input of a stream.
        files: name -> text.
        tables_bytes: of constants.
        ram_bytes: of buffers.
        part_bytes: of buffers that are added where each frame goes to the model as it is made; 0
            where a frame is not a row of the model's input.
    """

    record: Any
    samples: int
    step: int
    files: Mapping[str, str]
    tables_bytes: int
    ram_bytes: int
    part_bytes: int


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Parameters of the computation; names as in ``csrc/firmware/frontend.c``."""

    frame: int
    hop: int
    fft: int
    frames: int
    triangles: Float[np.ndarray, "bins mels"]
    dct: Float[np.ndarray, "coefficients mels"] | None
    power: bool
    log_scale: float
    floor: float
    offset: float
    thinning: int
    frame_step: int
    band_step: int


def build(text: str, interface: Interface) -> FrontEnd:
    """The front end of a ``frontend.json`` for a model with this interface.

    Raises:
        FirmwareError: not a front end that a board can compute, or the model reads something else.
    """
    from micronets_jax.data import frontends

    try:
        record = frontends.from_json(text)
    except ValueError as error:
        raise FirmwareError(f"the front end cannot be read: {error}") from error
    shape = _shape(record)
    inputs = [e for e in interface if e["way"] == "input"]
    size = math.prod(record.shape)
    if len(inputs) != 1 or inputs[0]["dtype"] != "int8" or inputs[0]["bytes"] != size:
        came = ", ".join(f"{e['dtype']} {e['shape']}" for e in inputs)
        raise FirmwareError(
            f"the front end makes int8 {list(record.shape)}, the model reads {came}: give the "
            "frontend.json that was written beside this model"
        )
    files, tables_bytes = _tables(shape, inputs[0]["scale"], inputs[0]["zero_point"])
    ram = 2 * shape.frame + 4 * shape.fft + 4 * shape.triangles.shape[1] + _STATE_BYTES
    files |= {name: source(name) for name in ("frontend.c", "frontend.h")}
    samples = shape.frame + (shape.frames - 1) * shape.hop
    part = 0
    if shape.frame_step == math.prod(record.shape[1:]):
        part = (protocol.CHUNK // 2 // shape.hop + 1) * shape.frame_step + 4
    return FrontEnd(record, samples, shape.frames * shape.hop, files, tables_bytes, ram, part)


def can_hear(text: str) -> bool:
    """Whether a board can compute the front end of a ``frontend.json``."""
    from micronets_jax.data import frontends

    try:
        _shape(frontends.from_json(text))
    except (FirmwareError, ValueError):
        return False
    return True


def _shape(record: Any) -> _Shape:
    from micronets_jax.data.frontends import log_mel, mfcc

    if isinstance(record, mfcc.MFCC):
        triangles = mfcc.mel_triangles(
            record.num_mels, record.fft_length, record.sample_rate, record.low_hz, record.high_hz
        )
        mel = np.arange(record.num_mels) + 0.5
        order = np.arange(record.num_coefficients)[:, None]
        dct = np.sqrt(2 / record.num_mels) * np.cos(np.pi / record.num_mels * mel * order)
        shape = _Shape(
            record.frame_length, record.hop_length, record.fft_length, record.num_frames,
            triangles, dct, False, 1.0, record.log_floor, 0.0, 1, record.num_coefficients, 1,
        )  # fmt: skip
    elif isinstance(record, log_mel.LogMelPatches):
        triangles = log_mel.slaney_triangles(
            record.num_mels, record.frame_length, record.sample_rate, record.low_hz, record.high_hz
        )
        shape = _Shape(
            record.frame_length, record.hop_length, record.frame_length, record.num_frames,
            triangles, None, True, 10 / math.log(10), 1e-10, -record.mean_db, record.thinning, 1,
            record.shape[1],
        )  # fmt: skip
    else:
        raise FirmwareError(
            f"no board computes the front end {type(record).__name__}: leave it out, and feed the "
            "firmware with features"
        )
    if shape.fft & (shape.fft - 1) or shape.fft < 16:
        raise FirmwareError(
            f"a transform of {shape.fft} points: boards compute powers of two from 16 on"
        )
    if shape.hop > shape.frame or shape.frame % 2 or shape.triangles.shape[1] > 255:
        raise FirmwareError(
            f"frames of {shape.frame} samples every {shape.hop}, {shape.triangles.shape[1]} bands: "
            "boards compute even frames, hops no longer than a frame, and at most 255 bands"
        )
    return shape


def _tables(shape: _Shape, scale: float, zero_point: int) -> tuple[dict[str, str], int]:
    """``tables.h``, ``tables.c`` and their bytes."""
    bins = np.flatnonzero(shape.triangles.any(axis=1))
    first_bin, num_bins = int(bins[0]), int(bins[-1] - bins[0]) + 1
    used = shape.triangles[first_bin : first_bin + num_bins]
    # Every bin lies in at most two neighbouring triangles.
    firsts = np.array([np.flatnonzero(row)[0] if row.any() else 0 for row in used])
    weights = np.zeros((num_bins, 2))
    for k, (first, row) in enumerate(zip(firsts, used, strict=True)):
        pair = row[first : first + 2]
        weights[k, : len(pair)] = pair
        if row.sum() - pair.sum() > 0:
            raise FirmwareError("a bin of the spectrum lies in more than two mel bands")
    n = np.arange(shape.frame // 2 + 1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * n / shape.frame)) / 32768
    angle = 2 * np.pi / shape.fft * np.arange(3 * shape.fft // 4 + 1)
    arrays = {
        "tables_window": ("float", window),
        "tables_sine": ("float", np.sin(angle)),
        "tables_weights": ("float", weights.reshape(-1)),
        "tables_first": ("uint8_t", firsts),
    }
    if shape.dct is not None:
        arrays["tables_dct"] = ("float", shape.dct.reshape(-1))
    defines = {
        "FRAME": shape.frame, "HOP": shape.hop, "FFT": shape.fft, "FRAMES": shape.frames,
        "MELS": shape.triangles.shape[1], "FIRST_BIN": first_bin, "BINS": num_bins,
        "COEFFICIENTS": 0 if shape.dct is None else len(shape.dct), "POWER": int(shape.power),
        "THINNING": shape.thinning, "FRAME_STEP": shape.frame_step,
        "BAND_STEP": shape.band_step, "ZERO_POINT": zero_point,
    }  # fmt: skip
    floats = {
        "LOG_SCALE": shape.log_scale,
        "FLOOR": shape.floor,
        "OFFSET": shape.offset,
        "LEVELS": 1 / scale,
    }
    lines = [
        "/* Parameters of the front end. */", "#ifndef TABLES_H", "#define TABLES_H", "",
        "#include <stdint.h>", "",
        *(f"#define TABLES_{name} ({value})" for name, value in defines.items()),
        *(f"#define TABLES_{name} ({_float(value)})" for name, value in floats.items()),
        "",
        *(f"extern const {kind} {name}[{data.size}];" for name, (kind, data) in arrays.items()),
        "", "#endif", "",
    ]  # fmt: skip
    body = ['#include "tables.h"\n']
    for name, (kind, data) in arrays.items():
        values = list(map(str, data.tolist()) if kind == "uint8_t" else map(_float, data))
        rows = (", ".join(values[i : i + 8]) for i in range(0, len(values), 8))
        body.append(f"const {kind} {name}[{data.size}] = {{\n" + ",\n".join(rows) + "};\n")
    size = sum(data.size * (1 if kind == "uint8_t" else 4) for kind, data in arrays.values())
    return {"tables.h": "\n".join(lines), "tables.c": "\n".join(body)}, size


def _float(value: float | np.floating) -> str:
    text = np.format_float_scientific(np.float32(value), trim="-")
    return f"{text}f"


def samples_of(path: pathlib.Path, front_end: FrontEnd) -> Int16[np.ndarray, " samples"]:
    """The samples of a recording that one input of the model is made of.

    Raises:
        FirmwareError: the recording cannot be read, or is too short.
    """
    from micronets_jax import data
    from micronets_jax.data import recordings

    try:
        if isinstance(front_end.record, data.MFCC):
            return recordings.read_clip(path)[: front_end.samples]
    except data.DataError as error:
        raise FirmwareError(str(error)) from error
    return stream_of(path, front_end)[0]


def stream_of(path: pathlib.Path, front_end: FrontEnd) -> list[Int16[np.ndarray, " samples"]]:
    """The samples of every input that a model with state hears of a recording.

    Windows as long as one input, each :attr:`FrontEnd.step` behind the last; what is left over at
    the end is too short for one.

    Raises:
        FirmwareError: the recording cannot be read, or is too short.
    """
    from micronets_jax import data
    from micronets_jax.data import recordings

    try:
        samples = recordings.read(path)[0]
    except data.DataError as error:
        raise FirmwareError(str(error)) from error
    if len(samples) < front_end.samples:
        raise FirmwareError(
            f"{path} has {len(samples)} samples; the front end needs {front_end.samples}"
        )
    starts = range(0, len(samples) - front_end.samples + 1, front_end.step)
    return [samples[start : start + front_end.samples] for start in starts]


def features_of(
    samples: Int16[np.ndarray, " samples"], front_end: FrontEnd, scale: float, zero_point: int
) -> Int8[np.ndarray, "rows columns channels"]:
    """Features by the front end in Python, quantised as the model's input.

    Args:
        samples: of one input of the model.
        front_end: of the firmware.
        scale: of the model's input.
        zero_point: of the model's input.

    Returns:
        int8 [rows, columns, channels] in steps of ``scale``.
    """
    from micronets_jax import data, runtimes

    record = front_end.record
    if isinstance(record, data.MFCC):
        clip = np.zeros(record.num_samples, np.int16)
        clip[: len(samples)] = samples
        features = record(clip[None])
    else:
        features = record(record.patches(samples)[:1])
    return runtimes.quantize_input(np.asarray(features)[0], scale, zero_point)
