"""Changes to training examples that keep what they are: one record for each kind of data.

Invariant: everything takes its key first, works on a whole batch inside ``jit``, and gives each
example its own draw. How strong changes are stands in ``recipes``, for a command line to show.
"""

from micronets_jax.data.augment.base import Augmentation
from micronets_jax.data.augment.blends import Mixup
from micronets_jax.data.augment.images import Images
from micronets_jax.data.augment.speech import Speech

__all__ = ["Augmentation", "Images", "Mixup", "Speech"]
