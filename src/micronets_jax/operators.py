"""TFLite's operator for each kind of layer, and what the exported file holds of it.

Invariant: one row for each kind that computes; export, costs and runtimes read what they need of an
operator here. What a runtime adds to that (structures, code, scratch) is in its folder in
``targets``, by the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """An operator of TFLite.

    Attributes:
        name: TFLite's, as ``BuiltinOperator`` spells it.
        version: of the operator, for int8.
        options: the table of its options, as the schema spells it; empty if it has none.
        constants: tensors that it reads from the file.
        file_bytes: of itself and its tensors, their names and contents aside.
    """

    name: str
    version: int
    options: str
    constants: int
    file_bytes: int

    @property
    def weighted(self) -> bool:
        """Whether it has a kernel and a bias."""
        return self.constants == 2


# Bytes: fitted to 51 exported files, which they predict within 0.8 % (see ``cost``).
OPERATORS: Mapping[str, Row] = {
    "conv": Row("CONV_2D", 3, "Conv2D", 2, 257),
    "depthwise": Row("DEPTHWISE_CONV_2D", 3, "DepthwiseConv2D", 2, 296),
    "dense": Row("FULLY_CONNECTED", 4, "FullyConnected", 2, 303),
    "avg_pool": Row("AVERAGE_POOL_2D", 2, "Pool2D", 0, 154),
    "reshape": Row("RESHAPE", 1, "", 1, 69),
    "add": Row("ADD", 2, "Add", 0, 122),
    "pad": Row("PAD", 2, "Pad", 1, 202),
}
"""By kind of layer; a mix is no operator."""

NAMED: Mapping[str, Row] = {row.name: row for row in OPERATORS.values()}
"""By TFLite's name."""
