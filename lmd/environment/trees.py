"""Step through a directory tree that its writer may change at any moment: by descriptors, never through a link.

Nothing but a regular file is ever opened for reading: opening a fifo may block, and opening a device may act on it.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DEEPEST = 256
"""Levels of directories that are looked into. Each costs a descriptor while what is below it is read."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Refused(Exception):
    """An entry is not what may be read; the text says what it is."""


def kind(mode: int) -> str:
    """What an st_mode says an entry is, such as `a fifo`."""
    return _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")


@contextmanager
def directory(path: Path | str, within: int | None = None) -> Iterator[int]:
    """The descriptor of a directory; with `within`, of that directory's entry. Raises OSError, also for a link."""
    descriptor = os.open(path, _DIRECTORY, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_directory(name: str, within: int) -> int:
    """The descriptor of the entry `name`, for the caller to close. Raises OSError, also for a link."""
    return os.open(name, _DIRECTORY, dir_fd=within)


@contextmanager
def regular(name: str, within: int) -> Iterator[int]:
    """The descriptor of a regular file, for reading. Raises `Refused` for anything else, and OSError.

    The entry is held without being opened until it is known to be a file; that very file is opened then, whatever has
    taken its name meanwhile.
    """
    held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    try:
        mode = os.fstat(held).st_mode
        if not stat.S_ISREG(mode):
            raise Refused(kind(mode))
        descriptor = os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(held)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a tree whose writers are gone, whatever its depth, names and modes. Not there is success.

    Directories that are not empty are first moved up to the top, so one level of descriptors is enough for any depth.
    Raises OSError naming what cannot be removed.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        with directory(path) as top:
            _empty(top)
        path.rmdir()
        return
    with suppress(FileNotFoundError):
        path.unlink()


def _empty(top: int) -> None:
    """Remove all entries of the directory `top`."""
    while names := _names(top):
        for name in names:
            if _remove_leaf(name, top):
                continue
            _unlock(name, top)
            with directory(name, top) as below:
                if os.fstat(below).st_dev != os.fstat(top).st_dev:
                    raise OSError(errno.EBUSY, "a file system is mounted there", name)
                _lift(below, top)
            os.rmdir(name, dir_fd=top)


def _lift(below: int, top: int) -> None:
    """Empty the directory `below`: what is in its directories stays for later, in `top`."""
    while names := _names(below):
        for name in names:
            if not _remove_leaf(name, below):
                _unlock(name, below)
                os.rename(name, f".lifted-{os.urandom(12).hex()}", src_dir_fd=below, dst_dir_fd=top)


def _names(descriptor: int) -> list[str]:
    """Entries of a directory, at most a thousand at a time."""
    names = []
    with os.scandir(descriptor) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) == 1000:
                break
    return names


def _remove_leaf(name: str, within: int) -> bool:
    """Remove anything but a directory that is not empty; False if it is one."""
    try:
        os.unlink(name, dir_fd=within)
    except IsADirectoryError:
        with suppress(OSError):
            os.rmdir(name, dir_fd=within)
            return True
        return False
    except FileNotFoundError:
        pass
    return True


def _unlock(name: str, within: int) -> None:
    """Let the owner into a directory that its modes shut; needed by ordinary users alone."""
    held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=within)
    try:
        if os.fstat(held).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            Path(f"/proc/self/fd/{held}").chmod(0o700)
    finally:
        os.close(held)
