"""What a machine leaves in $JOBOUTPUTS, read as hostile input at a bounded cost. All calls block: use a thread."""

import errno
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lmd.environment import trees
from lmd.environment.trees import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much a tree holds.

    `bytes` is what it takes on the disk, `apparent_bytes` the sum of the files' lengths; `files` counts every entry,
    directories too. A file of several names takes its place once. `unreadable` directories were not looked into.
    `complete` False: a limit was passed, and the figures are what had been seen by then.
    """

    bytes: int = 0
    apparent_bytes: int = 0
    files: int = 0
    unreadable: int = 0
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its path as it is on the disk (`printable.name` shows it), what it is, and its length in bytes."""

    path: str
    kind: str
    bytes: int


def measure(path: Path, *, most_bytes: int, most_files: int) -> Size:
    """The size of the tree at `path`, counted until one of the limits is passed: the cost is that of `most_files`
    entries, whatever the tree holds. What vanishes meanwhile is not counted; a tree that is not there is empty, one
    that cannot be read is one `unreadable` directory.

    Directories that nest deeper than `trees.DEEPEST` count as more files than any limit.
    """
    walk, taken, apparent, files = _Walk(), 0, 0, 0
    several: set[tuple[int, int]] = set()
    with closing(_entries(path, walk)) as entries:
        for _, found in entries:
            files += 1
            key = (found.st_dev, found.st_ino)
            if key not in several:
                taken += found.st_blocks * 512
                apparent += found.st_size if stat.S_ISREG(found.st_mode) else 0
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                several.add(key)
            if taken > most_bytes or files > most_files or walk.too_deep:
                break
    if walk.too_deep:
        files = max(files, most_files + 1)
    complete = taken <= most_bytes and files <= most_files
    return Size(bytes=taken, apparent_bytes=apparent, files=files, unreadable=walk.unreadable, complete=complete)


def listing(path: Path, *, most_files: int) -> list[Entry]:
    """The first `most_files` entries of the tree at `path`, sorted by path; a tree that is not there is empty."""
    with closing(_entries(path, _Walk())) as entries:
        first = [Entry(name, trees.kind(found.st_mode), found.st_size) for name, found in islice(entries, most_files)]
    return sorted(first, key=lambda entry: entry.path)


def _entries(path: Path, walk: "_Walk") -> Generator[tuple[str, os.stat_result]]:
    try:
        with trees.directory(path) as top:
            yield from walk.entries(top)
    except FileNotFoundError:
        return
    except OSError:
        walk.unreadable += 1


def read_small(path: Path, name: str, limit: int) -> bytes | None:
    """The content of one regular file of the directory `path`; None if there is none of that name.

    Raises `Refused`, with a reason, for a link, fifo, device, socket or directory, for more than `limit` bytes, and
    for what cannot be read.
    """
    _check(name)
    try:
        with trees.directory(path) as top, trees.regular(name, top) as file:
            content = b""
            while len(content) <= limit and (piece := os.read(file, limit + 1 - len(content))):
                content += piece
    except FileNotFoundError:
        return None
    except Refused as refused:
        raise Refused(f"{name} is {refused}, not a file") from None
    except OSError as error:
        raise Refused(f"{name} cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise Refused(f"{name} is larger than {limit} bytes")
    return content


def age(path: Path, name: str, now: float) -> float | None:
    """Seconds since the regular file `name` was last written or touched; None if there is no such file.

    By its change time, which the kernel sets and a machine cannot put into the future. Negative if the clock has been
    set back since.
    """
    _check(name)
    try:
        with trees.directory(path) as top:
            found = os.stat(name, dir_fd=top, follow_symlinks=False)
    except OSError:
        return None
    return now - found.st_ctime if stat.S_ISREG(found.st_mode) else None


def leave(path: Path, name: str, content: bytes) -> bool:
    """Write a file that is not there yet; False, and nothing is changed, if anything has that name. Raises OSError."""
    _check(name)
    with trees.directory(path) as top:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(name, flags, 0o644, dir_fd=top)
        except FileExistsError:
            return False
        try:
            os.fchmod(file, 0o644)
            if os.write(file, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        except OSError:
            os.unlink(name, dir_fd=top)
            raise
        finally:
            os.close(file)
    return True


def _check(name: str) -> None:
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of one file")


class _Walk:
    """Every entry below a directory, each directory before what is in it, for as long as the reader wants.

    A directory that is being read holds one descriptor and the names of its directories that are still to do.
    """

    def __init__(self) -> None:
        self.unreadable = 0
        self.too_deep = False
        self._levels: list[tuple[int, str, list[str]]] = []

    def entries(self, top: int) -> Iterator[tuple[str, os.stat_result]]:
        """Paths relative to `top`, and what they are."""
        self._levels = [(top, "", [])]
        try:
            yield from self._read()
            while self._levels:
                within, path, names = self._levels[-1]
                if not names:
                    self._levels.pop()
                    if self._levels:
                        os.close(within)
                elif self._descend(within, f"{path}{names.pop()}"):
                    yield from self._read()
        finally:
            for descriptor, _, _ in self._levels[1:]:
                os.close(descriptor)

    def _descend(self, within: int, path: str) -> bool:
        if len(self._levels) >= trees.DEEPEST:
            self.too_deep = True
            return False
        try:
            self._levels.append((trees.open_directory(path.rpartition("/")[2], within), f"{path}/", []))
        except FileNotFoundError:
            return False
        except OSError:
            self.unreadable += 1
            return False
        return True

    def _read(self) -> Iterator[tuple[str, os.stat_result]]:
        within, path, names = self._levels[-1]
        with os.scandir(within) as entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISDIR(found.st_mode):
                    names.append(entry.name)
                yield f"{path}{entry.name}", found
