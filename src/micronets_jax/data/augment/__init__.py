"""Augmentation: random changes to training examples that keep their labels, or blend them.

Invariant: everything takes its key first, works on a whole batch inside ``jit``, and draws for each
example independently. Strengths are settings in ``recipes``, where a command line shows them.
"""

from micronets_jax.data.augment.base import Augmentation, Unchanged
from micronets_jax.data.augment.blends import Mixup
from micronets_jax.data.augment.images import Images
from micronets_jax.data.augment.speech import Speech

__all__ = ["Augmentation", "Images", "Mixup", "Speech", "Unchanged"]
