"""Whether an image archive holds what it says: every layer by the digests that the image's configuration is made of.

An engine names an image by the digest of its configuration and does not look at it again. What an archive brings under
that name must be what the name stands for, or a damaged or lying archive would take the place of the true image.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from runtimes import archives
from runtimes.contract import ImageKind, Rejected

PIECE = 1 << 20
PLAIN_LIMIT = 200 * 10**9
"""Most bytes of one layer, decompressed."""
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_WINDOW_LIMIT = 1 << 27
Open = Callable[[str], IO[bytes]]


def verify(kind: ImageKind, path: Path) -> None:
    """Read all of the archive once. Blocks, for a second or so a gigabyte; raises `Rejected` naming what is wrong."""
    try:
        with _opened(kind, path) as opened:
            for name, stored, plain in _layers(kind, opened):
                _compare(opened, name, stored, plain)
    except (*archives.UNREADABLE, zlib.error) as error:
        raise Rejected(f"image {path}: is damaged: {archives.short(error)}") from error


@contextmanager
def _opened(kind: ImageKind, path: Path) -> Iterator[Open]:
    """How the files of the archive are opened by their names."""
    if kind is ImageKind.OCI_LAYOUT:
        yield lambda name: (path / name).open("rb")
        return
    with archives.members(path) as (archive, members):

        def member(name: str) -> IO[bytes]:
            found = members.get(name)
            file = archive.extractfile(found) if found is not None and found.isreg() else None
            if file is None:
                raise ValueError(f"{name} is missing")
            return file

        yield member


def _layers(kind: ImageKind, opened: Open) -> Iterator[tuple[str, str | None, str]]:
    """Each layer's name, the digest of what is stored (None: not told) and of what it is decompressed."""
    if kind is ImageKind.DOCKER_ARCHIVE:
        manifest = _document(opened, "manifest.json", None)[0]
        digest = archives.docker_image_id(str(manifest["Config"]))
        stored: list[tuple[str, str | None]] = [(str(name), None) for name in manifest["Layers"]]
        config = _document(opened, str(manifest["Config"]), digest)
    else:
        manifest = archives.oci_manifest(lambda name, digest: _document(opened, name, digest))
        digest = str(manifest["config"]["digest"])
        digests = [str(layer["digest"]) for layer in manifest["layers"]]
        stored = [(archives.blob(one), one) for one in digests]
        config = _document(opened, archives.blob(digest), digest)
    diff_ids = [str(one) for one in config["rootfs"]["diff_ids"]]
    if len(diff_ids) != len(stored):
        raise ValueError(f"its configuration names {len(diff_ids)} layers, {len(stored)} are in it")
    for (name, of_stored), of_plain in zip(stored, diff_ids, strict=True):
        yield name, of_stored, of_plain


def _document(opened: Open, name: str, digest: str | None) -> Any:
    with opened(name) as file:
        data = archives.limited(file.read(archives.DOCUMENT_LIMIT + 1), name)
    if digest is not None and f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise ValueError(f"{name} is not what its digest says")
    return json.loads(data)


def _compare(opened: Open, name: str, stored: str | None, plain: str) -> None:
    if stored is not None:
        with opened(name) as file:
            if _digest(file, name) != stored:
                raise ValueError(f"layer {name} is not what its digest says")
    with opened(name) as file, _plain(file) as stream:
        if _digest(stream, name) != plain:
            raise ValueError(f"layer {name} is not the one that its configuration names")


def _digest(stream: IO[bytes], name: str) -> str:
    hashing, size = hashlib.sha256(), 0
    while piece := stream.read(PIECE):
        size += len(piece)
        if size > PLAIN_LIMIT:
            raise ValueError(f"{name} is larger than {PLAIN_LIMIT} bytes")
        hashing.update(piece)
    return f"sha256:{hashing.hexdigest()}"


@contextmanager
def _plain(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """The content without its compression, by its first bytes, as engines do: media types are often wrong."""
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(_GZIP):
        with gzip.GzipFile(fileobj=file) as stream:
            yield cast("IO[bytes]", stream)
    elif magic == _ZSTD:
        import zstandard

        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT)
        try:
            with decompressor.stream_reader(file, read_across_frames=True, closefd=False) as frames:
                yield cast("IO[bytes]", frames)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
    else:
        yield file
