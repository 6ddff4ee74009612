"""Listening: from a stream of sound to words with times, as a spotter on a device does it.

Invariant: everything between a network's logits and a word is integer arithmetic, the same here and
in ``csrc/firmware/listening.c``; what is chosen is chosen on validation data.

A network reads a second of sound every hop. ``sliding`` makes these inputs out of a recording of
any length, ``spotting`` turns logits into words, ``streams`` makes sound of which it is known where
the words are, ``choosing`` decides on the smoothing and the threshold.
"""

from micronets_jax.listening import choosing, sliding, spotting, streams
from micronets_jax.listening.choosing import Choice, Point
from micronets_jax.listening.spotting import Event, Settings, Spotter
from micronets_jax.listening.streams import Score, Stream

__all__ = [
    "Choice", "Event", "Point", "Score", "Settings", "Spotter", "Stream", "choosing", "sliding",
    "spotting", "streams",
]  # fmt: skip
