"""Examples that a small network learns in seconds."""

import jax
import numpy as np

INPUT_SHAPE = (9, 6, 1)


class Blobs:
    """Three classes told apart by the mean of a third of the picture; easy on purpose."""

    def __init__(self, n: int = 96):
        rng = np.random.default_rng(0)
        self.labels = rng.integers(0, 3, n)
        self.x = rng.normal(size=(n, *INPUT_SHAPE)).astype(np.float32)
        for row, label in zip(self.x, self.labels, strict=True):
            row[3 * label : 3 * label + 3] += 6

    def __len__(self) -> int:
        return len(self.labels)

    def num_batches(self, batch_size: int) -> int:
        return len(self) // batch_size

    def batches(self, batch_size: int, seed: int, epoch: int, rows: slice = slice(None)):
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        for i in range(self.num_batches(batch_size)):
            drawn = order[i * batch_size : (i + 1) * batch_size][rows]
            yield self.x[drawn], self.labels[drawn]


DATA = Blobs()


def jittered(key, x, labels):
    return x + 0.1 * jax.random.normal(key, x.shape), labels
