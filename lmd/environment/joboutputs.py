"""What a machine leaves in $JOBOUTPUTS, read as hostile input at a bounded cost. All calls block: use a thread."""

import errno
import os
import stat
from dataclasses import dataclass
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


def measure(path: Path, *, most_bytes: int, most_files: int) -> Size:
    """The size of the tree at `path`, counted until one of the limits is passed: the cost is that of `most_files`
    entries, whatever the tree holds. What vanishes meanwhile is not counted; a tree that is not there is empty.

    Directories that nest deeper than `trees.DEEPEST` count as more files than any limit.
    """
    count = _Count(most_bytes, most_files)
    try:
        with trees.directory(path) as top:
            count.tree(top)
    except FileNotFoundError:
        return Size()
    return count.size()


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


class _Count:
    """A walk that adds up, and stops at the first limit that is passed."""

    def __init__(self, most_bytes: int, most_files: int) -> None:
        self._most_bytes, self._most_files = most_bytes, most_files
        self._bytes = self._apparent = self._files = self._unreadable = 0
        self._several: set[tuple[int, int]] = set()

    def size(self) -> Size:
        return Size(
            bytes=self._bytes,
            apparent_bytes=self._apparent,
            files=self._files,
            unreadable=self._unreadable,
            complete=not self._passed,
        )

    @property
    def _passed(self) -> bool:
        return self._bytes > self._most_bytes or self._files > self._most_files

    def tree(self, top: int) -> None:
        """Count all below `top`, depth first: each level holds one descriptor and the names that are still to do."""
        levels = [(top, self._entries(top))]
        try:
            while levels:
                within, names = levels[-1]
                if not names or self._passed:
                    levels.pop()
                    if levels:
                        os.close(within)
                    continue
                self._descend(names.pop(), within, levels)
        finally:
            for descriptor, _ in levels[1:]:
                os.close(descriptor)

    def _descend(self, name: str, within: int, levels: list[tuple[int, list[str]]]) -> None:
        if len(levels) >= trees.DEEPEST:
            self._files = max(self._files, self._most_files) + 1
            return
        try:
            below = trees.open_directory(name, within)
        except FileNotFoundError:
            return
        except OSError:
            self._unreadable += 1
            return
        levels.append((below, []))
        levels[-1][1].extend(self._entries(below))

    def _entries(self, within: int) -> list[str]:
        """Count the entries of one directory; returns the names of those that are directories."""
        directories: list[str] = []
        with os.scandir(within) as entries:
            for entry in entries:
                self._entry(entry, directories)
                if self._passed:
                    break
        return directories

    def _entry(self, entry: "os.DirEntry[str]", directories: list[str]) -> None:
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            return
        self._files += 1
        if stat.S_ISDIR(found.st_mode):
            directories.append(entry.name)
        elif found.st_nlink > 1:
            if (found.st_dev, found.st_ino) in self._several:
                return
            self._several.add((found.st_dev, found.st_ino))
        self._bytes += found.st_blocks * 512
        if stat.S_ISREG(found.st_mode):
            self._apparent += found.st_size
