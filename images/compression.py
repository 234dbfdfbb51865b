"""Layers as they are stored, and as they are meant: decompressed into a file, held to a size and digested."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from images.errors import ImageError

PIECE = 1 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_WINDOW_LIMIT = 1 << 27
"""Most memory that a zstd frame may ask for, in bytes; more is beyond what the format recommends (RFC 8878)."""


def decompress(stored: IO[bytes], into: Path, limit: int) -> str:
    """Write what a stream holds to a file; returns the digest (`sha256:…`) of what was written.

    Raises ImageError for more than `limit` bytes, ValueError or OSError for content that is damaged.
    """
    hashing, size = hashlib.sha256(), 0
    with plain(stored) as stream, into.open("wb") as out:
        while piece := _read(stream):
            size += len(piece)
            if size > limit:
                raise ImageError(f"is larger than {limit} bytes when it is unpacked")
            hashing.update(piece)
            out.write(piece)
    return f"sha256:{hashing.hexdigest()}"


def compressed(stored: IO[bytes]) -> bool:
    """Whether a stream that can be sought begins as gzip or zstd do."""
    magic = _magic(stored)
    return magic.startswith(_GZIP) or magic == _ZSTD


def _magic(stored: IO[bytes]) -> bytes:
    magic = stored.read(4)
    stored.seek(0)
    return magic


@contextmanager
def plain(stored: IO[bytes]) -> Iterator[IO[bytes]]:
    """The content without its compression, which its first bytes tell; the media types of images are often wrong."""
    magic = _magic(stored)
    if magic.startswith(_GZIP):
        with gzip.GzipFile(fileobj=stored) as stream:
            yield cast("IO[bytes]", stream)
    elif magic == _ZSTD:
        import zstandard

        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT)
        with decompressor.stream_reader(stored, read_across_frames=True, closefd=False) as frames:
            yield cast("IO[bytes]", frames)
    else:
        yield stored


def _read(stream: IO[bytes]) -> bytes:
    import zstandard

    try:
        return stream.read(PIECE)
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"the compressed content is damaged: {error}") from error
