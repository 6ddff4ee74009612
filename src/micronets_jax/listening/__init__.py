"""Keyword spotting on streams of sound, with the arithmetic of the device.

Invariant: settings are chosen on validation data, by the detections that the device would make.

A network reads a second of sound every hop. ``sliding`` makes these inputs out of a recording of
any length, ``streams`` makes sound with known words at known times, ``choosing`` selects smoothing
and threshold; ``spotting`` detects the words.
"""

from micronets_jax.listening import choosing, sliding, streams
from micronets_jax.listening.choosing import Choice, Point
from micronets_jax.listening.streams import Score, Stream

__all__ = ["Choice", "Point", "Score", "Stream", "choosing", "sliding", "streams"]
