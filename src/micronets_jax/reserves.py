"""What a firmware takes of a board besides its engine: facts that budgets and firmware share.

Invariant: facts measured with arm-none-eabi-gcc 12.2.1 and newlib 3.3, each here alone; JAX is not
loaded.
"""

from __future__ import annotations

STATE_BYTES = 565
"""Of RAM: a frame (520), the state of main (41) and of the clock (4)."""

CLOCK_BYTES = {"mps2.c": 0, "stm32.c": 8}
"""Of RAM: which clock came up, by start-up file."""

HANDLER_STACK_BYTES = 512

LAYER_BYTES = 8
"""Of RAM for each layer: how long it took; compiled C also keeps when the last one ended."""
