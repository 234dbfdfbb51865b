"""Trees of entries, and the layers that are made of them."""

import os
import tarfile
from pathlib import Path

import pytest

from images.entries import Entry, Kind, Tree, beyond_links, directory, file, from_directory, from_tar, place, symlink
from images.errors import ImageError
from images.layer import write_layer


def _small_root(root: Path) -> Path:
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/tool").write_bytes(b"#!/bin/sh\n")
    (root / "usr/bin/tool").chmod(0o4755)
    os.link(root / "usr/bin/tool", root / "usr/bin/also")
    (root / "etc").mkdir()
    (root / "etc/ünïcode").write_text("x")
    os.mkfifo(root / "pipe")
    return root


def _members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive}


def test_two_roots_with_the_same_content_give_the_same_layer(tmp_path: Path, epoch: int) -> None:
    one = write_layer(from_directory(_small_root(tmp_path / "one")), tmp_path / "one.tar", epoch)
    two = write_layer(from_directory(_small_root(tmp_path / "another/two")), tmp_path / "two.tar", epoch)
    assert one.digest == two.digest
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_another_byte_or_mode_gives_another_layer(tmp_path: Path, epoch: int) -> None:
    root = _small_root(tmp_path / "root")
    digests = {write_layer(from_directory(root), tmp_path / "0.tar", epoch).digest}
    (root / "etc/ünïcode").write_text("y")
    digests.add(write_layer(from_directory(root), tmp_path / "1.tar", epoch).digest)
    (root / "etc").chmod(0o700)
    digests.add(write_layer(from_directory(root), tmp_path / "2.tar", epoch).digest)
    assert len(digests) == 3


def test_members_are_sorted_with_modes_owners_and_no_time_after_the_epoch(tmp_path: Path, epoch: int) -> None:
    root = _small_root(tmp_path / "root")
    os.utime(root / "etc", (5, 5))
    write_layer(from_directory(root), tmp_path / "layer.tar", epoch)
    members = _members(tmp_path / "layer.tar")
    assert list(members) == sorted(members)
    assert members["usr/bin/also"].mode == 0o4755
    assert (members["usr"].uid, members["usr"].uname) == (os.geteuid(), "")
    assert {member.mtime for name, member in members.items() if name != "etc"} == {epoch}
    assert members["etc"].mtime == 5
    assert members["pipe"].isfifo()
    assert (members["bin"].issym(), members["bin"].linkname) == (True, "usr/bin")


def test_hard_links_stay_one_file_whose_first_name_has_the_content(tmp_path: Path, epoch: int) -> None:
    write_layer(from_directory(_small_root(tmp_path / "root")), tmp_path / "layer.tar", epoch)
    members = _members(tmp_path / "layer.tar")
    assert members["usr/bin/also"].isreg()
    assert (members["usr/bin/tool"].islnk(), members["usr/bin/tool"].linkname) == (True, "usr/bin/also")


def test_a_tree_read_from_a_layer_makes_the_same_layer(tmp_path: Path, epoch: int) -> None:
    first = write_layer(from_directory(_small_root(tmp_path / "root")), tmp_path / "first.tar", epoch)
    with tarfile.open(first.path) as archive:
        second = write_layer(from_tar(archive), tmp_path / "second.tar", epoch)
    assert second.digest == first.digest


def test_a_file_capability_is_kept_even_where_it_is_no_text(tmp_path: Path, epoch: int) -> None:
    value = b"\x01\x00\x00\x02\x00\x04\xff\x80".decode("utf-8", "surrogateescape")
    tree = {"ping": Entry(kind=Kind.FILE, mode=0o755, capability=value, content=file(b"").content)}
    write_layer(tree, tmp_path / "layer.tar", epoch)
    with tarfile.open(tmp_path / "layer.tar") as archive:
        assert from_tar(archive)["ping"].capability == value


def test_device_nodes_are_left_out_of_a_tar_file(tmp_path: Path) -> None:
    node = tarfile.TarInfo("dev/null")
    node.type = tarfile.CHRTYPE
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        archive.addfile(node)
    with tarfile.open(tmp_path / "root.tar") as archive:
        assert from_tar(archive) == {}


@pytest.mark.parametrize("name", ["../outside", "a/../../outside"])
def test_a_tar_file_that_leaves_its_root_is_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with tarfile.open(tmp_path / "root.tar") as archive, pytest.raises(ImageError, match="may not contain"):
        from_tar(archive)


def test_a_hard_link_to_nothing_is_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("a")
    link.type, link.linkname = tarfile.LNKTYPE, "b"
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        archive.addfile(link)
    with tarfile.open(tmp_path / "root.tar") as archive, pytest.raises(ImageError, match="not in the archive"):
        from_tar(archive)


def test_a_file_that_shrinks_while_it_is_read_is_an_error_not_a_broken_layer(tmp_path: Path, epoch: int) -> None:
    tree = {"log": Entry(kind=Kind.FILE, mode=0o644, size=100, content=file(b"short").content)}
    with pytest.raises(ImageError, match="/log: changed while it was read"):
        write_layer(tree, tmp_path / "layer.tar", epoch)


def test_a_file_is_placed_through_the_links_of_a_merged_usr() -> None:
    tree: Tree = {"usr": directory(), "usr/sbin": directory(), "sbin": symlink("/usr/sbin"), "x": symlink("sbin/")}
    place(tree, "/x/lm", file(b""))
    assert "usr/sbin/lm" in tree
    assert not beyond_links(tree)


def test_placing_makes_the_directories_above_and_replaces_a_file() -> None:
    tree: Tree = {}
    place(tree, "/a/b/c", file(b"1"))
    place(tree, "/a/b/c", symlink("d"))
    assert [tree[name].kind for name in ("a", "a/b", "a/b/c")] == [Kind.DIRECTORY, Kind.DIRECTORY, Kind.SYMLINK]


def test_a_file_is_not_placed_over_a_directory_nor_below_a_file() -> None:
    tree: Tree = {"etc": directory(), "motd": file(b"")}
    with pytest.raises(ImageError, match="/etc: a directory and something else"):
        place(tree, "/etc", file(b""))
    with pytest.raises(ImageError, match="/motd is not a directory"):
        place(tree, "/motd/x", file(b""))


def test_links_in_a_circle_are_an_error() -> None:
    tree: Tree = {"a": symlink("b"), "b": symlink("a")}
    with pytest.raises(ImageError, match="symbolic links"):
        place(tree, "/a/x", file(b""))


def test_links_cannot_lead_out_of_the_tree() -> None:
    tree: Tree = {"up": symlink("../../../../tmp")}
    place(tree, "/up/x", file(b""))
    assert "tmp/x" in tree


def test_a_root_that_is_not_there_is_named() -> None:
    with pytest.raises(ImageError, match="/no/such/root: is not a directory"):
        from_directory(Path("/no/such/root"))
