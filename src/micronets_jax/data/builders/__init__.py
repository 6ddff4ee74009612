"""Builders of TensorFlow Datasets for archives that it does not serve in the form needed.

Invariant: a builder reads original archives from its manual folder and changes nothing in an
example. These modules are imported inside functions only, for they import TensorFlow.
"""
