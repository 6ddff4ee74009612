"""Search neural networks for microcontrollers and deliver them as firmware."""
