"""Disks that boot by themselves: their layout, and what is refused. A whole one is built and booted by `make soak`."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from images import bootable
from images.bootable import DISK, LABEL, write_disk
from images.builder import sources
from images.entries import directory, file
from images.errors import ImageError
from images.kinds.machine import MachineSource, _release
from images.kinds.source import Work


def test_the_disk_has_grub_before_one_partition_that_holds_the_root(tmp_path: Path, monkeypatch) -> None:
    core, code = bytes(range(256)) * 40, b"\xeb" + b"c" * 511
    monkeypatch.setattr(bootable, "_grub", lambda root: (core, code))
    monkeypatch.setattr(bootable, "VIRTUAL_BYTES", 2**29)
    tree = {"etc": directory(), "etc/fstab": file(b"LABEL=lmd-root / ext4 defaults 0 1\n"), "dev": directory()}
    steps: list[str] = []
    out = tmp_path / DISK
    write_disk(tree, out, Work(epoch=1_700_000_000, scratch=tmp_path, progress=steps.append))
    import subprocess

    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", out, raw], check=True)
    head = raw.read_bytes()[: 2048 * 512]
    assert head[:440] == code[:440]
    assert head[512 : 512 + len(core)] == core
    assert head[510:512] == b"\x55\xaa"
    active, kind, first, sectors = struct.unpack("<B3xB3xII", head[446:462])
    assert (active, kind, first) == (0x80, 0x83, 2048)
    assert raw.stat().st_size == 2**29
    system = tmp_path / "system"
    with raw.open("rb") as disk:
        disk.seek(2048 * 512)
        system.write_bytes(disk.read(sectors * 512))
    listed = subprocess.run(["debugfs", "-R", "cat /etc/fstab", system], capture_output=True, check=True)
    assert listed.stdout == b"LABEL=lmd-root / ext4 defaults 0 1\n"
    blkid = subprocess.run(["blkid", "-p", "-s", "LABEL", "-o", "value", system], capture_output=True, check=True)
    assert blkid.stdout.decode().strip() == LABEL
    assert steps[-1] == "writing the disk"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([DISK, "raw", "system"])


def test_a_root_without_grub_is_no_machine(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"grub-mkimage failed|GRUB cannot be made"):
        write_disk({"etc": directory()}, tmp_path / DISK, Work(epoch=0, scratch=tmp_path, progress=print))
    assert not (tmp_path / DISK).exists()


def test_packages_without_a_kernel_are_no_machine() -> None:
    with pytest.raises(ImageError, match="no kernel with an initramfs"):
        _release({"boot/vmlinuz-6.1": file(b"")})
    both = {"boot/vmlinuz-6.1": file(b""), "boot/initrd.img-6.1": file(b"")}
    assert _release(both) == "6.1"


def test_an_ordinary_user_and_a_host_that_lacks_tools_are_told_what_to_type(tmp_path: Path) -> None:
    source = sources({}, 0)["vm"]
    assert isinstance(source, MachineSource)
    ordinary = MachineSource(replace(source.debian, uid=1000))
    assert "sudo lm image build" in (ordinary.missing() or "")
    bare = MachineSource(replace(source.debian, search=str(tmp_path)))
    assert "apt-get install coreutils e2fsprogs fdisk qemu-utils" in (bare.missing() or "")
