"""Whether the files that a machinetype names are there and are what they should be. Reads the host, changes nothing."""

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from images import disk
from images.errors import ImageError
from lmd.config import layers, virtual
from lmd.config.keys import written
from lmd.config.models import Config, MachineType
from lmd.config.problems import Problem
from lmd.config.rules import BUILT, split_image
from runtimes.contract import ImageKind

MOST_ARCHIVE_MEMBERS = 100_000
_MAGIC = (b"#!", b"\x7fELF")


def check_files(config: Config, name: str) -> list[Problem]:
    """What is wrong with the files that machinetype `name` of `config` needs; a URL or a reference is not fetched."""
    return [
        Problem(layers.origin(config.origins, key), key, text)
        for path, text in _findings(config.machinetypes[name])
        for key in [("machinetypes", name, *path)]
    ]


def image_kind(root_image: str) -> tuple[ImageKind, str]:
    """The kind of an image and its location, a plain path by looking at it. Raises ValueError saying what is wrong."""
    kind, location = split_image(root_image)
    if kind is None:
        kind = _look(Path(location))
    elif kind is not ImageKind.REFERENCE:
        _require(Path(location), kind)
    return kind, location


def _findings(machinetype: MachineType) -> Iterator[tuple[tuple[str, ...], str]]:
    try:
        _image(machinetype)
    except (ValueError, ImageError) as error:
        yield ("root_image",), str(error)
    for key in ("kernel", "initramfs"):
        path = getattr(machinetype, key)
        if path is not None and (text := _unreadable(Path(path))):
            yield (key,), text
    if machinetype.user_data is not None and "://" not in machinetype.user_data:
        yield from ((("user_data",), text) for text in _user_data(machinetype))
    for name, source in machinetype.user_data_files.items():
        if text := _unreadable(Path(source)):
            yield written(("user_data_files", name)), text
    if machinetype.root_public_key and (text := _unreadable(Path(machinetype.root_public_key))):
        yield ("root_public_key",), text
    for target, source in machinetype.secret_files.items():
        if text := _unreadable(Path(source)):
            yield ("secret_files", target), text


def _image(machinetype: MachineType) -> None:
    """Raises ValueError or ImageError for an image that no machine of the type's model can have."""
    path = Path(machinetype.root_image)
    if machinetype.machine_model == virtual.CONTAINER:
        image_kind(machinetype.root_image)
    elif not machinetype.root_image.startswith(BUILT) and not (machinetype.machine_model == "direct" and path.is_dir()):
        disk.check(path)


def _user_data(machinetype: MachineType) -> Iterator[str]:
    path = Path(machinetype.user_data or "")
    if text := _unreadable(path):
        yield text
    elif machinetype.runs_user_data and not _beginning(path).startswith(_MAGIC):
        yield (
            f"{path} cannot be run: it begins neither with #! nor as an ELF program"
            " (begin it with a line such as #!/bin/sh, or give an entrypoint that reads /user_data)"
        )


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _unreadable(path: Path) -> str:
    """Why the regular file cannot be read; empty if it can."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    try:
        return "" if stat.S_ISREG(os.fstat(descriptor).st_mode) else f"{path} is not a regular file"
    finally:
        os.close(descriptor)


def _require(path: Path, kind: ImageKind) -> None:
    if kind is ImageKind.OCI_LAYOUT:
        if not (path / "oci-layout").is_file():
            raise ValueError(f"{path} is not a directory in the OCI image layout (no file oci-layout in it)")
    elif text := _unreadable(path):
        raise ValueError(text)


def _look(path: Path) -> ImageKind:
    """What a plain path is: an unpacked root, an OCI layout, or an archive, by its content."""
    if path.is_dir():
        return ImageKind.OCI_LAYOUT if (path / "oci-layout").is_file() else ImageKind.ROOT_DIRECTORY
    if text := _unreadable(path):
        raise ValueError(text)
    try:
        with tarfile.open(path, mode="r:") as archive:
            found = _markers(archive)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is neither a directory nor an uncompressed archive ({error});"
            " if it is a compressed one, write oci-archive: or docker-archive: before the path"
        ) from error
    if "manifest.json" in found:
        return ImageKind.DOCKER_ARCHIVE
    if "oci-layout" in found:
        return ImageKind.OCI_ARCHIVE
    raise ValueError(f"{path} is an archive, but of no image (neither manifest.json nor oci-layout is in it)")


def _markers(archive: tarfile.TarFile) -> set[str]:
    found: set[str] = set()
    for count, member in enumerate(archive):
        if count >= MOST_ARCHIVE_MEMBERS or len(found) == 2:
            break
        name = member.name.removeprefix("./")
        if name in ("manifest.json", "oci-layout"):
            found.add(name)
    return found
