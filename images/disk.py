"""Image files of virtual machines, checked before anything opens them for a machine.

A qcow2 file can name other files of the host, which QEMU would open and hand to the guest; a file that is raw today can
be written by its guest to look like qcow2 tomorrow. So the header is read here first, qemu-img is told the format and
held to limits of time and memory, and whoever uses the image is told the format, so that nobody guesses again.
"""

import json
import shutil
import struct
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from images.errors import ImageError
from images.members import UNREADABLE, regular_file, short

LEAST_BYTES = 1_000_000
MOST_BYTES = 64 * 2**40
_ISO_MAGIC = (32769, b"CD001")
_QCOW2 = b"QFI\xfb"
_EXTERNAL_DATA = 1 << 2
_CORRUPT = 1 << 1
_DATA_FILE_EXTENSION, _BACKING_FORMAT_EXTENSION = 0x44415441, 0xE2792ACA
_MOST_EXTENSIONS = 100
_OTHERS = {
    b"KDMV": "VMDK",
    b"conectix": "VHD",
    b"vhdxfile": "VHDX",
    b"QED\0": "QED",
    b"\x1f\x8b": "gzip, so decompress it first",
    b"\xfd7zXZ\0": "xz, so decompress it first",
    b"BZh": "bzip2, so decompress it first",
    b"\x28\xb5\x2f\xfd": "zstd, so decompress it first",
    b"PK\x03\x04": "zip, so unpack it first",
    b"\x7fELF": "ELF: a program",
    b"#!": "a script",
    b"<": "a page of HTML or XML",
}
_QEMU_SECONDS, _QEMU_CPU_SECONDS, _QEMU_MEMORY = 30, 20, 2 * 2**30


class DiskFormat(StrEnum):
    """How a file holds a disk; the values are QEMU's names, but `iso`, which is raw to QEMU."""

    QCOW2 = "qcow2"
    RAW = "raw"
    ISO = "iso"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskImage:
    """An image file that was found good; sizes in bytes: that of the disk, and what the file takes on the host."""

    path: Path
    format: DiskFormat
    virtual_bytes: int
    actual_bytes: int


def check(path: Path) -> DiskImage:
    """What the file is. Raises ImageError, one line, for what no machine may be given."""
    try:
        with regular_file(path) as stream:
            found = _sniffed(stream)
            size = stream.seek(0, 2)
    except UNREADABLE as error:
        raise ImageError(f"image {path}: {short(error)}") from error
    if found is DiskFormat.QCOW2:
        return _asked(path)
    if size < LEAST_BYTES or size % 512:
        raise ImageError(f"image {path}: is no image of a disk: it has {size} bytes")
    return DiskImage(path=path, format=found, virtual_bytes=size, actual_bytes=path.stat().st_blocks * 512)


def _sniffed(stream: IO[bytes]) -> DiskFormat:
    """The format by the content. Raises ValueError saying what is wrong with it."""
    head = stream.read(2048)
    if head.startswith(_QCOW2):
        if wrong := _qcow2(head, stream):
            raise ValueError(wrong)
        return DiskFormat.QCOW2
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise ValueError(f"is no qcow2, raw or ISO image, but {name}")
    stream.seek(_ISO_MAGIC[0])
    if stream.read(len(_ISO_MAGIC[1])) == _ISO_MAGIC[1]:
        return DiskFormat.ISO
    if not _holds_a_system(head):
        raise ValueError(
            "is neither qcow2 nor ISO, and has no boot sector, partition table or file system of a raw disk"
        )
    return DiskFormat.RAW


def _holds_a_system(head: bytes) -> bool:
    """A boot sector or partition table (MBR, GPT), or a file system that a kernel can have as its root."""
    return (
        head[510:512] == b"\x55\xaa"
        or head[512:520] == b"EFI PART"
        or head[1080:1082] == b"\x53\xef"  # ext2 to ext4
        or head[1024:1028] == b"\xe2\xe1\xf5\xe0"  # erofs
        or head[:4] == b"hsqs"  # squashfs
        or head[:4] == b"XFSB"
    )


def _qcow2(head: bytes, stream: IO[bytes]) -> str:
    """What is wrong with a qcow2 header (QEMU's docs/interop/qcow2.txt); empty if nothing is."""
    if len(head) < 104:
        return "its qcow2 header is cut"
    version, backing = struct.unpack_from(">IQ", head, 4)
    (encryption,) = struct.unpack_from(">I", head, 32)
    features, *_ = struct.unpack_from(">Q", head, 72)
    length = 72
    if version == 3:
        (length,) = struct.unpack_from(">I", head, 100)
    else:
        features = 0
    if version not in (2, 3):
        return f"is qcow2 of version {version}, which is not known"
    if backing:
        return "names a backing file; an image has to stand alone (qemu-img convert -O qcow2 makes one that does)"
    if encryption:
        return "is encrypted"
    if features & _CORRUPT:
        return "is marked as corrupt (qemu-img check tells more)"
    if features & _EXTERNAL_DATA or _DATA_FILE_EXTENSION in _extensions(stream, length):
        return (
            "has its data in another file; an image has to stand alone (qemu-img convert -O qcow2 makes one that does)"
        )
    return ""


def _extensions(stream: IO[bytes], offset: int) -> set[int]:
    found = set()
    for _ in range(_MOST_EXTENSIONS):
        stream.seek(offset)
        kind, length = struct.unpack(">II", stream.read(8).ljust(8, b"\0"))
        if kind == 0:
            break
        found.add(kind)
        offset += 8 + (length + 7) // 8 * 8
    return found


def _asked(path: Path) -> DiskImage:
    """What QEMU itself says of a qcow2 image, whose header was found to name no other file."""
    said = _qemu_img(path)
    names = ["backing-filename", "full-backing-filename", "backing-filename-format"]
    foreign = [key for key in names if key in said]
    data = said.get("format-specific", {}).get("data", {})
    foreign += [key for key in ("data-file", "data-file-raw") if data.get(key)]
    if foreign or said.get("encrypted") or said.get("format") != "qcow2":
        raise ImageError(
            f"image {path}: qemu-img reports {', '.join(foreign) or 'encryption or another format'} for it"
        )
    virtual, actual = said.get("virtual-size"), said.get("actual-size", 0)
    if not isinstance(virtual, int) or not isinstance(actual, int) or not LEAST_BYTES <= virtual <= MOST_BYTES:
        raise ImageError(f"image {path}: its disk has {virtual} bytes, expected {LEAST_BYTES} to {MOST_BYTES}")
    return DiskImage(path=path, format=DiskFormat.QCOW2, virtual_bytes=virtual, actual_bytes=actual)


def _qemu_img(path: Path) -> dict[str, Any]:
    """`qemu-img info`, which a hostile file could keep busy or make swell, under limits of the kernel's."""
    program = shutil.which("qemu-img")
    if program is None:
        raise ImageError(f"image {path}: cannot be looked at: qemu-img is not installed: apt-get install qemu-utils")
    limits = ["prlimit", f"--as={_QEMU_MEMORY}", f"--cpu={_QEMU_CPU_SECONDS}", "--core=0", "--"]
    command = [*limits, program, "info", "--output=json", "--force-share", "-f", "qcow2", str(path.absolute())]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_QEMU_SECONDS, env={"LC_ALL": "C.UTF-8"}
        )
        if done.returncode != 0:
            complaint = done.stderr.decode(errors="replace").strip().removeprefix("qemu-img: ")
            raise ImageError(f"image {path}: qemu-img cannot read it: {_line(complaint) or f'exit {done.returncode}'}")
        said = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"image {path}: qemu-img took more than {_QEMU_SECONDS} s to look at it") from error
    except UNREADABLE as error:
        raise ImageError(f"image {path}: qemu-img cannot be used: {short(error)}") from error
    if not isinstance(said, dict):
        raise ImageError(f"image {path}: qemu-img gave no answer that can be read")
    return said


def _line(text: str) -> str:
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())[:300]
