"""The named parts of a container image in a directory or a tar file, read as untrusted input."""

import io
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

DOCUMENT_LIMIT = 4_000_000
MEMBERS_LIMIT = 100_000
HEADER_LIMIT = 4_000_000
"""Most bytes that one header of a tar file may take: tarfile reads it in one piece."""


def regular_file(path: Path) -> IO[bytes]:
    """A file that is open to be read; a fifo is not waited for. Raises ValueError for what is no regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("is no regular file")
    return os.fdopen(descriptor, "rb")


UNREADABLE = (OSError, EOFError, RecursionError, tarfile.TarError, LookupError, ValueError, TypeError, AttributeError)
"""All that hostile content makes readers raise."""


def short(error: BaseException) -> str:
    """What is wrong, in one line."""
    text = f"{error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


class Members(Protocol):
    """The parts by their name. Both raise ValueError or OSError for a part that is not there or is no file."""

    def open(self, name: str) -> IO[bytes]:
        """The content of a part; the caller closes it."""

    def read(self, name: str) -> bytes:
        """A part of at most `DOCUMENT_LIMIT` bytes."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory in the OCI image layout."""

    path: Path

    def open(self, name: str) -> IO[bytes]:
        """As `Members.open`."""
        return regular_file(self.path / name)

    def read(self, name: str) -> bytes:
        """As `Members.read`."""
        with self.open(name) as stream:
            return _limited(stream, name)


class Archive:
    """A tar file that is open."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members: dict[str, tarfile.TarInfo] = {}
        for number, member in enumerate(archive):
            if number >= MEMBERS_LIMIT:
                raise ValueError(f"it has more than {MEMBERS_LIMIT} members")
            self._members[posixpath.normpath(member.name)] = member

    def open(self, name: str) -> IO[bytes]:
        """A link to another member, as `docker save` makes for a layer that is there twice, is followed once."""
        member = self._members.get(name)
        if member is not None and member.issym():
            member = self._members.get(posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname)))
        stream = self._archive.extractfile(member) if member is not None and member.isreg() else None
        if stream is None:
            raise ValueError(f"{name[:100]!r} is missing")
        return stream

    def read(self, name: str) -> bytes:
        """As `Members.read`."""
        with self.open(name) as stream:
            return _limited(stream, name)


def _limited(stream: IO[bytes], name: str) -> bytes:
    data = stream.read(DOCUMENT_LIMIT + 1)
    if len(data) > DOCUMENT_LIMIT:
        raise ValueError(f"{name} is larger than {DOCUMENT_LIMIT} bytes")
    return data


class Guarded(io.RawIOBase):
    """A file for tarfile to read, which refuses to give a header that would fill the memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        """At most `HEADER_LIMIT` bytes; raises ValueError if more is asked for."""
        if not 0 <= size <= HEADER_LIMIT:
            raise ValueError(f"a header or a piece of {size} bytes is too large")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return self._stream.tell()

    def seekable(self) -> bool:
        """Always."""
        return True


@contextmanager
def tar(stream: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """An uncompressed tar file in a stream that can be sought, with `Guarded` between."""
    with tarfile.open(fileobj=Guarded(stream), mode="r:") as archive:
        yield archive
