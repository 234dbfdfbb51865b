"""How an image of one layer is laid out in the forms that engines read, and unpacked.

OCI image layout (image-spec 1.0) as a directory or a tar file, and the tar file that `docker load` reads. The same
input gives the same bytes: JSON and members are sorted, times are the image's epoch, owners are 0.
"""

import hashlib
import json
import os
import shutil
import tarfile
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from images.entries import CAPABILITY, CAPABILITY_HEADER, beyond_links, from_tar
from images.errors import ImageError
from images.layer import Blob

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"

Members = dict[str, bytes | Path]
"""What an image's archive or directory consists of: a document, or the file that holds the content, by its name."""


def document(value: Any) -> bytes:
    """A value as JSON, always in the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest_of(data: bytes) -> str:
    """`sha256:…`"""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def blob_name(digest: Any) -> str:
    """Where a blob stands in an OCI layout. Raises ValueError for what is no SHA-256 digest."""
    algorithm, _, value = str(digest).partition(":")
    if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise ValueError("a digest is not sha256")
    return f"blobs/sha256/{value}"


def oci_members(config: bytes, layer: Blob, reference: str) -> Members:
    """The members of an OCI image layout."""
    described = {"mediaType": _CONFIG_TYPE, "digest": digest_of(config), "size": len(config)}
    layers = [{"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size}]
    manifest = document({"schemaVersion": 2, "mediaType": _MANIFEST_TYPE, "config": described, "layers": layers})
    entry = {
        "mediaType": _MANIFEST_TYPE,
        "digest": digest_of(manifest),
        "size": len(manifest),
        "annotations": {"org.opencontainers.image.ref.name": reference},
    }
    return {
        "oci-layout": document({"imageLayoutVersion": "1.0.0"}),
        "index.json": document({"schemaVersion": 2, "manifests": [entry]}),
        blob_name(digest_of(manifest)): manifest,
        blob_name(digest_of(config)): config,
        blob_name(layer.digest): layer.path,
    }


def docker_members(config: bytes, layer: Blob, reference: str) -> Members:
    """The members of what `docker save` writes; Docker 20.10 reads it, which cannot read an OCI archive."""
    names = f"{digest_of(config).removeprefix('sha256:')}.json", f"{layer.digest.removeprefix('sha256:')}.tar"
    manifest = [{"Config": names[0], "RepoTags": [reference], "Layers": [names[1]]}]
    return {"manifest.json": document(manifest), names[0]: config, names[1]: layer.path}


def write_tar(members: Members, path: Path, epoch: int) -> None:
    """Write the members, and the directories above them, as a tar file; all times are `epoch`."""
    folders = {str(folder) for name in members for folder in PurePosixPath(name).parents} - {"."}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(folders | set(members)):
            member = tarfile.TarInfo(name)
            member.mtime = epoch
            content = members.get(name)
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(member)
            elif isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, BytesIO(content))
            else:
                member.size = content.stat().st_size
                with content.open("rb") as stream:
                    archive.addfile(member, stream)


def write_folder(members: Members, folder: Path) -> None:
    """Write the members as files of `folder`, which is there."""
    for name, content in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            shutil.copyfile(content, path)


def unpack(layer: Path, root: Path) -> None:
    """Unpack a layer into the directory `root`: with its owners as root, else as files of the calling user.

    Raises ImageError for a layer that would write outside.
    """
    with tarfile.open(layer, "r:") as archive:
        if unsafe := beyond_links(from_tar(archive)):
            raise ImageError(f"/{unsafe[0]}: leads through a symbolic link of the layer; it is not unpacked")
        # Modes with setuid and owners are wanted here; Pythons before 3.11.4 know no filters and ignore this.
        archive.extraction_filter = lambda member, _: member
        archive.extractall(root, numeric_owner=True)  # noqa: S202 - checked above
        if os.geteuid() == 0:
            _restore_capabilities(archive, root)


def _restore_capabilities(archive: tarfile.TarFile, root: Path) -> None:
    for member in archive:
        if value := member.pax_headers.get(CAPABILITY_HEADER):
            os.setxattr(root / member.name, CAPABILITY, value.encode("utf-8", "surrogateescape"))
