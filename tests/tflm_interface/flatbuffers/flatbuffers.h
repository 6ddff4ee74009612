// Part of the interface only by its name.
