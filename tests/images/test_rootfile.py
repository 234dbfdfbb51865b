"""A root directory as a file system image: the same tree, made once, whole or not at all."""

import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from images_layered import file, folder, hard, link, member, write_layout

from images import rootfile, roots
from images.container import Form, opened
from images.errors import ImageError
from images.roots import Root

LAYER = [
    folder("./", mode=0o755),
    folder("bin", mode=0o711),
    file("bin/su", b"su", uid=0, gid=7, mode=0o4750),
    file("bin/owned", b"x", uid=70_000, gid=80_000),
    link("sbin", "bin"),
    hard("bin/also", "bin/owned"),
    member("pipe", tarfile.FIFOTYPE, mode=0o600),
    (member("ping", size=1, pax_headers={"SCHILY.xattr.user.note": "kept"}), b"x"),
    file("with \"quotes\" and <brackets> 'too'", b"odd"),
    file("zeros", bytes(3_000_000)),
    *(file(f"bin/{number}", b"x") for number in range(300)),
]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    write_layout(tmp_path / "layout", [LAYER])
    with opened(Form.OCI_LAYOUT, tmp_path / "layout", tmp_path) as image:
        return roots.ensure(tmp_path / "roots", image, lambda _: None)


def seen(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink, content)
    return found


def test_the_file_holds_the_tree_as_it_is_and_mounts_read_only(tmp_path: Path, root: Root) -> None:
    path = rootfile.ensure(tmp_path / "files", root, lambda _: None)
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", str(path), str(place)], check=True)
    try:
        assert seen(place) == seen(root.path)
        assert os.getxattr(place / "ping", "user.note") == b"kept"
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path.stat().st_blocks * 512 < 100_000_000 < path.stat().st_size, "free space takes space on the host"


def test_it_is_made_once_and_counts_its_uses(tmp_path: Path, root: Root) -> None:
    path = rootfile.ensure(tmp_path / "files", root, lambda _: None)
    os.utime(path, (1, 1))
    inode = path.stat().st_ino
    assert rootfile.ensure(tmp_path / "files", root, lambda _: None).stat().st_ino == inode
    assert path.stat().st_mtime > 1
    rootfile.remove(tmp_path / "files", root.described.image_id)
    rootfile.remove(tmp_path / "files", root.described.image_id)
    assert rootfile.find(tmp_path / "files", root.described.image_id) is None


def test_what_a_maker_that_was_killed_left_is_cleared_away(tmp_path: Path, root: Root) -> None:
    name = root.described.image_id.removeprefix("sha256:")
    left = tmp_path / f"files/.{name}.ext4.x.partial"
    left.mkdir(parents=True)
    (left / "file").touch()
    rootfile.ensure(tmp_path / "files", root, lambda _: None)
    assert not left.exists()


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path: Path, root: Root) -> None:
    files = tmp_path / "files"
    files.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "lmd-test", str(files)], check=True)
    try:
        with pytest.raises(ImageError) as refused:
            rootfile.ensure(files, root, lambda _: None)
        assert "\n" not in str(refused.value)
        assert [path.suffix for path in files.iterdir()] == [".lock"]
    finally:
        subprocess.run(["umount", str(files)], check=True)
