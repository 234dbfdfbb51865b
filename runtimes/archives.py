"""Read what an image archive says of itself, as untrusted input: which image it holds, for which architecture.

OCI image layout (image-spec 1.0) as a directory or a tar file, and the tar file that `docker save` writes.
"""

import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
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
        raise Rejected(f"image {path}: {short(error)}") from error
    return _described(kind, path, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=64)
def _described(kind: ImageKind, path: Path, version: tuple[int, ...]) -> ArchivedImage:
    """Once for each `version` of the file: machines of one type start from one archive."""
    try:
        if kind is ImageKind.OCI_LAYOUT:
            return _oci(lambda name: _read_file(path, name))
        with members(path) as (archive, wanted):
            read = lambda name: _read_member(archive, wanted, name)  # noqa: E731
            return _docker(read, path) if kind is ImageKind.DOCKER_ARCHIVE else _oci(read)
    except UNREADABLE as error:
        raise Rejected(f"image {path}: not a readable {kind}: {short(error)}") from error


def _oci(read: Reader) -> ArchivedImage:
    manifest = oci_manifest(lambda name, _: json.loads(read(name)))
    digest = str(manifest["config"]["digest"])
    return ArchivedImage(digest, str(json.loads(read(blob(digest))).get("architecture", "")))


def foreign(name: str, architecture: str, architectures: frozenset[str]) -> Rejected | None:
    """The complaint about an image for processors that an engine has not; None if it can run, or does not say."""
    if not architecture or not architectures or architecture in architectures:
        return None
    here = " or ".join(sorted(architectures))
    return Rejected(
        f"image {name}: is for {architecture}, machines here have {here}; take the image of that architecture"
    )


def oci_manifest(document: Callable[[str, str | None], Any]) -> Any:
    """The one image manifest of an OCI layout, through the indexes before it. `document` gives a JSON file by its name
    and digest (None: not known). Raises what is in `UNREADABLE`."""
    manifest = document("index.json", None)
    for _ in range(3):
        if "config" in manifest:
            break
        entries = [m for m in manifest["manifests"] if "image.manifest" in m["mediaType"] or "index" in m["mediaType"]]
        if len(entries) != 1:
            raise ValueError(f"holds {len(entries)} images, expected one")
        digest = str(entries[0]["digest"])
        manifest = document(blob(digest), digest)
    return manifest


def _docker(read: Reader, path: Path) -> ArchivedImage:
    manifest = json.loads(read("manifest.json"))
    if len(manifest) != 1:
        raise Rejected(f"image {path}: holds {len(manifest)} images, expected one")
    name = str(manifest[0]["Config"])
    return ArchivedImage(docker_image_id(name), str(json.loads(read(name)).get("architecture", "")))


def docker_image_id(name: str) -> str:
    """The image's id by the name of its configuration in a docker-archive. Raises ValueError if it is no digest."""
    digest = PurePosixPath(name).name.removesuffix(".json")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ValueError(f"configuration {name!r} is not named by its digest")
    return f"sha256:{digest}"


def blob(digest: str) -> str:
    """The name of a blob in an OCI layout. Raises ValueError if the digest is not one of SHA-256."""
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise ValueError(f"digest {digest[:80]!r} is not sha256")
    return f"blobs/sha256/{value}"


def _read_file(root: Path, name: str) -> bytes:
    with (root / name).open("rb") as file:
        return limited(file.read(DOCUMENT_LIMIT + 1), name)


@contextmanager
def members(path: Path) -> Iterator[tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]]:
    """An opened archive and its members by name. Raises `Rejected` for more of them than an image has."""
    with closing(_tar(path)) as archive:
        found: dict[str, tarfile.TarInfo] = {}
        for number, member in enumerate(archive):
            if number > MEMBERS_LIMIT:
                raise Rejected(f"image {path}: more than {MEMBERS_LIMIT} members")
            found[member.name.removeprefix("./")] = member
        yield archive, found


def _tar(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:*")
    except tarfile.ReadError as error:
        raise ValueError("no tar file, compressed or not") from error


def _read_member(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str) -> bytes:
    member = members.get(name)
    if member is None or not member.isreg():
        raise ValueError(f"{name} is missing")
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{name} is no file")
    return limited(file.read(DOCUMENT_LIMIT + 1), name)


def limited(data: bytes, name: str) -> bytes:
    """The data itself. Raises ValueError if a document was larger than `DOCUMENT_LIMIT`."""
    if len(data) > DOCUMENT_LIMIT:
        raise ValueError(f"{name} is larger than {DOCUMENT_LIMIT} bytes")
    return data


def short(error: BaseException) -> str:
    """What an exception says, on one line."""
    text = f"{error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
