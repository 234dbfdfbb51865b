"""The one error of this package."""


class ImageError(Exception):
    """Its text is one line: the thing, what is wrong with it, what to do."""
