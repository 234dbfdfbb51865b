"""Revisions change while mounted: new ones are shown, old ones refused, open files undisturbed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cvmfs_mounted import mounted
from cvmfs_publisher import Publisher, directory, file, link, scrambled
from cvmfs_served import Web

from cvmfs.repository import Repository
from cvmfs.settings import make_settings, open_repository

OLD = {
    "/d": directory(),
    "/d/changes": file(b"old content"),
    "/d/stays": file(b"stays"),
    "/d/goes": file(b"goes"),
    "/big": file(scrambled(400_000, 1), chunks=(100_000,) * 4),
    "/turns": file(b"a file"),
    "/l": link(b"old"),
}
NEW = {
    "/d": directory(),
    "/d/changes": file(b"new content, longer"),
    "/d/stays": file(b"stays"),
    "/d/comes": file(b"comes"),
    "/big": file(scrambled(400_000, 2), chunks=(100_000,) * 4),
    "/turns": directory(),
    "/turns/inside": file(b"x"),
    "/l": link(b"new"),
}


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.05)


def revision(where: Path) -> int:
    return int(os.getxattr(where, "user.revision"))


def test_a_new_revision_appears_after_the_ttl_and_open_files_stay_as_they_are(
    webs: Callable[[Path], Web], tmp_path: Path
) -> None:
    publisher = Publisher(tmp_path / "repo")
    publisher.ttl = 1
    publisher.publish(OLD)
    where = tmp_path / "mnt"
    url = webs(publisher.root).url
    with mounted(url, where, tmp_path / "cache", name=publisher.name, key=publisher.key_file):
        number = (where / "d/stays").stat().st_ino
        assert not (where / "d/comes").exists()
        for name in ("d/goes", "turns", "l", "d/changes"):
            assert (where / name).lstat()
        small = os.open(where / "d/changes", os.O_RDONLY)
        big = os.open(where / "big", os.O_RDONLY)
        listing = os.open(where / "d", os.O_RDONLY)
        assert os.pread(big, 10, 0) == scrambled(400_000, 1)[:10]
        publisher.publish(NEW)
        wait_for(lambda: revision(where) == 2)
        wait_for(lambda: (where / "d/comes").exists())
        wait_for(lambda: (where / "d/changes").read_bytes() == b"new content, longer")
        assert (where / "l").readlink() == Path("new")
        assert not (where / "d/goes").exists()
        assert (where / "turns/inside").read_bytes() == b"x"
        assert sorted(path.name for path in (where / "d").iterdir()) == ["changes", "comes", "stays"]
        assert (where / "d/stays").stat().st_ino == number
        assert (where / "big").read_bytes() == scrambled(400_000, 2)
        assert os.pread(small, 100, 0) == b"old content"
        assert b"".join(os.pread(big, 65536, at) for at in range(0, 400_000, 65536)) == scrambled(400_000, 1)
        assert os.fstat(listing)
        for fd in (small, big, listing):
            os.close(fd)


def test_sighup_looks_for_a_new_revision_at_once(webs: Callable[[Path], Web], tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "repo")
    publisher.publish(OLD)
    where = tmp_path / "mnt"
    url = webs(publisher.root).url
    with mounted(url, where, tmp_path / "cache", name=publisher.name, key=publisher.key_file) as process:
        publisher.publish(NEW)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: revision(where) == 2)


def open_published(publisher: Publisher, url: str, cache: Path, **values: str) -> Repository:
    defaults = {
        "CVMFS_SERVER_URL": url,
        "CVMFS_HTTP_PROXY": "DIRECT",
        "CVMFS_PUBLIC_KEY": str(publisher.key_file),
        "CVMFS_CACHE_DIR": str(cache),
    }
    return open_repository(make_settings(publisher.name, defaults | values))


def test_a_rollback_is_refused_while_open_and_when_opened_again(webs: Callable[[Path], Web], tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "repo")
    publisher.publish(OLD)
    shutil.copy(publisher.root / ".cvmfspublished", tmp_path / "old")
    publisher.publish(NEW)
    url = webs(publisher.root).url
    first = open_published(publisher, url, tmp_path / "cache")
    shutil.copy(tmp_path / "old", publisher.root / ".cvmfspublished")
    assert first.refresh() is False
    assert "rollback" in first.revision.warning
    again = open_published(publisher, url, tmp_path / "cache")
    for repository in (first, again):
        assert repository.revision.number == 2
        assert repository.tree.lookup(b"/d/comes") is not None
        assert "rollback" in repository.revision.warning
        repository.close()


def test_a_damaged_new_revision_leaves_the_old_one_shown(webs: Callable[[Path], Web], tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "repo")
    publisher.publish(OLD)
    repository = open_published(publisher, webs(publisher.root).url, tmp_path / "cache")
    root = publisher.publish(NEW)
    publisher.path(root, "C").write_bytes(b"damaged")
    with pytest.raises(Exception, match="object"):
        repository.refresh()
    assert repository.tree.lookup(b"/d/goes") is not None
    repository.close()


def test_a_pinned_tag_stays(webs: Callable[[Path], Web], tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "repo")
    publisher.publish(OLD, "first")
    publisher.publish(NEW, "second")
    repository = open_published(publisher, webs(publisher.root).url, tmp_path / "cache", CVMFS_REPOSITORY_TAG="first")
    assert repository.tree.lookup(b"/d/goes") is not None
    publisher.publish(NEW)
    assert repository.refresh() is False
    assert repository.revision.number == 1
    repository.close()
