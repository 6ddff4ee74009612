"""TensorFlow Lite Micro (TFLM) with CMSIS-NN's kernels, as a runtime.

Invariant: no code of TFLM is part of this library; what it does is predicted, or asked of a library
that a person names.
"""
