"""The mounted repository is, to the kernel, what the real client shows."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cvmfs_mounted import command, described_tree, kept_elsewhere, mounted, unmount, words_for
from cvmfs_served import NAME, Web, records

REVISIONS = [
    ([], "truth.jsonl", "magic.jsonl"),
    (["--tag", "rev1-files"], "truth-rev1-files.jsonl", "magic-rev1-files.jsonl"),
]


@pytest.mark.parametrize(("more", "truth", "magic"), REVISIONS)
def test_every_path_and_attribute_is_as_the_real_client_shows_it(
    web: Web, tmp_path: Path, more: list[str], truth: str, magic: str
) -> None:
    where = tmp_path / "mnt"
    with mounted(web.url, where, tmp_path / "cache", *more):
        for _ in range(2):  # cold, and from what kernel and cache have kept
            found = sorted(described_tree(where), key=lambda item: item["path"])
            assert found == sorted(records(truth), key=lambda item: item["path"])
        for record in records(magic):
            path = str(where) + record.pop("path")
            for name, value in record.items():
                assert os.getxattr(path, name, follow_symlinks=False) == value.encode(), (path, name)
            if "user.hash" not in record:
                with pytest.raises(OSError, match=r"No data"):
                    os.getxattr(path, "user.hash", follow_symlinks=False)


def test_nothing_can_be_written(web: Web, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    with mounted(web.url, where, tmp_path / "cache"):
        for attempt in (
            lambda: (where / "new").write_text("x"),
            lambda: (where / "README.txt").write_text("x"),
            lambda: (where / "README.txt").unlink(),
            lambda: (where / "dir").mkdir(),
        ):
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.errno == errno.EROFS


def test_the_background_mount_returns_when_it_can_be_used_and_ends_when_unmounted(web: Web, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    where.mkdir()
    try:
        done = command("mount", NAME, str(where), *words_for(web.url, tmp_path / "cache"))
        assert (done.returncode, done.stderr) == (0, b"")
        process = int(os.getxattr(where, "user.pid"))
        assert (where / "README.txt").stat().st_size == 53
        again = command("mount", NAME, str(where), *words_for(web.url, tmp_path / "cache"))
        assert again.returncode == 2
        assert b"in use" in again.stderr
    finally:
        unmount(where)
    until = time.monotonic() + 10
    while Path(f"/proc/{process}/fd/0").exists() and time.monotonic() < until:
        time.sleep(0.05)
    # a private copy of the mount table, made by somebody else on this host in the meantime, keeps a mount alive
    assert not Path(f"/proc/{process}/fd/0").exists() or kept_elsewhere(where)


def test_a_mount_whose_process_was_killed_fails_its_readers_and_is_replaced(web: Web, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    with mounted(web.url, where, tmp_path / "cache") as process:
        reader = os.open(where / "big" / "chunked-600k.bin", os.O_RDONLY)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with pytest.raises(OSError) as caught:
            os.pread(reader, 10, 400_000)
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
        with contextlib.suppress(OSError):
            os.close(reader)
        with mounted_over_the_dead(web, where, tmp_path):
            assert (where / "README.txt").stat().st_size == 53


@contextlib.contextmanager
def mounted_over_the_dead(web: Web, where: Path, tmp_path: Path):
    done = command("mount", NAME, str(where), *words_for(web.url, tmp_path / "cache"))
    assert (done.returncode, done.stderr) == (0, b"")
    try:
        yield
    finally:
        unmount(where)


def test_a_descriptor_that_is_mounted_already_is_served(web: Web, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mount(2) needs root")
    where = tmp_path / "mnt"
    where.mkdir()
    words = words_for(web.url, tmp_path / "cache")
    fuse = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    data = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    assert libc.mount(b"test", bytes(where), b"fuse", 0, data) == 0, os.strerror(ctypes.get_errno())
    process = None
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "cvmfs", "mount", NAME, f"/dev/fd/{fuse}", "--foreground", *words],
            pass_fds=[fuse],
        )
        os.close(fuse)
        found = sorted(described_tree(where), key=lambda item: item["path"])
        assert found == sorted(records("truth.jsonl"), key=lambda item: item["path"])
        with pytest.raises(OSError) as caught:  # this mount is not read-only to the kernel
            (where / "new").write_text("x")
        assert caught.value.errno == errno.EROFS
    finally:
        unmount(where)
        libc.umount2(bytes(where), 2)
        if process is not None:
            process.terminate()
            process.wait(10)


def test_the_mount_ends_with_the_process_it_is_for(web: Web, tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        with mounted(web.url, tmp_path / "mnt", tmp_path / "cache", "--with-process", str(other.pid)) as process:
            other.kill()
            assert process.wait(10) == 0
    finally:
        other.kill()
        other.wait()
