"""The C that ``compile`` writes, as a runtime."""
