"""A root file system as a disk that a BIOS boots: one partition, ext4, GRUB before it. Needs root; no loop device.

GRUB's two stages are written where its installer would put them: the boot sector into the first, which loads what
begins in the second, the core with all that it needs to find the file system by its label.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from images.appear import whole_file
from images.entries import Tree
from images.errors import ImageError
from images.kinds.source import Work
from images.layer import write_layer
from images.unpack import Unpacking

DISK = "disk.qcow2"
LABEL = "lmd-root"
VIRTUAL_BYTES = 10 * 2**30
"""What the machine sees; its root grows into it at the first boot."""
SPARE_BYTES = 300_000_000
TOOLS = {"mke2fs": "e2fsprogs", "sfdisk": "fdisk", "qemu-img": "qemu-utils", "chroot": "coreutils"}
GRUB = """serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout=0
search --no-floppy --label lmd-root --set=root
linux /boot/vmlinuz-{release} root=LABEL=lmd-root ro console=tty0 console=ttyS0,115200 net.ifnames=0
initrd /boot/initrd.img-{release}
boot
"""
_MODULES = [
    "biosdisk",
    "part_msdos",
    "ext2",
    "normal",
    "linux",
    "search",
    "search_label",
    "serial",
    "terminal",
    "boot",
    "configfile",
]
_SECTOR, _FIRST = 512, 2048
_CODE_BYTES = 440
"""Of the first sector; the partition table begins behind it."""
_SECONDS = 1800
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def write_disk(tree: Tree, out: Path, work: Work) -> None:
    """Write the tree as a bootable qcow2 file. Raises ImageError, OSError."""
    scratch = work.scratch / "disk"
    scratch.mkdir()
    root, system, disk = scratch / "root", scratch / "system.ext4", scratch / "disk.raw"
    work.progress("unpacking the root file system")
    root.mkdir(mode=0o755)
    layer = scratch / "layer.tar"
    write_layer(tree, layer, work.epoch)
    unpacking = Unpacking(root)
    with layer.open("rb") as content:
        unpacking.layer(content)
    layer.unlink()
    work.progress("writing the disk")
    core, boot = _grub(root)
    size = (unpacking.size * 5 // 4 + unpacking.entries * 512 + SPARE_BYTES) // 2**20 * 2**20
    with system.open("wb") as file:
        file.truncate(size)
    environment = {"E2FSPROGS_FAKE_TIME": str(work.epoch)}
    _run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", LABEL, "-d", str(root), str(system)], work, more=environment)
    shutil.rmtree(root)
    with disk.open("wb") as file:
        file.truncate(_FIRST * _SECTOR + size)
    _run(["sfdisk", "--quiet", str(disk)], work, given=f"label: dos\nstart={_FIRST}, type=83, bootable\n")
    _place(disk, system, core, boot)
    _run(["qemu-img", "resize", "-q", "-f", "raw", str(disk), str(VIRTUAL_BYTES)], work)
    with whole_file(out) as part:
        _run(["qemu-img", "convert", "-q", "-c", "-f", "raw", "-O", "qcow2", str(disk), str(part)], work)
    out.chmod(0o644)  # hypervisors read it as users of their own
    shutil.rmtree(scratch)


def _grub(root: Path) -> tuple[bytes, bytes]:
    """GRUB's core and boot sector, made by the image's own programs."""
    core = root / "core.img"
    command = ["grub-mkimage", "-O", "i386-pc", "-o", "/core.img", "-p", "(hd0,msdos1)/boot/grub", *_MODULES]
    try:
        done = subprocess.run(
            ["chroot", str(root), *command],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
            check=False,
        )
        if done.returncode:
            raise ImageError(f"grub-mkimage failed: {_last(done.stderr)}")
        made = core.read_bytes(), (root / "usr/lib/grub/i386-pc/boot.img").read_bytes()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"GRUB cannot be made: {error}") from error
    core.unlink()
    if len(made[0]) > (_FIRST - 1) * _SECTOR:
        raise ImageError(f"GRUB's core is too large: {len(made[0])} bytes")
    return made


def _place(disk: Path, system: Path, core: bytes, boot: bytes) -> None:
    with disk.open("r+b") as target, system.open("rb") as source:
        target.write(boot[:_CODE_BYTES])
        target.seek(_SECTOR)
        target.write(core)
        offset, end = 0, source.seek(0, os.SEEK_END)
        while offset < end:
            try:
                start = os.lseek(source.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            offset = os.lseek(source.fileno(), start, os.SEEK_HOLE)
            os.lseek(source.fileno(), start, os.SEEK_SET)
            target.seek(_FIRST * _SECTOR + start)
            left = offset - start
            while left and (piece := os.read(source.fileno(), min(left, 1 << 20))):
                target.write(piece)
                left -= len(piece)


def _run(command: Sequence[str], work: Work, *, given: str = "", more: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"} | (more or {}),
            pass_fds=work.held,
            check=False,
        )
    except FileNotFoundError as error:
        raise ImageError(f"{command[0]} is not installed: apt-get install {TOOLS[command[0]]}") from error
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"{command[0]} took more than {_SECONDS} s") from error
    if done.returncode:
        raise ImageError(f"{command[0]} failed: {_last(done.stderr)}")


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1][:200]
