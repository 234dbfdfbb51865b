"""A container image as it lies on disk, opened as untrusted input: what it says of itself, and its layers, verified.

An OCI image layout (image-spec 1.0) as a directory or a tar file, and the tar file that `docker save` writes. The
digest of an image's configuration is its id, and the configuration names each layer by digest: what comes out of
here has the content that the id stands for, or an error comes out.
"""

import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from images.compression import compressed, decompress
from images.described import Described, describe
from images.errors import ImageError
from images.forms import blob_name, digest_of
from images.members import UNREADABLE, Archive, Folder, Members, regular_file, short, tar

ARCHIVE_LIMIT = 100_000_000_000
_INDEX_DEPTH = 3


class Form(StrEnum):
    """The forms in which a container image lies on disk; the names are those of skopeo's transports."""

    OCI_ARCHIVE = "oci-archive"
    OCI_LAYOUT = "oci"
    DOCKER_ARCHIVE = "docker-archive"


@dataclass(frozen=True, slots=True)
class ContainerImage:
    """An image that is open; `layers` are the names of its parts, the lowest first."""

    where: str
    described: Described
    layers: tuple[str, ...]
    members: Members

    def layer(self, number: int, into: Path, limit: int) -> None:
        """Write one layer, uncompressed, to a file. Raises ImageError if it is not the one that the image names."""
        wanted = self.described.diff_ids[number]
        try:
            with self.members.open(self.layers[number]) as stored:
                found = decompress(stored, into, limit)
        except ImageError as error:
            raise ImageError(f"image {self.where}: layer {number + 1} {error}") from error
        except OSError as error:
            raise ImageError(f"image {self.where}: layer {number + 1}: {short(error)}") from error
        except UNREADABLE as error:
            raise ImageError(f"image {self.where}: layer {number + 1} cannot be read: {short(error)}") from error
        if found != wanted:
            raise ImageError(f"image {self.where}: layer {number + 1} is damaged: it is {found}, not {wanted}")


@contextmanager
def opened(form: Form, path: Path, scratch: Path) -> Iterator[ContainerImage]:
    """The one image at `path`; an archive that is compressed as a whole is decompressed into the directory `scratch`.

    Raises ImageError for what is no such image, or several.
    """
    read = _docker if form is Form.DOCKER_ARCHIVE else _oci
    if form is Form.OCI_LAYOUT:
        yield _read(path, form, lambda: read(Folder(path), str(path)))
        return
    with _tar_file(path, form, scratch) as archive:
        yield _read(path, form, lambda: read(Archive(archive), str(path)))


def _read(path: Path, form: Form, read: Callable[[], ContainerImage]) -> ContainerImage:
    try:
        image = read()
    except UNREADABLE as error:
        raise ImageError(f"image {path}: is no {form} that can be read: {short(error)}") from error
    if len(image.layers) != len(image.described.diff_ids):
        raise ImageError(f"image {path}: has {len(image.layers)} layers and names {len(image.described.diff_ids)}")
    return image


@contextmanager
def _tar_file(path: Path, form: Form, scratch: Path) -> Iterator[tarfile.TarFile]:
    with ExitStack() as stack:
        try:
            stream: IO[bytes] = stack.enter_context(regular_file(path))
            if compressed(stream):
                decompress(stream, scratch / "archive", ARCHIVE_LIMIT)
                stream = stack.enter_context((scratch / "archive").open("rb"))
            archive = stack.enter_context(tar(stream))
        except (ImageError, *UNREADABLE) as error:
            raise ImageError(f"image {path}: is no {form} that can be read: {short(error)}") from error
        yield archive


def _oci(members: Members, where: str) -> ContainerImage:
    manifest: Any = json.loads(members.read("index.json"))
    for _ in range(_INDEX_DEPTH):
        if "config" in manifest:
            break
        entries = [m for m in manifest["manifests"] if "manifest" in m["mediaType"] or "index" in m["mediaType"]]
        if len(entries) != 1:
            raise ValueError(f"it holds {len(entries)} images, expected one")
        manifest = json.loads(_verified(members, entries[0]["digest"]))
    described = describe(_verified(members, manifest["config"]["digest"]))
    return ContainerImage(where, described, tuple(blob_name(each["digest"]) for each in manifest["layers"]), members)


def _docker(members: Members, where: str) -> ContainerImage:
    manifest = json.loads(members.read("manifest.json"))
    if len(manifest) != 1:
        raise ValueError(f"it holds {len(manifest)} images, expected one")
    described = describe(members.read(str(manifest[0]["Config"])))
    return ContainerImage(where, described, tuple(str(name) for name in manifest[0]["Layers"]), members)


def _verified(members: Members, digest: object) -> bytes:
    content = members.read(blob_name(digest))
    if digest_of(content) != digest:
        raise ValueError(f"{str(digest)[:19]} is damaged")
    return content
