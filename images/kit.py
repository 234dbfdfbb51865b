"""The kernel and initramfs that boot virtual machines directly, made by the recipe `micro`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from images import cache

RECIPE = "micro"
KERNEL = "kernel"
INITRAMFS = "initramfs"


@dataclass(frozen=True, slots=True)
class Kit:
    """Two files that never change, beside the image `lmd:micro` (an OCI archive) that they were built with."""

    kernel: Path
    initramfs: Path
    image: Path


def bootable(kernel: Path) -> bool:
    """Whether QEMU would take a file for an amd64 kernel: a bzImage (`HdrS`, Linux' Documentation/arch/x86/boot.rst),
    an ELF file, or one with a Multiboot header (0.6.96 §3.1). Raises OSError."""
    with kernel.open("rb") as stream:
        head = stream.read(8192)
    return head[0x202:0x206] == b"HdrS" or head.startswith(b"\x7fELF") or b"\x02\xb0\xad\x1b" in head


def find_kit(directories: Sequence[Path]) -> Kit | None:
    """The newest kit in these cache directories (`cache.search_directories`); None if none has been built."""
    image = cache.find(RECIPE, directories)
    if image is None:
        return None
    return kit_beside(image)


def kit_beside(image: Path) -> Kit | None:
    """The kit that was built with an image of the cache; None if it is not whole."""
    kit = Kit(image.with_name(KERNEL), image.with_name(INITRAMFS), image)
    return kit if kit.kernel.is_file() and kit.initramfs.is_file() else None
