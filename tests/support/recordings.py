"""Recordings of noise in folders."""

import pathlib

import numpy as np
import scipy.io.wavfile


def tone(seed: int, samples: int = 16_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-900, 900, samples).astype(np.int16)


def write(path: pathlib.Path, samples: np.ndarray, rate: int = 16_000) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.wavfile.write(path, rate, samples)
    return path


def folder_of(path: pathlib.Path, words: str, count: int, pattern: str = "{k}.wav") -> pathlib.Path:
    for i, word in enumerate(words.split()):
        for k in range(count):
            write(path / word / pattern.format(k=k), tone(1000 * i + k))
    return path
