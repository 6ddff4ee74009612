"""Where examples come from: one module for each layout of files, published or a person's own.

Invariant: the same files and seed give the same ``Dataset``. Asked for ``embedded``, a source gives
examples of ``data.embedded`` in the same form.
"""
