"""The C that ``compile`` writes, as a runtime.

Invariant: what is counted of a network is what the compiler plans for its file.
"""
