"""Front ends: from what a file holds to what a network reads, in two steps.

``read`` does once what is done when data are loaded: decode, cut, resize. Calling the record does
what is done at every step, inside ``jit``. Invariant: a front end is a frozen record of its
parameters, so the record saved beside a model is enough to feed that model again.
"""

from micronets_jax.data.frontends.log_mel import LogMelPatches
from micronets_jax.data.frontends.mfcc import MFCC
from micronets_jax.data.frontends.pixels import Pixels
from micronets_jax.data.frontends.registry import FrontEnd, from_json, register, to_json

__all__ = ["MFCC", "FrontEnd", "LogMelPatches", "Pixels", "from_json", "register", "to_json"]
