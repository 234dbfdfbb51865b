"""Files that machines PUT into their joboutputs: streamed into a file aside, within the quota, then renamed."""

import asyncio
import errno
import os
import secrets
import stat
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lmd.environment import joboutputs, trees
from lmd.metadata.card import INCOMING, Card

JOBOUTPUTS = "joboutputs"
MEASURE_SECONDS = 5.0
"""How long a measured size holds; what arrives meanwhile is added to it."""
_BLOCK = 4096
T = TypeVar("T")


class NoRoom(Exception):
    """The quota, or the disk, does not allow it."""


class InTheWay(Exception):
    """Something of the machine's own has that name and cannot be replaced."""


@dataclass(slots=True)
class Usage:
    """How much of its quota a machine has used, in bytes and entries; `arriving` bytes are being uploaded."""

    bytes: int = 0
    files: int = 0
    arriving: int = 0
    at: float = float("-inf")
    measuring: asyncio.Lock = field(default_factory=asyncio.Lock)


class Uploads:
    """Uploads of all machines. File system calls run in `threads`, so that a slow disk delays no other answer."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._used: dict[str, Usage] = {}

    async def put(
        self, card: Card, top: int, name: str, length: int | None, pieces: Callable[[], AsyncIterator[bytes]]
    ) -> None:
        """Store what `pieces` yields as the file `name`; `top` is the machine's directory.

        It is there, whole, when this returns; until then, and if this raises, what had the name is untouched. Raises
        `NoRoom`, `InTheWay`, OSError, and what `pieces` raises.
        """
        used = await self._usage(card, top)
        if length is not None:
            _fits(card, used, length)
        with trees.directory(INCOMING, top) as incoming:
            part = secrets.token_hex(16)
            file = await self._run(_create, part, incoming)
            got = 0
            try:
                async for piece in pieces():
                    _fits(card, used, len(piece))
                    used.arriving += len(piece)
                    got += len(piece)
                    await self._run(_write, file, piece)
                new = await self._run(_place, file, part, incoming, name, top, card.outputs_files - used.files)
                used.bytes += -(-got // _BLOCK) * _BLOCK
                used.files += new
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise NoRoom("the factory's disk is full") from error
                raise
            finally:
                used.arriving -= got
                os.close(file)
                with suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=incoming)

    def forget(self, keep: Callable[[str], bool]) -> None:
        """Drop what is known of machines that are not to be kept, by id."""
        for name in [name for name, used in self._used.items() if not used.arriving and not keep(name)]:
            del self._used[name]

    async def _usage(self, card: Card, top: int) -> Usage:
        used = self._used.setdefault(card.id, Usage())
        async with used.measuring:
            if time.monotonic() - used.at > MEASURE_SECONDS:
                path = Path(f"/proc/self/fd/{top}") / JOBOUTPUTS
                size = await self._run(_measure, path, card.outputs_bytes, card.outputs_files)
                used.bytes, used.files, used.at = size.bytes, size.files, time.monotonic()
        return used

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)


def clear(top: int) -> None:
    """Remove what uploads that were cut off by a crash have left. Raises OSError."""
    with suppress(FileNotFoundError), trees.directory(INCOMING, top) as incoming, os.scandir(incoming) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=incoming)


def _fits(card: Card, used: Usage, more: int) -> None:
    if used.bytes + used.arriving + more > card.outputs_bytes:
        raise NoRoom(f"joboutputs may hold {card.outputs_bytes} bytes")


def _measure(path: Path, most_bytes: int, most_files: int) -> joboutputs.Size:
    return joboutputs.measure(path, most_bytes=most_bytes, most_files=most_files)


def _create(part: str, incoming: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(part, flags, 0o600, dir_fd=incoming)


def _write(file: int, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(file, left) :]


def _place(file: int, part: str, incoming: int, name: str, top: int, entries_left: int) -> int:
    """Rename the finished file into joboutputs; returns how many entries there are more now."""
    with trees.directory(JOBOUTPUTS, top) as outputs:
        there = _kind(name, outputs)
        if there is None and entries_left < 1:
            raise NoRoom("joboutputs may not hold more files")
        if there is not None and stat.S_ISDIR(there):
            raise InTheWay(f"{name} is a directory")
        os.chmod(part, 0o644, dir_fd=incoming)
        # What is answered 201 outlives the power, too: the content first, then the name.
        os.fsync(file)
        try:
            os.rename(part, name, src_dir_fd=incoming, dst_dir_fd=outputs)
            os.fsync(outputs)
        except (PermissionError, IsADirectoryError) as error:
            raise InTheWay(f"{name} was left there by the machine itself") from error
        return 1 if there is None else 0


def _kind(name: str, within: int) -> int | None:
    try:
        return os.stat(name, dir_fd=within, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
