"""Locks between processes that share an engine: one file, one byte of it a key, released by the kernel on any death."""

import asyncio
import fcntl
import hashlib
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from runtimes.contract import Unavailable


class Held(Unavailable):
    """Another holds the lock."""


_FLOCK = struct.Struct("hhqqi4x")


@asynccontextmanager
async def held(path: Path, key: str, *, seconds: float = 60.0) -> AsyncIterator[None]:
    """Hold the lock `key` in the file `path`. Raises `Held` if another holds it for longer than `seconds`.

    Open-file-description locks: two holders within one process exclude each other too.
    """
    offset = int.from_bytes(hashlib.sha256(key.encode()).digest()[:5], "big")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
                break
            except OSError as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise Held(f"{path}: another process has held the lock for {key} for {seconds:g} s") from error
                await asyncio.sleep(0.02)
        yield
    finally:
        os.close(descriptor)
