"""References to stored objects, and how their stored bytes become content."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cvmfs.errors import Damaged
from cvmfs.hashes import ALGORITHMS, ContentHash, hasher

MAX_OUTPUT = 1 << 20
"""Content is produced in pieces of at most this many bytes, however well it was compressed."""


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One object of a repository.

    `suffix` is the letter of its kind ("" for a whole file), `size` the length of its content in bytes
    where that is known, `limit` what its content may have at most (bytes). `alternative`: servers show it at their top.
    """

    hash: ContentHash
    suffix: str = ""
    compressed: bool = True
    size: int | None = None
    limit: int = 1 << 40
    alternative: bool = False

    @property
    def path(self) -> str:
        """Where servers keep it, relative to the root of the repository."""
        digest = self.hash.digest.hex()
        if self.alternative:
            return f".cvmfsalt-{digest}{ALGORITHMS[self.hash.algorithm][1]}{self.suffix}"
        return f"data/{digest[:2]}/{digest[2:]}{ALGORITHMS[self.hash.algorithm][1]}{self.suffix}"

    @property
    def key(self) -> str:
        """A file name that is unique among contents (the same bytes inflated or not are two contents)."""
        return f"{self.hash}{self.suffix}{'' if self.compressed else '.raw'}"

    @property
    def most(self) -> int:
        """The length in bytes that content may not exceed."""
        return self.limit if self.size is None else self.size

    @property
    def most_stored(self) -> int:
        """The length in bytes that the stored form may not exceed: deflate adds 5 bytes a block at worst."""
        return self.most + self.most // 100 + 65536 if self.compressed else self.most


def verified_content(ref: ObjectRef, stored: Iterable[bytes]) -> Iterator[bytes]:
    """Turn stored bytes into content, piece by piece.

    The hash can only be judged at the end: nothing yielded may be used before the iterator is exhausted.
    Raises Damaged if hash, compression or length are not what `ref` says.
    """
    state = hasher(ref.hash.algorithm)
    inflater = zlib.decompressobj() if ref.compressed else None
    total = 0
    for piece in stored:
        state.update(piece)
        for content in (piece,) if inflater is None else _inflate(ref, inflater, piece):
            total += len(content)
            if total > ref.most:
                raise Damaged(f"object {ref.key}: content is longer than {ref.most} bytes")
            yield content
    if state.digest() != ref.hash.digest:
        raise Damaged(f"object {ref.key}: the received bytes do not match the hash")
    if inflater is not None and not inflater.eof:
        raise Damaged(f"object {ref.key}: the compressed stream ends early")
    if ref.size is not None and total != ref.size:
        raise Damaged(f"object {ref.key}: content has {total} bytes instead of {ref.size}")


def _inflate(ref: ObjectRef, inflater: zlib._Decompress, piece: bytes) -> Iterator[bytes]:
    if inflater.eof:
        raise Damaged(f"object {ref.key}: bytes follow the end of the compressed stream")
    try:
        while piece:
            content = inflater.decompress(piece, MAX_OUTPUT)
            piece = inflater.unconsumed_tail
            if content:
                yield content
            elif not piece:
                break
        while not inflater.eof and (content := inflater.decompress(b"", MAX_OUTPUT)):
            yield content
    except zlib.error as error:
        raise Damaged(f"object {ref.key}: not a zlib stream ({error})") from error
    if inflater.unused_data:
        raise Damaged(f"object {ref.key}: bytes follow the end of the compressed stream")
