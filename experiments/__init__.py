"""One file, one run; its record stands in its head."""
