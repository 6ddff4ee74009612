"""Made-up data, synthesised in seconds: for trying things without a download.

Invariant: the same parameters give the same bytes, however many processors share the work. Nothing
measured on them says how well a network does on real data.
"""
