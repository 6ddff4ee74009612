"""Listening: from a stream of sound to words with times, as a spotter on a device does it.

Invariant: what is chosen is chosen on validation data, by what the device would tell.

A network reads a second of sound every hop. ``sliding`` makes these inputs out of a recording of
any length, ``streams`` makes sound of which it is known where the words are, ``choosing`` decides
on the smoothing and the threshold; the words themselves come out of ``spotting``.
"""

from micronets_jax.listening import choosing, sliding, streams
from micronets_jax.listening.choosing import Choice, Point
from micronets_jax.listening.streams import Score, Stream

__all__ = ["Choice", "Point", "Score", "Stream", "choosing", "sliding", "streams"]
