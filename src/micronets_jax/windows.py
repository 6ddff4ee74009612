"""Receptive fields of a kernel: output sizes and padding, the same for every room.

Invariant: all is static Python. ``SAME`` and ``VALID`` are TensorFlow's: an odd row or column of
padding lies below or to the right.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

Padding = Literal["SAME", "VALID"]


def output_size(size: int, kernel: int, stride: int, padding: Padding, dilation: int = 1) -> int:
    """Size of the output along one axis.

    Args:
        size: of the input.
        kernel: rows (or columns) of the kernel.
        stride: from one output to the next.
        padding: ``SAME`` or ``VALID``.
        dilation: from one tap to the next.

    Returns:
        Rows (or columns); below 1 where a ``VALID`` kernel does not fit.
    """
    if padding == "SAME":
        return -(-size // stride)
    return (size - (kernel - 1) * dilation - 1) // stride + 1


def pads(
    size: int, kernel: int, stride: int, padding: Padding, dilation: int = 1
) -> tuple[int, int]:
    """Padding of the input along one axis.

    Args:
        size: of the input.
        kernel: rows (or columns) of the kernel.
        stride: from one output to the next.
        padding: ``SAME`` or ``VALID``.
        dilation: from one tap to the next.

    Returns:
        Rows (or columns) before and after, of which the second has the odd one.
    """
    if padding == "VALID":
        return 0, 0
    outputs = output_size(size, kernel, stride, padding)
    total = max((outputs - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


@dataclasses.dataclass(frozen=True)
class Window:
    """The sliding window of a kernel over a picture.

    Attributes:
        size: rows and columns of the input.
        out: rows and columns of the output.
        kernel, stride: rows and columns.
        before: rows and columns of padding above and to the left.
        dilation: rows and columns from one tap of the kernel to the next.
    """

    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    @staticmethod
    def over(
        size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> Window:
        """The window of a kernel over an input of this size.

        Args:
            size: rows and columns of the input.
            kernel: rows and columns.
            stride: rows and columns.
            padding: ``SAME`` or ``VALID``.

        Returns:
            The window, with the size of its output and its padding.
        """
        axes = list(zip(size, kernel, stride, strict=True))
        rows, columns = (output_size(n, k, s, padding) for n, k, s in axes)
        top, left = (pads(n, k, s, padding)[0] for n, k, s in axes)
        return Window(size, (rows, columns), kernel, stride, (top, left))

    @property
    def pixels(self) -> int:
        """Positions of the output."""
        return math.prod(self.out)

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return math.prod(self.kernel)

    @property
    def needed(self) -> tuple[int, int]:
        """Rows and columns that the windows of all outputs cover, padding included."""
        rows, columns = (
            (n - 1) * s + (k - 1) * d + 1
            for n, k, s, d in zip(self.out, self.kernel, self.stride, self.dilation, strict=True)
        )
        return rows, columns

    def inside(self, axis: int) -> list[int]:
        """For each output row (or column), the number of taps along it inside the picture."""
        starts = [i * self.stride[axis] - self.before[axis] for i in range(self.out[axis])]
        n, k = self.size[axis], self.kernel[axis]
        return [max(0, min(start + k, n) - max(start, 0)) for start in starts]

    def transposed(self) -> Window:
        """Rows and columns exchanged."""
        return Window(*((pair[1], pair[0]) for pair in dataclasses.astuple(self)))
