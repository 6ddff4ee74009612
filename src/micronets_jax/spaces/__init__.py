"""What may be chosen: each space maps a choice to the network it stands for."""

from micronets_jax.spaces.dscnn import DSCNN as DSCNN

__all__ = ["DSCNN"]
