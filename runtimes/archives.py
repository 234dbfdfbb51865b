"""Read what an image archive says of itself, as untrusted input: which image it holds, for which architecture.

OCI image layout (image-spec 1.0) as a directory or a tar file, and the tar file that `docker save` writes.
"""

import json
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from runtimes.contract import ImageKind, Rejected

DOCUMENT_LIMIT = 4_000_000
MEMBERS_LIMIT = 100_000
UNREADABLE = (OSError, EOFError, RecursionError, tarfile.TarError, LookupError, ValueError, TypeError, AttributeError)
"""All that hostile content makes the readers below raise."""
Reader = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """`image_id`: the digest of the image's configuration (`sha256:…`), which engines use as the image's id."""

    image_id: str
    architecture: str


def describe(kind: ImageKind, path: Path) -> ArchivedImage:
    """The one image in an archive. Raises `Rejected` if it is not there, no such archive, or holds several images."""
    try:
        status = (path / "index.json" if kind is ImageKind.OCI_LAYOUT else path).stat()
    except OSError as error:
        raise Rejected(f"image {path}: {_short(error)}") from error
    return _described(kind, path, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=64)
def _described(kind: ImageKind, path: Path, version: tuple[int, ...]) -> ArchivedImage:
    """Once for each `version` of the file: machines of one type start from one archive."""
    try:
        if kind is ImageKind.OCI_LAYOUT:
            return _oci(lambda name: _read_file(path, name), path)
        with closing(tarfile.open(path, "r:*")) as archive:
            wanted = _members(archive, path)
            read = lambda name: _read_member(archive, wanted, name)  # noqa: E731
            return _docker(read, path) if kind is ImageKind.DOCKER_ARCHIVE else _oci(read, path)
    except UNREADABLE as error:
        raise Rejected(f"image {path}: not a readable {kind}: {_short(error)}") from error


def _oci(read: Reader, path: Path) -> ArchivedImage:
    manifest: Any = json.loads(read("index.json"))
    for _ in range(3):
        if "config" in manifest:
            break
        entries = [m for m in manifest["manifests"] if "image.manifest" in m["mediaType"] or "index" in m["mediaType"]]
        if len(entries) != 1:
            raise Rejected(f"image {path}: holds {len(entries)} images, expected one")
        manifest = json.loads(read(_blob(entries[0]["digest"])))
    digest = str(manifest["config"]["digest"])
    return ArchivedImage(digest, str(json.loads(read(_blob(digest))).get("architecture", "")))


def _docker(read: Reader, path: Path) -> ArchivedImage:
    manifest = json.loads(read("manifest.json"))
    if len(manifest) != 1:
        raise Rejected(f"image {path}: holds {len(manifest)} images, expected one")
    name = str(manifest[0]["Config"])
    digest = PurePosixPath(name).name.removesuffix(".json")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ValueError(f"configuration {name!r} is not named by its digest")
    return ArchivedImage(f"sha256:{digest}", str(json.loads(read(name)).get("architecture", "")))


def _blob(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise ValueError(f"digest {digest[:80]!r} is not sha256")
    return f"blobs/sha256/{value}"


def _read_file(root: Path, name: str) -> bytes:
    with (root / name).open("rb") as file:
        return _limited(file.read(DOCUMENT_LIMIT + 1), name)


def _members(archive: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    found: dict[str, tarfile.TarInfo] = {}
    for number, member in enumerate(archive):
        if number > MEMBERS_LIMIT:
            raise Rejected(f"image {path}: more than {MEMBERS_LIMIT} members")
        found[member.name.removeprefix("./")] = member
    return found


def _read_member(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str) -> bytes:
    member = members.get(name)
    if member is None or not member.isreg():
        raise ValueError(f"{name} is missing")
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{name} is no file")
    return _limited(file.read(DOCUMENT_LIMIT + 1), name)


def _limited(data: bytes, name: str) -> bytes:
    if len(data) > DOCUMENT_LIMIT:
        raise ValueError(f"{name} is larger than {DOCUMENT_LIMIT} bytes")
    return data


def _short(error: BaseException) -> str:
    text = f"{error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
