"""The cache of built images: each built once, complete or not there, and found by name."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from images.cache import default_directory, ensure, find, listed, search_directories
from images.errors import ImageError
from images.recipe import Recipe
from runtimes import archives
from runtimes.contract import ImageKind


def test_an_image_is_built_once_and_then_taken_from_the_cache(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    steps: list[str] = []
    first = ensure(tmp_path, busybox, epoch, progress=steps.append)
    assert steps == ["taking busybox from this host", "writing the image"]
    assert ensure(tmp_path, busybox, epoch, progress=steps.append) == first
    assert len(steps) == 2
    assert archives.describe(ImageKind.OCI_ARCHIVE, first.path).image_id == first.image_id


def test_the_file_of_the_newest_image_is_found_by_name(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    assert find("busybox", [tmp_path]) is None
    first = ensure(tmp_path, busybox, epoch)
    os.utime(first.path, (1, 1))
    second = ensure(tmp_path, busybox, epoch + 1)
    assert find("busybox", [tmp_path]) == second.path
    assert archives.describe(ImageKind.OCI_ARCHIVE, tmp_path / "busybox.tar").image_id == second.image_id
    assert first.path.is_file()


def test_of_several_caches_the_newest_image_is_found(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    old = ensure(tmp_path / "old", busybox, epoch)
    new = ensure(tmp_path / "new", busybox, epoch)
    os.utime(old.path, (1, 1))
    assert find("busybox", [tmp_path / "old", tmp_path / "none", tmp_path / "new"]) == new.path


@pytest.mark.parametrize("name", ["", "..", "../busybox", "a/b", "/etc/passwd", "BUSYBOX", "busybox\n"])
def test_what_is_no_name_finds_nothing(busybox: Recipe, tmp_path: Path, epoch: int, name: str) -> None:
    ensure(tmp_path, busybox, epoch)
    assert find(name, [tmp_path, tmp_path / "busybox"]) is None


def test_an_image_that_is_gone_or_cut_is_not_listed_and_is_built_again(
    busybox: Recipe, tmp_path: Path, epoch: int
) -> None:
    image = ensure(tmp_path, busybox, epoch)
    with image.path.open("r+b") as file:
        file.truncate(1000)
    assert listed(tmp_path) == []
    assert ensure(tmp_path, busybox, epoch) == image
    assert image.path.stat().st_size == image.size_bytes
    shutil.rmtree(image.path.parent)
    assert find("busybox", [tmp_path]) is None
    assert ensure(tmp_path, busybox, epoch).path.is_file()


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"packages": 1}', '{"packages": [{"x": 1}]}', '{"packages": []}'])
def test_a_record_of_any_content_is_passed_over(busybox: Recipe, tmp_path: Path, epoch: int, record: str) -> None:
    image = ensure(tmp_path, busybox, epoch)
    image.path.with_name("image.json").write_text(record)
    assert listed(tmp_path) == []
    assert ensure(tmp_path, busybox, epoch) == image
    assert [kept for kept, _ in listed(tmp_path)] == [image]


def test_what_a_dead_builder_left_is_never_found_and_goes_with_the_next_build(
    busybox: Recipe, tmp_path: Path, epoch: int
) -> None:
    image = ensure(tmp_path, busybox, epoch)
    image.path.parent.rename(tmp_path / "busybox/build.partial")
    assert listed(tmp_path) == []
    assert find("busybox", [tmp_path]) is None
    ensure(tmp_path, busybox, epoch)
    assert sorted(path.name for path in (tmp_path / "busybox").iterdir()) == [image.path.parent.name, "lock"]


def test_building_again_to_the_same_bytes_keeps_the_file(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    first = ensure(tmp_path, busybox, epoch)
    inode = first.path.stat().st_ino
    os.utime(first.path, (1, 1))
    steps: list[str] = []
    assert ensure(tmp_path, busybox, epoch, rebuild=True, progress=steps.append) == first
    assert steps
    assert first.path.stat().st_ino == inode
    assert first.path.stat().st_mtime > time.time() - 60


def test_many_who_ask_at_once_build_once(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    steps: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ensure, tmp_path, busybox, epoch, progress=steps.append) for _ in range(8)]
        images = [each.result() for each in asked]
    assert len(set(images)) == 1
    assert steps.count("writing the image") == 1


def test_a_second_process_waits_and_says_so(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    (tmp_path / "busybox").mkdir()
    waiting = threading.Event()

    def progress(step: str) -> None:
        if step == "waiting for another process that builds busybox":
            waiting.set()

    with (tmp_path / "busybox/lock").open("w") as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asked = pool.submit(ensure, tmp_path, busybox, epoch, progress=progress)
        assert waiting.wait(10)
        assert not asked.done()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert asked.result(20).path.is_file()


def test_a_builder_killed_at_any_moment_leaves_no_broken_image(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    script = (
        "import sys; from pathlib import Path; from images.cache import ensure; from images.recipe import find_recipe\n"
        "print('ready', flush=True); recipe = find_recipe('busybox')\n"
        "for n in range(1000): ensure(Path(sys.argv[1]), recipe, n)"
    )
    for delay in (0.01, 0.03, 0.05, 0.08, 0.12):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        assert process.stdout is not None
        with process.stdout:
            process.stdout.readline()
            time.sleep(delay)
            process.kill()
            process.wait()
        for image, _ in listed(tmp_path):
            assert archives.describe(ImageKind.OCI_ARCHIVE, image.path).image_id == image.image_id
    assert ensure(tmp_path, busybox, epoch).path.is_file()
    assert not list(tmp_path.rglob("*.partial"))


def test_the_lock_stays_while_what_a_killed_builder_started_still_runs(
    write_recipe: Callable[..., Recipe], tmp_path: Path, hanging_mirror: socket.socket
) -> None:
    port = hanging_mirror.getsockname()[1]
    mirrors = f'mirrors = ["http://127.0.0.1:{port}/debian"]'
    write_recipe(f'description = "x"\nkind = "debian"\nsuite = "bookworm"\n{mirrors}\n')
    script = (
        "import sys; from pathlib import Path; from images.cache import ensure; from images.recipe import load\n"
        "ensure(Path(sys.argv[1]), load(Path(sys.argv[2])), 1)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "cache"), str(tmp_path / "recipes/mine")]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    hanging_mirror.settimeout(30)
    try:
        hanging_mirror.accept()[0].close()
        (started,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    finally:
        process.kill()
        process.wait()
    with (tmp_path / "cache/mine/lock").open() as lock:
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.killpg(int(started), signal.SIGTERM)
        fcntl.flock(lock, fcntl.LOCK_EX)  # granted when the last of them has ended


def test_the_record_beside_an_image_is_readable_json(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    image = ensure(tmp_path, busybox, epoch)
    record = json.loads(image.path.with_name("image.json").read_text())
    assert record["image_id"] == image.image_id
    assert record["packages"][0]["name"] == "busybox-static"


def test_a_place_that_cannot_be_written_is_named(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match=rf"image busybox: {tmp_path}/file/busybox: Not a directory"):
        ensure(tmp_path / "file", busybox, epoch)


def test_each_user_has_a_cache_and_sees_that_of_root() -> None:
    shared = Path("/var/cache/lmd/images")
    assert default_directory({"XDG_CACHE_HOME": "/c"}, 0) == shared
    assert default_directory({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, 7) == Path("/c/lmd/images")
    assert default_directory({"XDG_CACHE_HOME": "c", "HOME": "/h"}, 7) == Path("/h/.cache/lmd/images")
    assert search_directories({"HOME": "/h"}, 7) == (Path("/h/.cache/lmd/images"), shared)
    assert search_directories({}, 0) == (shared,)
