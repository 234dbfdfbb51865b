"""Image files of virtual machines: what is good is told with its format, what is not is refused in one line."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from images import disk
from images.disk import DiskFormat
from images.errors import ImageError


def qemu_img(*words: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


def qcow2(path: Path, *options: str, size: str = "20M") -> Path:
    qemu_img("create", "-q", "-f", "qcow2", *options, path, size)
    return path


def bootable(path: Path, size: int = 5_000_192) -> Path:
    path.write_bytes(b"\0" * 510 + b"\x55\xaa")
    os.truncate(path, size)
    return path


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_qcow2_image_is_told_with_the_size_of_its_disk(tmp_path: Path, version: str) -> None:
    path = qcow2(tmp_path / "a 'name' <with> \"signs\":,.qcow2", "-o", f"compat={'0.10' if version == 'v2' else '1.1'}")
    found = disk.check(path)
    assert (found.format, found.virtual_bytes) == (DiskFormat.QCOW2, 20 * 2**20)
    assert 0 < found.actual_bytes < 2**20


def test_a_raw_disk_is_told_by_its_boot_sector(tmp_path: Path) -> None:
    found = disk.check(bootable(tmp_path / "disk.img"))
    assert (found.format, found.virtual_bytes) == (DiskFormat.RAW, 5_000_192)


@pytest.mark.parametrize("kind", ["ext4", "gpt"])
def test_a_raw_disk_with_a_file_system_or_a_partition_table_is_good(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 8 * 2**20)
    if kind == "ext4":
        subprocess.run(["mke2fs", "-q", "-t", "ext4", str(path)], check=True)
    else:
        with path.open("r+b") as out:
            out.seek(512)
            out.write(b"EFI PART")
    assert disk.check(path).format is DiskFormat.RAW


def test_an_iso_is_told_by_its_volume_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "boot.iso"
    with path.open("wb") as out:
        out.truncate(2_097_152)
        out.seek(32769)
        out.write(b"CD001")
    assert disk.check(path).format is DiskFormat.ISO


def _backing(path: Path) -> None:
    qcow2(path.with_name("below.qcow2"))
    qcow2(path, "-b", "below.qcow2", "-F", "qcow2")


def _backing_of_the_host(path: Path) -> None:
    """As an attacker writes it: the header alone, which no tool of ours made."""
    qcow2(path)
    qemu_img("rebase", "-u", "-b", "/etc/passwd", "-F", "raw", path)


def _data_file(path: Path) -> None:
    qcow2(path, "-o", f"data_file={path.with_name('data.raw')},data_file_raw=on")


def _data_file_without_its_feature(path: Path) -> None:
    """The header names /etc/shadow as its data file; the bit that says so is cleared, as if by mistake."""
    _data_file(path)
    _patch(path, 72, struct.pack(">Q", 0))


def _patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as out:
        out.seek(offset)
        out.write(data)


def _patched(offset: int, data: bytes):
    def make(path: Path) -> None:
        qcow2(path)
        _patch(path, offset, data)

    return make


def _vmdk(path: Path) -> None:
    qemu_img("create", "-q", "-f", "vmdk", path, "20M")


BAD = {
    "a backing file": (_backing, "names a backing file"),
    "a backing file of the host": (_backing_of_the_host, "names a backing file"),
    "an external data file": (_data_file, "has its data in another file"),
    "an external data file that is hidden": (_data_file_without_its_feature, "has its data in another file"),
    "a version of the future": (_patched(4, struct.pack(">I", 9)), "is qcow2 of version 9"),
    "the mark of corruption": (_patched(72, struct.pack(">Q", 2)), "is marked as corrupt"),
    "encryption": (_patched(32, struct.pack(">I", 2)), "is encrypted"),
    "a disk of exabytes": (_patched(24, struct.pack(">Q", 2**62)), "qemu-img cannot read it|expected 1000000 to"),
    "a disk of nothing": (_patched(24, struct.pack(">Q", 0)), "its disk has 0 bytes, expected"),
    "a table that swells": (_patched(36, struct.pack(">I", 2**31)), "qemu-img cannot read it"),
    "a cut header": (lambda path: path.write_bytes(b"QFI\xfb" + bytes(20)), "its qcow2 header is cut"),
    "nothing": (lambda path: path.write_bytes(b""), "is neither qcow2 nor"),
    "text": (lambda path: path.write_text("no image\n" * 1_000_000), "is neither qcow2 nor"),
    "a page of a server that had no image": (lambda path: path.write_text("<html>404</html>"), "a page of HTML"),
    "a compressed image": (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(2_000_000)), "gzip, so decompress it"),
    "another format": (_vmdk, "but VMDK"),
    "a boot sector alone": (lambda path: bootable(path, 512), "it has 512 bytes"),
    "a directory": (lambda path: path.mkdir(), "is no regular file"),
    "a fifo": (lambda path: os.mkfifo(path), "is no regular file"),
    "no file": (lambda path: None, "No such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    make, wanted = BAD[name]
    path = tmp_path / "image"
    make(path)
    with pytest.raises(ImageError, match=wanted) as refused:
        disk.check(path)
    assert str(refused.value).startswith(f"image {path}: ")
    assert "\n" not in str(refused.value)


def test_no_file_that_an_image_names_is_opened(tmp_path: Path) -> None:
    """A fifo in the place of the backing file would hang whoever opens it."""
    os.mkfifo(tmp_path / "trap")
    qcow2(tmp_path / "image")
    qemu_img("rebase", "-u", "-b", tmp_path / "trap", "-F", "raw", tmp_path / "image")
    with pytest.raises(ImageError, match="names a backing file"):
        disk.check(tmp_path / "image")


def test_a_qemu_img_that_hangs_or_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = qcow2(tmp_path / "image")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "prlimit").symlink_to(shutil.which("prlimit") or "")
    fake = programs / "qemu-img"
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(disk, "_QEMU_SECONDS", 0.3)
    with pytest.raises(ImageError, match="apt-get install qemu-utils"):
        disk.check(path)
    for script, wanted in {
        "exec /bin/sleep 60": "took more than",
        "echo '[1]'": "no answer that can be read",
        "echo '{'": "cannot be used",
        "echo 'a\n\033[2Jb' >&2; exit 1": r"cannot read it: a \[2Jb$",
    }.items():
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
        with pytest.raises(ImageError, match=wanted):
            disk.check(path)
