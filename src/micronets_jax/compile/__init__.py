"""The compiler: a TFLite model to a folder of plain C, bit-exact with TensorFlow Lite Micro.

Invariant: what is written is complete (model, weights, kernels, manifest, memory map) or nothing is
written at all.
"""

from micronets_jax.compile.compiler import PLANS, Compiled, compile_model, write, write_files

__all__ = ["PLANS", "Compiled", "compile_model", "write", "write_files"]
