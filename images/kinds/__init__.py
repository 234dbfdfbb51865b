"""The ways to make a root file system, one module each, by the `kind` of the recipe."""
