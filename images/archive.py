"""Images of one layer: what they say of themselves, written in each form that engines read, and read back."""

import json
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from images.appear import whole_directory, whole_file
from images.entries import Tree, from_directory
from images.errors import ImageError
from images.forms import (
    LAYER_TYPE,
    blob_name,
    digest_of,
    docker_members,
    document,
    oci_members,
    unpack,
    write_folder,
    write_tar,
)
from images.layer import Blob, describe, write_layer

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DOCUMENT_LIMIT = 4_000_000
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "riscv64": "riscv64"}


class Format(StrEnum):
    """The forms in which an image can be written."""

    OCI = "oci"  # one tar file in the OCI image layout
    OCI_LAYOUT = "oci-layout"  # a directory in the OCI image layout
    DOCKER = "docker"  # one tar file as `docker save` writes it
    DIRECTORY = "directory"  # an unpacked root file system


def host_architecture() -> str:
    """This host's architecture by the name that images use."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image says of itself and of the command it runs.

    `reference` is the name under which an engine loads it; `epoch` (Unix seconds) its date and that of its newest file.
    """

    reference: str = "localhost/lmd/image:latest"
    epoch: int = 0
    architecture: str = field(default_factory=host_architecture)
    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": PATH})
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ("/bin/sh",)
    user: str = ""
    working_directory: str = "/"
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PackedImage:
    """An image's two parts, ready to be written in any form. `config` is the image's configuration as JSON."""

    config: bytes
    layer: Blob
    reference: str
    epoch: int

    @property
    def image_id(self) -> str:
        """The digest (`sha256:…`) of the configuration, by which engines know the image in every form."""
        return digest_of(self.config)

    def write(self, path: Path, form: Format) -> None:
        """Write the image to `path`, whole or not at all. Raises ImageError, and OSError as the system gives it."""
        if form is Format.DIRECTORY:
            with whole_directory(path) as root:
                unpack(self.layer.path, root)
        elif form is Format.OCI_LAYOUT:
            with whole_directory(path) as folder:
                write_folder(oci_members(self.config, self.layer, self.reference), folder)
        else:
            members = oci_members if form is Format.OCI else docker_members
            with whole_file(path) as part:
                write_tar(members(self.config, self.layer, self.reference), part, self.epoch)


@contextmanager
def packed(tree: Tree, config: ImageConfig, scratch: Path | None = None) -> Iterator[PackedImage]:
    """Pack a tree; its layer lies in `scratch` (by default where temporary files go) until the block ends."""
    with tempfile.TemporaryDirectory(prefix="lmd-image-", dir=scratch) as folder:
        layer = write_layer(tree, Path(folder, "layer.tar"), config.epoch)
        yield PackedImage(document(_config(config, layer)), layer, config.reference, config.epoch)


def write_oci_archive(root: Path, path: Path, config: ImageConfig) -> str:
    """Write the directory `root` as an OCI archive; returns the image's id (`sha256:…`)."""
    return _write(root, path, config, Format.OCI)


def write_oci_layout(root: Path, path: Path, config: ImageConfig) -> str:
    """Write the directory `root` as an OCI image layout in a new directory; returns the image's id (`sha256:…`)."""
    return _write(root, path, config, Format.OCI_LAYOUT)


def write_docker_archive(root: Path, path: Path, config: ImageConfig) -> str:
    """Write the directory `root` as `docker save` would; returns the image's id (`sha256:…`)."""
    return _write(root, path, config, Format.DOCKER)


def _write(root: Path, path: Path, config: ImageConfig, form: Format) -> str:
    with packed(from_directory(root), config) as image:
        image.write(path, form)
        return image.image_id


@contextmanager
def opened(path: Path, scratch: Path | None = None) -> Iterator[PackedImage]:
    """An image of one plain layer from an OCI archive such as `PackedImage.write` makes, to write it in another form.

    Raises ImageError for anything else.
    """
    with tempfile.TemporaryDirectory(prefix="lmd-image-", dir=scratch) as folder:
        try:
            with tarfile.open(path, "r:") as archive:
                yield _read(archive, Path(folder, "layer.tar"))
        except (tarfile.TarError, KeyError, ValueError, TypeError, IndexError) as error:
            raise ImageError(f"{path}: is no OCI archive that was built here; build the image again") from error


def _read(archive: tarfile.TarFile, layer: Path) -> PackedImage:
    entry = _read_document(archive, "index.json")["manifests"][0]
    manifest = _read_document(archive, blob_name(entry["digest"]))
    (described,) = manifest["layers"]
    if described["mediaType"] != LAYER_TYPE:
        raise ValueError("the layer is compressed")
    stream = archive.extractfile(blob_name(described["digest"]))
    if stream is None:
        raise ValueError("the layer is no file")
    with stream, layer.open("wb") as copy:
        shutil.copyfileobj(stream, copy)
    blob = describe(layer)
    if blob.digest != described["digest"]:
        raise ValueError("the layer is damaged")
    config = _read_bytes(archive, blob_name(manifest["config"]["digest"]))
    created = datetime.fromisoformat(json.loads(config)["created"])
    reference = entry["annotations"]["org.opencontainers.image.ref.name"]
    return PackedImage(config, blob, str(reference), int(created.timestamp()))


def _read_document(archive: tarfile.TarFile, name: str) -> Any:
    return json.loads(_read_bytes(archive, name))


def _read_bytes(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    if stream is None:
        raise ValueError(f"{name} is no file")
    with stream:
        data = stream.read(DOCUMENT_LIMIT + 1)
    if len(data) > DOCUMENT_LIMIT:
        raise ValueError(f"{name} is too large")
    return data


def _config(config: ImageConfig, layer: Blob) -> dict[str, Any]:
    created = datetime.fromtimestamp(config.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    run = {
        "Env": [f"{key}={value}" for key, value in sorted(config.environment.items())],
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.command),
        "User": config.user,
        "WorkingDir": config.working_directory,
        "Labels": dict(config.labels),
    }
    return {
        "created": created,
        "architecture": config.architecture,
        "os": "linux",
        "config": {key: value for key, value in run.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        "history": [{"created": created, "created_by": "lm image build"}],
    }
