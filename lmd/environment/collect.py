"""Copy what a machine left in $JOBOUTPUTS to a folder for its user, as hostile input and while it may still change."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lmd.environment import printable, trees
from lmd.environment.trees import Refused

MOST_NAMED = 1000
"""How many entries that were left out a report names; all are counted."""

_PATH_CHARACTERS = 200
_PIECE_BYTES = 1_048_576
_STEP_BYTES = 4096
_HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class CollectError(Exception):
    """The folder for the outputs cannot be used; one line that says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was copied and what was not.

    `bytes` is what was copied, without holes. `left_out` says `PATH: REASON` in a printable line for the first
    thousand of the `left_out_count` entries that were not.
    """

    files: int = 0
    directories: int = 0
    links: int = 0
    bytes: int = 0
    left_out: tuple[str, ...] = ()
    left_out_count: int = 0


def collect(source: Path, destination: Path, *, most_bytes: int, most_files: int) -> Collected:
    """Copy the tree `source` into `destination`, a folder that is made, or is there and empty. Blocks: use a thread.

    Copied are directories, regular files (sparse ones stay so, several names of one file stay one file) and relative
    links that cannot lead out of the tree. Nothing is written outside `destination` or over anything. Copies belong to
    the caller; they lose setuid bits and other people's right to write. All else is left out and named, as is what
    would pass `most_bytes`; after `most_files` entries no more are looked at. A file is read to the length that it had
    when it was opened. A `source` that is not there is empty. Raises `CollectError`.
    """
    with _folder(destination) as target:
        copy = _Copy(target, most_bytes, most_files)
        try:
            with trees.directory(source) as top:
                copy.tree(top)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CollectError(f"{destination}: the outputs cannot be copied: {error.strerror}") from error
        return copy.report()


@contextmanager
def _folder(destination: Path) -> Iterator[int]:
    try:
        destination.mkdir(parents=True, exist_ok=True)
        occupied = any(destination.iterdir())
        descriptor = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CollectError(f"{destination}: cannot be used for outputs: {error.strerror}") from error
    try:
        if occupied:
            raise CollectError(f"{destination}: is not empty; name a folder that is empty or not there yet")
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class _Level:
    """A directory that is being copied: descriptors of both sides, its path with a slash behind, entries to do."""

    source: int
    target: int
    path: str
    names: list[str]


class _TooLarge(Exception):
    """A file does not fit into what is left."""


class _Copy:
    """The walk through the source, and the figures that grow with it."""

    def __init__(self, target: int, most_bytes: int, most_files: int) -> None:
        self._target, self._most, self._room, self._entries = target, most_bytes, most_bytes, most_files
        self._files = self._directories = self._links = self._unnamed = 0
        self._lines: list[str] = []
        self._several: dict[tuple[int, ...], str] = {}
        self._levels: list[_Level] = []

    def report(self) -> Collected:
        return Collected(
            files=self._files,
            directories=self._directories,
            links=self._links,
            bytes=self._most - self._room,
            left_out=tuple(self._lines),
            left_out_count=len(self._lines) + self._unnamed,
        )

    def tree(self, top: int) -> None:
        """Copy all below `top`. Raises OSError if the target takes no more."""
        self._levels = [_Level(top, self._target, "", self._names(top, ""))]
        try:
            while self._levels:
                level = self._levels[-1]
                if level.names:
                    self._entry(level, level.names.pop())
                else:
                    self._leave()
        finally:
            while self._levels:
                self._leave()

    def _leave(self) -> None:
        level = self._levels.pop()
        if self._levels:
            os.close(level.source)
            os.close(level.target)

    def _names(self, source: int, path: str) -> list[str]:
        """The entries of a directory, the last first, as far as entries may still be looked at."""
        names: list[str] = []
        with os.scandir(source) as entries:
            for entry in entries:
                if self._entries == 0:
                    self._left_out(f"{path}…", "too many files: these were not looked at")
                    break
                self._entries -= 1
                names.append(entry.name)
        return sorted(names, reverse=True)

    def _entry(self, level: _Level, name: str) -> None:
        try:
            mode = os.stat(name, dir_fd=level.source, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                self._directory(level, name, mode)
            elif stat.S_ISLNK(mode):
                self._link(level, name)
            else:
                self._file(level, name)
        except Refused as refused:
            self._left_out(level.path + name, str(refused))
        except OSError as error:
            if error.errno in _HOPELESS:
                raise
            self._left_out(level.path + name, error.strerror or "cannot be read")

    def _left_out(self, path: str, reason: str) -> None:
        if len(self._lines) == MOST_NAMED:
            self._unnamed += 1
            return
        line = printable.name(path)
        self._lines.append(f"{line if len(line) <= _PATH_CHARACTERS else '…' + line[-_PATH_CHARACTERS:]}: {reason}")

    def _directory(self, level: _Level, name: str, mode: int) -> None:
        if len(self._levels) >= trees.DEEPEST:
            raise Refused(f"a directory that is nested deeper than {trees.DEEPEST} levels")
        source = trees.open_directory(name, level.source)
        try:
            os.mkdir(name, mode & 0o755 | 0o700, dir_fd=level.target)
            target = trees.open_directory(name, level.target)
        except BaseException:
            os.close(source)
            raise
        path = f"{level.path}{name}/"
        self._levels.append(_Level(source, target, path, []))
        self._directories += 1
        self._levels[-1].names = self._names(source, path)

    def _link(self, level: _Level, name: str) -> None:
        text = os.readlink(name, dir_fd=level.source)
        if not stays(text, len(self._levels) - 1):
            raise Refused(f"a link to {printable.name(text)[:_PATH_CHARACTERS]}, which may lead out of the outputs")
        os.symlink(text, name, dir_fd=level.target)
        self._links += 1

    def _file(self, level: _Level, name: str) -> None:
        with trees.regular(name, level.source) as source:
            found = os.fstat(source)
            # The change time is part of it: another file may have got the number of one that has been removed.
            key = (found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)
            if found.st_nlink > 1 and self._linked(level, name, key):
                return
            if min(found.st_size, found.st_blocks * 512) > self._room:
                raise Refused("a file that does not fit into the limit on bytes")
            self._copied(level, name, source, found)
            if found.st_nlink > 1:
                self._several[key] = level.path + name

    def _linked(self, level: _Level, name: str, key: tuple[int, ...]) -> bool:
        """Give a copied file one more name; False if it is to be copied, as its path may be too long for a link."""
        if key not in self._several:
            return False
        with suppress(OSError):
            os.link(self._several[key], name, src_dir_fd=self._target, dst_dir_fd=level.target, follow_symlinks=False)
            self._files += 1
            return True
        return False

    def _copied(self, level: _Level, name: str, source: int, found: os.stat_result) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(name, flags, found.st_mode & 0o755 | 0o600, dir_fd=level.target)
        room = self._room
        try:
            self._data(source, target, found.st_size)
            os.ftruncate(target, min(found.st_size, os.fstat(source).st_size))
            with suppress(OSError, OverflowError):
                os.utime(target, ns=(found.st_mtime_ns, found.st_mtime_ns))
        except BaseException as error:
            self._room = room
            os.unlink(name, dir_fd=level.target)
            if isinstance(error, _TooLarge):
                raise Refused("a file that does not fit into the limit on bytes") from None
            raise
        finally:
            os.close(target)
        self._files += 1

    def _data(self, source: int, target: int, size: int) -> None:
        """Copy what is data within the first `size` bytes; holes stay holes."""
        offset = 0
        while (start := _seek(source, offset, os.SEEK_DATA, size)) < size:
            # At least one step, so that a writer who makes and fills holes cannot hold us up.
            end = min(size, max(_seek(source, start, os.SEEK_HOLE, size), start + _STEP_BYTES))
            while start < end:
                piece = os.pread(source, min(_PIECE_BYTES, end - start), start)
                if not piece:
                    return
                self._room -= len(piece)
                if self._room < 0:
                    raise _TooLarge
                _write(target, piece, start)
                start += len(piece)
            offset = end


def stays(text: str, depth: int) -> bool:
    """Whether a link in a directory `depth` levels below the top cannot lead above the top, wherever other links lead.

    Steps up are harmless only in front: behind a name they start from wherever that name leads.
    """
    parts = text.split("/")
    up = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    return up <= depth and all(part not in ("", "..") for part in parts[up:])


def _seek(file: int, offset: int, whence: int, size: int) -> int:
    """Where the next data or hole begins; `size` if there is none."""
    try:
        return os.lseek(file, offset, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        if error.errno == errno.EINVAL:  # a file system that does not tell: all of it is data
            return offset if whence == os.SEEK_DATA else size
        raise


def _write(file: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written
