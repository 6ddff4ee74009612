"""Quantisation to 8 or 4 bits: ranges that are learned, their simulation, an integer reference.

Invariant: one arithmetic. :func:`apply` simulates, and :func:`run` computes to the bit, what
TensorFlow Lite Micro computes for the file that ``export`` writes.

``scheme`` says which levels a range has, ``simulation`` is the training side in JAX, ``reference``
the integers in NumPy.
"""

from micronets_jax.quantize.reference import (
    QuantizedLayer,
    QuantizedNetwork,
    integers,
    multipliers,
    run,
)
from micronets_jax.quantize.scheme import (
    RANGED,
    WEIGHT_MAX,
    WEIGHTED,
    Folded,
    Ranges,
    lowest_level,
    range_bits,
    range_owners,
    weight_max,
)
from micronets_jax.quantize.simulation import (
    apply,
    calibrate,
    fake_quant,
    fake_quant_weight,
    fold,
)

__all__ = [
    "RANGED",
    "WEIGHTED",
    "WEIGHT_MAX",
    "Folded",
    "QuantizedLayer",
    "QuantizedNetwork",
    "Ranges",
    "apply",
    "calibrate",
    "fake_quant",
    "fake_quant_weight",
    "fold",
    "integers",
    "lowest_level",
    "multipliers",
    "range_bits",
    "range_owners",
    "run",
    "weight_max",
]
