"""Content hashes: SHA-1, RIPEMD-160 and SHAKE-128, each with 160 bits, told apart by a suffix."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from cvmfs.errors import Damaged, Unsupported
from cvmfs.ripemd import Ripemd160

DIGEST_BYTES = 20
_TEXT = re.compile(r"([0-9a-f]{40})(-[a-z0-9]{1,16})?", re.ASCII)


class Hasher(Protocol):
    """A running hash over the bytes given so far."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class _Shake128:
    """SHAKE-128 cut to 160 bits of output."""

    def __init__(self) -> None:
        self._state = hashlib.shake_128()

    def update(self, data: bytes | memoryview, /) -> None:
        self._state.update(data)

    def digest(self) -> bytes:
        return self._state.digest(DIGEST_BYTES)


ALGORITHMS: tuple[tuple[str, str], ...] = (("sha1", ""), ("rmd160", "-rmd160"), ("shake128", "-shake128"))
"""Name and suffix; the position is the number that catalogs store in bits 8 to 10 of the flags."""

SUFFIXES = tuple(suffix for _, suffix in ALGORITHMS)
_BY_SUFFIX = {suffix: number for number, (_, suffix) in enumerate(ALGORITHMS)}


def hasher(algorithm: int) -> Hasher:
    """A new hasher for the algorithm of this number.

    Raises Unsupported for an unknown number.
    """
    if algorithm == 0:
        return hashlib.sha1(usedforsecurity=False)
    if algorithm == 1:
        return _ripemd160()
    if algorithm == 2:
        return _Shake128()
    raise Unsupported(f"hash algorithm number {algorithm} is unknown to this reader")


def _ripemd160() -> Hasher:
    try:
        native: Hasher = hashlib.new("ripemd160", usedforsecurity=False)
        return native
    except ValueError:  # some distributions leave it out of OpenSSL
        return Ripemd160()


@dataclass(frozen=True, slots=True)
class ContentHash:
    """The name of an object: `digest` is 20 bytes, `algorithm` an index of ALGORITHMS."""

    digest: bytes
    algorithm: int = 0

    def __str__(self) -> str:
        return self.digest.hex() + ALGORITHMS[self.algorithm][1]

    @classmethod
    def parse(cls, text: str, what: str = "hash") -> ContentHash:
        """From the text form; raises Damaged naming `what` if it is none."""
        match = _TEXT.fullmatch(text)
        if match is None or (match[2] or "") not in _BY_SUFFIX:
            raise Damaged(f"{what}: {text[:80]!r} is not a content hash")
        return cls(bytes.fromhex(match[1]), _BY_SUFFIX[match[2] or ""])

    @classmethod
    def of(cls, data: bytes, algorithm: int = 0) -> ContentHash:
        """The hash of these bytes."""
        state = hasher(algorithm)
        state.update(data)
        return cls(state.digest(), algorithm)
