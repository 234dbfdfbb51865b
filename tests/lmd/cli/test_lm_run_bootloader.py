"""Virtual machines with a bootloader of their own: a disk image, and a boot ISO beside an empty disk.

The images are made here, of the distribution's syslinux and our kit's kernel: stand-ins for cloud images and for the
boot ISOs of CernVM, which say on their console what disks they found and switch off.
"""

import gzip
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.cpio import write_cpio
from images.entries import file
from images.kit import Kit

pytestmark = pytest.mark.timeout(280)

INIT = b"""#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_blk
sleep 1
exec >/dev/console 2>&1
for disk in vda vdb; do
    [ -e /sys/block/$disk ] && echo "found $disk $(cat /sys/block/$disk/size) $(cat /sys/block/$disk/serial)"
done
echo "written by the guest" >/dev/vda && echo "vda can be written"
sync
poweroff -f
"""
CONFIGURATION = """serial 0
DEFAULT linux
PROMPT 0
LABEL linux
 KERNEL linux
 INITRD initrd
 APPEND console=ttyS0 quiet
"""
SYSLINUX = Path("/usr/lib/syslinux")
FIRST = 2**20


def run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def parts(micro_kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what a bootloader loads: kernel, initramfs, its own configuration."""
    folder = tmp_path_factory.mktemp("parts")
    shutil.copy(micro_kit.kernel, folder / "linux")
    ours = io.BytesIO()
    write_cpio({"init": file(INIT, 0o755)}, ours, 0)
    # The kernel unpacks both archives, the second over the first.
    (folder / "initrd").write_bytes(micro_kit.initramfs.read_bytes() + gzip.compress(ours.getvalue()))
    for name in ("isolinux.cfg", "syslinux.cfg"):
        (folder / name).write_text(CONFIGURATION)
    return folder


@pytest.fixture(scope="module")
def boot_iso(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("iso")
    for name in ("linux", "initrd", "isolinux.cfg"):
        shutil.copy(parts / name, tree)
    shutil.copy("/usr/lib/ISOLINUX/isolinux.bin", tree)
    shutil.copy(SYSLINUX / "modules/bios/ldlinux.c32", tree)
    made = parts / "boot.iso"
    boot = ["-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]
    run("xorriso", "-as", "mkisofs", "-quiet", "-o", made, *boot, tree)
    return made


@pytest.fixture(scope="module")
def disk_image(parts: Path) -> Path:
    """A qcow2 image with an MBR, and one active FAT partition that syslinux starts from."""
    raw, made = parts / "disk.raw", parts / "disk.qcow2"
    with raw.open("wb") as out:
        out.write((SYSLINUX / "mbr/mbr.bin").read_bytes())
        out.truncate(64 * 2**20 + FIRST)
    subprocess.run(["sfdisk", "-q", str(raw)], input="2048,,6,*\n", text=True, check=True, capture_output=True)
    partition = parts / "partition"
    with partition.open("wb") as out:
        out.truncate(64 * 2**20)
    run("mkfs.vfat", "-F", "16", partition)
    for name in ("linux", "initrd", "syslinux.cfg"):
        run("mcopy", "-i", partition, parts / name, f"::{name}")
    run("syslinux", "--install", partition)
    run("dd", f"if={partition}", f"of={raw}", f"seek={FIRST}", "oflag=seek_bytes", "bs=1M", "conv=notrunc")
    run("qemu-img", "convert", "-O", "qcow2", raw, made)
    return made


@pytest.fixture
def vm(lm, libvirt_engine) -> Iterator[object]:
    lines = [f"{key} = {json.dumps(value)}" for key, value in libvirt_engine.options.items()]
    with (lm.home / "config/lmd.toml").open("a") as out:
        out.write("\n".join(["", "[runtimes.kvm]", *lines, ""]))
    yield lm


def started(vm, model: str, image: Path) -> str:
    keys = {
        "machine_model": model,
        "root_image": str(image),
        "disk_gb_per_processor": 1,
        "features_form": "path",
        "fizzle_seconds": 0,
    }
    type_ = vm.machinetype("own", "", user_data=None, **keys | {"mb_per_processor": 256})
    done = vm("run", type_, "-o", "out", "--timeout", "200", seconds=250)
    assert done.returncode == 0, done.stderr
    return (vm.home / "work/out/console.log").read_text(errors="replace")


def test_a_boot_iso_finds_an_empty_disk_and_ends_by_switching_itself_off(vm, boot_iso: Path) -> None:
    """cernvm3 and cernvm4, with a stand-in."""
    console = started(vm, "cernvm4", boot_iso)
    assert "found vda 1953125 lmd-disk" in console
    assert "vda can be written" in console
    assert "vdb" not in console


def test_a_disk_image_starts_from_its_own_bootloader_and_stays_as_it_was(vm, disk_image: Path) -> None:
    """vm-raw, with a second, empty disk."""
    before = disk_image.read_bytes()
    console = started(vm, "vm-raw", disk_image)
    assert f"found vda {(64 * 2**20 + FIRST) // 512} lmd-root" in console
    assert "found vdb 1953125 lmd-disk" in console
    assert "vda can be written" in console
    assert disk_image.read_bytes() == before
