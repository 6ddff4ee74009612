"""The reserve for the firmware around an engine: its state and the stack of its handlers.

Invariant: each number is known here alone, for budgets and firmware alike; JAX is not loaded.
Source: measured with arm-none-eabi-gcc 12.2.1 and newlib 3.3.
"""

from __future__ import annotations

STATE_BYTES = 565
"""Bytes of RAM: a frame (520), the state of main (41) and of the clock (4)."""

CLOCK_BYTES = {"mps2.c": 0, "stm32.c": 8}
"""Bytes of RAM, by start-up file: which clock source started."""

HANDLER_STACK_BYTES = 512
"""Bytes of the stack of exception handlers."""

LAYER_BYTES = 8
"""Bytes of RAM for each layer: its time; compiled C keeps one more, when the last one ended."""
