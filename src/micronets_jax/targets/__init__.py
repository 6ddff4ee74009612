"""Runtimes: for each what a network takes under it, from the layers alone."""
