"""The content-addressed cache on disk, shared by threads, mounts and processes without a server between them.

Every file is written under a temporary name, closed with a seal (a digest of its content) and renamed. The seal
is checked when a process first uses a file, and again when the file has changed since: neither a power cut nor
a bad disk can turn into wrong data. Least recently used files go first when the quota is reached; a file that
is open somewhere stays readable there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import logging
import os
import stat
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cvmfs.behind import Behind, Small
from cvmfs.content import Content, MemoryBudget, SmallContent
from cvmfs.errors import CacheUnusable

MARKER = "lmd-cvmfs-cache"
MARKER_TEXT = b"CernVM-FS cache of lmd, version 1\n"
_MAGIC = b"lmdseal1"
_SEAL = struct.Struct("<8sQ20s")
_USAGE = struct.Struct("<q")
_PIECE = 1 << 20
_SMALL = 1 << 16
_TOUCH_SECONDS = 60
_STALE_SECONDS = 60
_KEEP_LAST = ("C", "X", "H", "M")
_Signature = tuple[int, int, int]
log = logging.getLogger("cvmfs")


class Cache:
    """Objects under keys (file names), in `directory`.

    `quota` in bytes of disk, None for no limit; `memory` in bytes is what may be held instead while the disk is full.
    """

    def __init__(
        self, directory: Path, quota: int | None = None, memory: int = 1 << 28, clock: Callable[[], float] = time.time
    ) -> None:
        """Use or make the directory. Raises CacheUnusable if it is somebody else's or holds something else."""
        self.directory = directory
        self.quota = quota
        self._clock = clock
        self._budget = MemoryBudget(memory)
        self._verified: dict[str, _Signature] = {}
        self._serial = itertools.count()
        self._cleanups: deque[float] = deque(maxlen=10_000)
        _claim(directory)
        self._behind = Behind(self._write_small)
        self._temporary = directory / "tmp"
        self._data = directory / "data"
        self._lock_file = directory / "usage"
        self._remove_stale()

    def open(self, key: str) -> Content | None:
        """The content under this key, checked against its seal, or None. A damaged file is removed."""
        self._behind.busy()
        path = self._path(key)
        opened = _open_sealed(path)
        if opened is None:
            return self._behind.get(key)
        fd, status = opened
        signature = (status.st_ino, status.st_mtime_ns, status.st_size)
        content = Content(fd, status.st_size - _SEAL.size, path)
        if self._verified.get(key) != signature:
            if content.size < 0 or not _seal_holds(content):
                self._discard(path, status.st_size)
                return None
            self._note(key, signature)
        self._touch(fd, status)
        return content

    def ready(self, key: str) -> Content | None:
        """Like open, but only for a file that is checked already or is small: quick."""
        if key not in self._verified:
            try:
                if os.stat(self._path(key)).st_size > _SMALL:  # noqa: PTH116 — paths are texts here
                    return None
            except OSError:
                return self._behind.get(key)
        return self.open(key)

    def store(self, key: str, pieces: Iterator[bytes]) -> Content:
        """Keep the content that `pieces` yields, once the iterator has come to its end without an exception.

        A full or read-only disk is survived: the content is then held in memory. Raises CacheUnusable when that
        has no room either, and whatever the iterator raises.
        """
        draft = _Draft(self, key)
        try:
            for piece in pieces:
                draft.write(piece)
            return draft.finish()
        except BaseException:
            draft.abandon()
            raise

    def store_soon(self, key: str, pieces: Iterator[bytes]) -> Content:
        """Like store, but small content is returned at once, and written to disk when there is time (see Behind)."""
        data: list[bytes] = []
        size = 0
        for piece in pieces:
            data.append(piece)
            size += len(piece)
            if size > _SMALL:
                return self.store(key, itertools.chain(data, pieces))
        whole = b"".join(data)
        self._behind.add(key, whole)
        return SmallContent(whole)

    def flush(self) -> None:
        """Wait until all that was stored is on disk."""
        self._behind.flush()

    def _write_small(self, batch: Sequence[Small]) -> None:
        """Write small objects, with one look at the accounts for all. On a full disk half of the cache is given up
        for them, and if that does not help they are: they will be fetched again."""
        size = sum(len(data) + _SEAL.size for _, data in batch)
        if not self._admit(size):
            return
        for number, (key, data) in enumerate(batch):
            try:
                self._put(key, data)
            except OSError as error:
                if number == 0 and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    with contextlib.suppress(OSError):
                        self.make_room()
                        self._account(size)
                        self._put(key, data)
                        continue
                with contextlib.suppress(OSError):
                    self._account(-sum(len(other) + _SEAL.size for _, other in batch[number:]))
                return

    def _put(self, key: str, data: bytes) -> None:
        draft = f"{self._temporary}/{self._draft_name()}"
        seal = _SEAL.pack(_MAGIC, len(data), hashlib.sha1(data, usedforsecurity=False).digest())
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_at(fd, data + seal, 0)
            self._name(draft, key)
            status = os.fstat(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)  # noqa: PTH108 — paths are texts here
            raise
        finally:
            os.close(fd)
        self._note(key, (status.st_ino, status.st_mtime_ns, status.st_size))

    def _name(self, draft: str, key: str) -> None:
        path = self._path(key)
        try:
            os.rename(draft, path)  # noqa: PTH104 — as above
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120 — as above
            os.rename(draft, path)  # noqa: PTH104 — as above

    def state(self, repository: str, name: str) -> bytes | None:
        """A small file kept for a repository, such as the last manifest, or None."""
        try:
            with (self.directory / "repositories" / repository / name).open("rb") as stream:
                return stream.read(1 << 21)
        except OSError:
            return None

    def keep_state(self, repository: str, name: str, data: bytes) -> None:
        """Replace a small file of a repository. A full disk is not an error: the old one stays."""
        folder = self.directory / "repositories" / repository
        draft = self._temporary / self._draft_name()
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)  # not synced: what a power cut spoils is signed, seen to be spoilt, and fetched
            draft.replace(folder / name)
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)

    @contextlib.contextmanager
    def repository_lock(self, repository: str) -> Iterator[None]:
        """One holder among all processes: for reading and replacing the state of a repository."""
        folder = self.directory / "repositories" / repository
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # a full or read-only disk keeps no state either
            yield
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def used(self) -> int:
        """Bytes that the accounts say are in use."""
        with contextlib.suppress(OSError):
            return self._account(0)
        return 0

    def make_room(self, target: int | None = None) -> None:
        """Remove least recently used files until `target` bytes (half of all) are left, and correct the accounts."""
        self._cleanups.append(self._clock())
        with self._accounts() as fd:  # held throughout: what others book meanwhile would be lost
            files = sorted(self._files(), key=lambda file: (file[0].endswith(_KEEP_LAST), file[1]))
            total = sum(size for _, _, size in files)
            target = total // 2 if target is None else target
            for path, _, size in files:
                if total <= target:
                    break
                with contextlib.suppress(OSError):
                    os.unlink(path)  # noqa: PTH108 — paths are texts here, thousands of them
                    total -= size
            os.pwrite(fd, _USAGE.pack(total), 0)

    def cleanups(self, seconds: float) -> int:
        """How often this process has removed objects to make room in the last so many seconds."""
        since = self._clock() - seconds
        return sum(when >= since for when in self._cleanups)

    def _files(self) -> Iterator[tuple[str, float, int]]:
        """Path, time of last use and size of every object."""
        for folder in list(_scan(self._data)):
            for item in list(_scan(folder.path)):
                with contextlib.suppress(OSError):
                    status = item.stat(follow_symlinks=False)
                    yield item.path, status.st_atime, status.st_size

    def _path(self, key: str) -> str:
        return f"{self._data}/{key[:2]}/{key[2:]}"

    def _draft_name(self) -> str:
        return f"{os.getpid()}.{next(self._serial)}"

    def _note(self, key: str, signature: _Signature) -> None:
        if len(self._verified) > 200_000:
            self._verified.clear()
        self._verified[key] = signature

    def _touch(self, fd: int, status: os.stat_result) -> None:
        """Note the use in the access time, by hand: file systems are mounted with noatime."""
        now = self._clock()
        if status.st_atime + _TOUCH_SECONDS < now:
            with contextlib.suppress(OSError):
                os.utime(fd, ns=(int(now * 1e9), status.st_mtime_ns))

    def _discard(self, path: str, size: int) -> None:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108 — as above
            self._account(-size)

    @contextlib.contextmanager
    def _accounts(self) -> Iterator[int]:
        """The file with the bytes in use, for this process alone."""
        fd = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def _account(self, change: int) -> int:
        """Add to the bytes in use, as all processes know them, and return the sum."""
        with self._accounts() as fd:
            data = os.pread(fd, _USAGE.size, 0)
            used = _USAGE.unpack(data)[0] if len(data) == _USAGE.size else 0
            total = max(0, used + change)
            if total != used:
                os.pwrite(fd, _USAGE.pack(total), 0)
            return total

    def _admit(self, size: int) -> bool:
        """Book a file of `size` bytes, after making room for it; False if it is larger than the whole quota."""
        if self.quota is None:
            self._account(size)
            return True
        if size > self.quota:
            return False
        if self._account(size) > self.quota:
            self.make_room(min(self.quota // 2, self.quota - size))
            self._account(size)
        return True

    def _remove_stale(self) -> None:
        """Remove temporary files of processes that are gone: a living one holds a lock on its file."""
        for item in list(_scan(self._temporary)):
            with contextlib.suppress(OSError):
                fd = os.open(item.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(fd).st_mtime + _STALE_SECONDS < time.time():
                        os.unlink(item.path)  # noqa: PTH108 — as above
                finally:
                    os.close(fd)


class _Draft:
    """A file being written: on disk, or in memory once the disk has refused."""

    def __init__(self, cache: Cache, key: str) -> None:
        self._cache = cache
        self._key = key
        self._digest = hashlib.sha1(usedforsecurity=False)
        self._size = 0
        self._in_memory = 0
        self._path: str | None = f"{cache._temporary}/{cache._draft_name()}"
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError:
            self._path = None
            self._fd = os.memfd_create("cvmfs", os.MFD_CLOEXEC)

    def write(self, piece: bytes) -> None:
        if self._path is not None:
            try:
                _write_at(self._fd, piece, self._size)
            except OSError as error:
                if not self._retry(piece, error):
                    self._move_to_memory()
        if self._path is None:
            self._reserve(self._size + len(piece))
            _write_at(self._fd, piece, self._size)
        self._digest.update(piece)
        self._size += len(piece)

    def finish(self) -> Content:
        if self._path is not None:
            try:
                return self._publish(self._path)
            except OSError:
                self._move_to_memory()
        self._reserve(self._size)
        return Content(self._fd, self._size, None, self._cache._budget)

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108 — as above
        self._cache._budget.give(self._in_memory)

    def _publish(self, draft: str) -> Content:
        """Seal the file and give it its name; the descriptor moves into the content."""
        cache = self._cache
        _write_at(self._fd, _SEAL.pack(_MAGIC, self._size, self._digest.digest()), self._size)
        path = cache._path(self._key)
        if not cache._admit(self._size + _SEAL.size):
            os.unlink(draft)  # noqa: PTH108 — as above
            return Content(self._fd, self._size, None)
        cache._name(draft, self._key)
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        status = os.fstat(self._fd)
        cache._note(self._key, (status.st_ino, status.st_mtime_ns, status.st_size))
        return Content(self._fd, self._size, path)

    def _retry(self, piece: bytes, error: OSError) -> bool:
        """Free half of the cache and try once more, if it was space that lacked."""
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return False
        with contextlib.suppress(OSError):
            self._cache.make_room()
            _write_at(self._fd, piece, self._size)
            return True
        return False

    def _move_to_memory(self) -> None:
        self._reserve(self._size)
        memory = os.memfd_create("cvmfs", os.MFD_CLOEXEC)
        at = 0
        while at < self._size and (piece := os.pread(self._fd, min(_PIECE, self._size - at), at)):
            _write_at(memory, piece, at)
            at += len(piece)
        os.close(self._fd)
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108 — as above
        self._fd, self._path = memory, None

    def _reserve(self, size: int) -> None:
        if size > self._in_memory:
            if not self._cache._budget.take(size - self._in_memory):
                raise CacheUnusable(
                    f"cache {self._cache.directory}: the disk takes no more data, and the object is too large to be"
                    " held in memory: free some space"
                )
            self._in_memory = size


def _write_at(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


def _open_sealed(path: str) -> tuple[int, os.stat_result] | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        return None
    return fd, status


def _seal_holds(content: Content) -> bool:
    try:
        magic, size, digest = _SEAL.unpack(os.pread(content.fd, _SEAL.size, content.size))
        if magic != _MAGIC or size != content.size:
            return False
        state = hashlib.sha1(usedforsecurity=False)
        for offset in range(0, content.size, _PIECE):
            state.update(content.read(offset, _PIECE))
    except (OSError, struct.error):
        return False
    return bool(state.digest() == digest)


def _scan(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            yield from items
    except OSError:
        return


def _claim(directory: Path) -> None:
    """Make the directory ours, or find that it is."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if status.st_uid != os.geteuid():
            raise CacheUnusable(f"cache {directory}: belongs to user id {status.st_uid}, not to us: give another")
        if status.st_mode & (0o002 if status.st_gid == os.getegid() else 0o022):
            raise CacheUnusable(f"cache {directory}: others may write to it: chmod go-w, or give another")
        marker = directory / MARKER
        if not marker.exists() and any(item.name != MARKER for item in _scan(directory)):
            raise CacheUnusable(f"cache {directory}: holds files that are not of this cache: give an empty directory")
        if not marker.exists():
            marker.write_bytes(MARKER_TEXT)
        elif marker.read_bytes() not in (MARKER_TEXT, b""):
            raise CacheUnusable(f"cache {directory}: is of another version: give an empty directory")
        for part in ("tmp", "data", "repositories"):
            (directory / part).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise CacheUnusable(f"cache {directory}: cannot be used ({error.strerror})") from error
