"""Recipes for machine images, the builder, and the cache of image files."""
