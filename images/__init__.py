"""Recipes for machine images, the builder, and the cache of image files."""

from images.cache import find
from images.errors import ImageError

__all__ = ["ImageError", "find"]
