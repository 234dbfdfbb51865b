"""Files and directories that appear whole or not at all: written beside their place, then renamed into it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from images.errors import ImageError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; it becomes `path` (mode 0644) if the block ends well, and is removed if not."""
    with _beside(path) as folder:
        part = folder / "file"
        yield part
        part.chmod(0o644)
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory to fill; it becomes `path` (mode 0755) if the block ends well.

    Raises ImageError if something is there already: a directory is never replaced, since it may be in use.
    """
    if path.is_symlink() or path.exists():
        raise ImageError(f"{path}: is there already; remove it or choose another place")
    with _beside(path) as folder:
        part = folder / "directory"
        part.mkdir(mode=0o755)
        yield part
        part.chmod(0o755)
        part.rename(path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A directory of our own on the file system where `path` will be; gone when the block ends."""
    if not path.parent.is_dir():
        raise ImageError(f"{path.parent}: is not a directory; make it first")
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".partial", dir=path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
