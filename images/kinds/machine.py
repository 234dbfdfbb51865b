"""A virtual machine's disk: the root file system of a distribution's packages, with a kernel and a bootloader.

The image's own tree is that root; beside the image lies the disk (`images.bootable`).
"""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from images.archive import host_architecture
from images.bootable import GRUB, LABEL, TOOLS
from images.entries import Tree, file, place
from images.errors import ImageError
from images.kinds.debian import DebianSource
from images.kinds.source import RootTree, Work
from images.recipe import Recipe

PACKAGES = ("grub-pc-bin", "grub2-common", "initramfs-tools")
FILES = {
    "/etc/fstab": f"LABEL={LABEL} / ext4 errors=remount-ro 0 1\n",
    "/etc/hostname": "localhost\n",
    "/etc/machine-id": "",
    "/etc/default/grub": """GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200 net.ifnames=0"
GRUB_TERMINAL="console serial"
""",
}
"""An empty machine-id is filled at the first boot."""


@dataclass(frozen=True, slots=True)
class MachineSource:
    """Takes the packages from the mirrors that `debian` asks. Needs root: the file system keeps its owners."""

    debian: DebianSource

    def missing(self) -> str | None:
        """What this host lacks, and the line to type; None if nothing."""
        if host_architecture() != "amd64":
            return "disks with a bootloader are made on amd64 alone"
        if self.debian.uid:
            return "a disk is made by root, since its files keep their owners: sudo lm image build"
        lacking = sorted(
            {package for tool, package in TOOLS.items() if not shutil.which(tool, path=self.debian.search)}
        )
        if lacking:
            return f"not installed: {', '.join(lacking)}: apt-get install {' '.join(lacking)}"
        return self.debian.missing()

    def inputs(self) -> tuple[str, ...]:
        """The digest of what we write into it."""
        return (hashlib.sha256(repr((PACKAGES, FILES, GRUB)).encode()).hexdigest(),)

    @contextmanager
    def root(self, recipe: Recipe, work: Work) -> Iterator[RootTree]:
        """The packages' tree with what makes it boot."""
        if lacking := self.missing():
            raise ImageError(lacking)
        kernel = f"linux-image-cloud-{host_architecture()}"
        packages = sorted({kernel, *PACKAGES, *recipe.settings.packages})
        settings = recipe.settings.model_copy(update={"variant": "apt", "packages": packages})
        with self.debian.root(replace(recipe, settings=settings), work) as made:
            tree = dict(made.tree)
            for path, text in FILES.items():
                place(tree, path, file(text.encode()))
            place(tree, "/boot/grub/grub.cfg", file(GRUB.format(release=_release(tree)).encode()))
            yield RootTree(tree, made.packages)


def _release(tree: Tree) -> str:
    found = sorted(name for name in tree if re.fullmatch(r"boot/vmlinuz-[^/]+", name))
    if not found or f"boot/initrd.img-{found[-1].partition('-')[2]}" not in tree:
        raise ImageError("the packages hold no kernel with an initramfs")
    return found[-1].partition("-")[2]
