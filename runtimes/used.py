"""When an image was last used on this host, by any runtime: the time of a file of its id in the cache directory.

What is lost with the cache is only this knowledge: such an image counts as used when it was made.
"""

import os
from contextlib import suppress
from pathlib import Path

DIGITS = 12


def _file(cache: Path, image_id: str) -> Path:
    return cache / "used" / image_id.removeprefix("sha256:")[:DIGITS]


def note(cache: Path, image_id: str) -> None:
    """Remember that the image (`sha256:…`) is used now; a cache that cannot be written remembers nothing."""
    path = _file(cache, image_id)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path)


def last(cache: Path, image_id: str) -> float | None:
    """Unix seconds of the last use; None if none is known. The first twelve digits of the id are enough."""
    try:
        return _file(cache, image_id).stat().st_mtime
    except OSError:
        return None


def forget(cache: Path, image_id: str) -> None:
    """Remember it no longer."""
    with suppress(OSError):
        _file(cache, image_id).unlink()
