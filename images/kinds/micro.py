"""What a virtual machine boots directly: the distribution's kernel, and an initramfs of busybox with our init.

The image's own tree is that of busybox, with the two files below /boot. Nothing is configured or run while it is made:
the packages are only unpacked.
"""

import gzip
import hashlib
import lzma
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from io import BytesIO
from pathlib import PurePosixPath

from images.archive import host_architecture
from images.built import Package
from images.cpio import write_cpio
from images.entries import Tree, file, place, symlink
from images.errors import ImageError
from images.kinds.busybox import busybox_tree
from images.kinds.debian import DebianSource
from images.kinds.source import RootTree, Work
from images.recipe import Recipe
from images.skeleton import add_skeleton

KERNEL = "boot/vmlinuz"
INITRAMFS = "boot/initramfs"
MODULES = (
    "virtio_pci",
    "virtiofs",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio-rng",
    "virtio_scsi",
    "pvpanic-mmio",
    "pvpanic-pci",
    "button",
    "evdev",
    "overlay",
    "squashfs",
    "erofs",
    "xfs",
    "isofs",
    "sr_mod",
)
"""The kernel modules that machines may need, by name; those they depend on come with them. Some may be built in."""
GUEST = {"init": "/init", "dhcp": "/etc/lmd-dhcp", "lm-put": "/usr/local/bin/lm-put"}
"""Our programs in `images/guest`, and where they lie in the initramfs."""
ASSEMBLY = "3"
"""Goes up when the same parts are put together in another way."""
LINKS = {"fd": "/proc/self/fd", **{f"std{n}": f"/proc/self/fd/{i}" for i, n in enumerate(("in", "out", "err"))}}
"""What init copies into a machine's /dev."""
_SIGNED = b"~Module signature appended~\n"
"""How a signed module ends, behind the signature and 12 bytes about it, the last four its length (Linux, scripts/
sign-file.c)."""
_KERNEL_LIMIT = 100_000_000
_MODULE_LIMIT = 50_000_000
_UNPACK: Mapping[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".xz": lzma.decompress, ".ko": bytes}


@dataclass(frozen=True, slots=True)
class MicroSource:
    """Takes kernel and busybox from the mirrors that `debian` asks."""

    debian: DebianSource

    def missing(self) -> str | None:
        """What this host lacks, and the line to type; None if nothing."""
        return self.debian.missing()

    def inputs(self) -> tuple[str, ...]:
        """The digests of our programs in the guest, and the list of modules."""
        return (*(hashlib.sha256(_guest(name)).hexdigest() for name in GUEST), *MODULES, ASSEMBLY)

    @contextmanager
    def root(self, recipe: Recipe, work: Work) -> Iterator[RootTree]:
        """Unpack the packages, and make both trees of them: the initramfs, and the image with it."""
        packages = [f"linux-image-cloud-{host_architecture()}", "busybox-static", *recipe.settings.packages]
        settings = recipe.settings.model_copy(update={"variant": "extract", "packages": packages})
        with self.debian.root(replace(recipe, settings=settings), work) as made:
            kernel, release = _kernel(made.tree)
            busybox = _read(made.tree, _one(made.tree, r"(usr/)?bin/busybox"), _MODULE_LIMIT)
            work.progress("writing the initramfs")
            tree = busybox_tree(busybox, work.scratch)
            initramfs = dict(tree)
            for name, target in GUEST.items():
                place(initramfs, target, file(_guest(name), 0o755))
            for name, target in LINKS.items():
                place(initramfs, f"/.lmd/dev/{name}", symlink(target))
            _add_modules(initramfs, made.tree, release)
            add_skeleton(initramfs)
            packed = BytesIO()
            write_cpio(initramfs, packed, work.epoch)
            place(tree, KERNEL, file(kernel))
            place(tree, INITRAMFS, file(packed.getvalue()))
            yield RootTree(tree, (_busybox_package(made.tree), _kernel_package(kernel, release)))


def _guest(name: str) -> bytes:
    return files("images").joinpath("guest", name).read_bytes()


def _one(tree: Tree, pattern: str) -> str:
    """The newest path that matches, by its name."""
    found = sorted(name for name in tree if re.fullmatch(pattern, name))
    if not found:
        raise ImageError(f"the packages hold no file like /{pattern}")
    return found[-1]


def _read(tree: Tree, name: str, limit: int) -> bytes:
    content = tree[name].content
    if content is None:
        raise ImageError(f"/{name}: is no file")
    with content() as stream:
        data: bytes = stream.read(limit + 1)
    if len(data) > limit:
        raise ImageError(f"/{name}: is larger than {limit} bytes")
    return data


def _kernel(tree: Tree) -> tuple[bytes, str]:
    name = _one(tree, r"boot/vmlinu[xz]-[^/]+")
    return _read(tree, name, _KERNEL_LIMIT), name.partition("-")[2]


def _add_modules(target: Tree, source: Tree, release: str) -> None:
    """Put the modules into the initramfs, unpacked, with the table by which modprobe loads them in order."""
    root = re.compile(rf"(usr/)?lib/modules/{re.escape(release)}/kernel/.*/([^/]+)\.ko(\.xz|\.gz)?")
    there = {match[2].replace("_", "-"): name for name in source if (match := root.fullmatch(name))}
    depends: dict[str, list[str]] = {}
    wanted = list(MODULES)
    while wanted:
        key = wanted.pop().replace("_", "-")
        if key in depends or key not in there:  # what is not there is built in
            continue
        name = there[key]
        data = _unsigned(_UNPACK[PurePosixPath(name).suffix](_read(source, name, _MODULE_LIMIT)))
        depends[key] = _depends(data)
        wanted += depends[key]
        place(target, f"/lib/modules/{release}/{key}.ko", file(data))
    table = "".join(f"{key}.ko: {' '.join(_closure(key, depends, there))}".rstrip() + "\n" for key in sorted(depends))
    place(target, f"/lib/modules/{release}/modules.dep", file(table.encode()))


def _closure(key: str, depends: Mapping[str, Iterable[str]], there: Mapping[str, str]) -> list[str]:
    """The files of all modules that one needs, each before those that it needs itself (as depmod writes them)."""
    found: list[str] = []
    for name in depends.get(key, ()):
        if name in there:
            found += [f"{name}.ko", *_closure(name, depends, there)]
    return list(reversed(list(dict.fromkeys(reversed(found)))))


def _unsigned(module: bytes) -> bytes:
    """A module without its signature: it comes with the kernel, and an emulated guest spends long on verifying it."""
    if not module.endswith(_SIGNED):
        return module
    (length,) = struct.unpack(">I", module[-len(_SIGNED) - 4 : -len(_SIGNED)])
    return module[: -len(_SIGNED) - 12 - length]


def _depends(module: bytes) -> list[str]:
    """The modules that one needs, by its .modinfo section."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name.replace("_", "-") for name in match[1].decode().split(",") if name] if match else []


def _kernel_package(kernel: bytes, release: str) -> Package:
    """By the kernel's own banner: `… #1 SMP Debian 6.1.192-2 (2026-11-16)`."""
    match = re.search(rb"#1 [ -~]*Debian ([0-9][0-9A-Za-z.+~-]*) \(", kernel)
    return Package(f"linux-image-{release}", match[1].decode() if match else release, host_architecture())


def _busybox_package(tree: Tree) -> Package:
    """By the first line of its changelog."""
    for name in sorted(tree):
        if re.fullmatch(r"usr/share/doc/busybox-static/changelog\.Debian.*\.gz", name):
            with gzip.open(BytesIO(_read(tree, name, _MODULE_LIMIT))) as stream:
                match = re.match(rb"busybox \(([0-9A-Za-z.+:~-]+)\)", stream.readline(1000))
            if match:
                return Package("busybox-static", match[1].decode(), host_architecture())
    return Package("busybox-static", "unknown", host_architecture())
