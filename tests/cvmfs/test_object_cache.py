"""The cache on disk: shared, bounded, and never the source of wrong data."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cvmfs_mounted import command, mounted, words_for
from cvmfs_publisher import Publisher, file, scrambled
from cvmfs_served import NAME, Open, Web, settings_for

from cvmfs.cache import MARKER, Cache
from cvmfs.errors import CacheUnusable, Unreachable
from cvmfs.settings import open_repository


def pieces(*data: bytes) -> Iterator[bytes]:
    yield from data


def keep(cache: Cache, key: str, data: bytes) -> None:
    cache.store(key, pieces(data))


def test_what_is_stored_is_found_by_another_process_object(tmp_path: Path) -> None:
    keep(Cache(tmp_path / "c"), "abcd", b"hello")
    found = Cache(tmp_path / "c").open("abcd")
    assert found is not None
    assert found.read(1, 100) == b"ello"
    assert Cache(tmp_path / "c").open("abce") is None


@pytest.mark.parametrize("at", [0, 3, -1, -20, -36])
def test_a_file_that_has_changed_is_not_used_and_removed(tmp_path: Path, at: int) -> None:
    cache = Cache(tmp_path / "c")
    keep(cache, "abcd", b"hello")
    path = tmp_path / "c/data/ab/cd"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    for other in (cache, Cache(tmp_path / "c")):
        assert other.open("abcd") is None
    assert not path.exists()


@pytest.mark.parametrize("size", [0, 1, 10, 40])
def test_a_file_that_was_cut_short_is_not_used(tmp_path: Path, size: int) -> None:
    keep(Cache(tmp_path / "c"), "abcd", b"hello")
    os.truncate(tmp_path / "c/data/ab/cd", size)
    assert Cache(tmp_path / "c").open("abcd") is None


def test_nothing_is_kept_of_an_object_that_turns_out_damaged(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise Unreachable("gone")

    cache = Cache(tmp_path / "c")
    with pytest.raises(Unreachable):
        cache.store("abcd", broken())
    assert cache.open("abcd") is None
    assert list((tmp_path / "c/tmp").iterdir()) == []


def test_the_least_recently_used_go_first_and_the_quota_holds(tmp_path: Path) -> None:
    now = time.time()
    cache = Cache(tmp_path / "c", quota=10_000, clock=lambda: now)
    for number in range(9):
        keep(cache, f"ab{number}", bytes(1000))
        os.utime(tmp_path / f"c/data/ab/{number}", (now - 1000 + number, now))
    assert cache.open("ab0") is not None
    keep(cache, "abnew", bytes(1500))
    assert sum(path.stat().st_size for path in (tmp_path / "c/data").rglob("*") if path.is_file()) <= 10_000
    assert cache.open("ab0") is not None
    assert cache.open("abnew") is not None
    assert cache.open("ab1") is None


def test_an_open_object_survives_its_removal(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", quota=10_000)
    held = cache.store("abcd", pieces(b"x" * 4000))
    cache.make_room(0)
    assert cache.open("abcd") is None
    assert held.read(0, 9999) == b"x" * 4000


def test_an_object_larger_than_the_quota_is_read_and_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", quota=100)
    assert cache.store("abcd", pieces(bytes(5000))).read(0, 9999) == bytes(5000)
    assert cache.open("abcd") is None


def test_what_others_store_during_a_clean_up_stays_booked(tmp_path: Path) -> None:
    others: list[threading.Thread] = []

    class Slow(Cache):
        def _files(self) -> Iterator[tuple[str, float, int]]:
            yield from list(super()._files())
            others.append(threading.Thread(target=keep, args=(other, "cdlate", bytes(3000))))
            others[0].start()
            others[0].join(0.3)  # it stores, or waits for the accounts

    cache, other = Slow(tmp_path / "c", quota=100_000), Cache(tmp_path / "c", quota=100_000)
    keep(cache, "abcd", bytes(2000))
    cache.make_room(50_000)
    others[0].join(10)
    stored = sum(path.stat().st_size for path in (tmp_path / "c/data").rglob("*") if path.is_file())
    assert cache.used() == stored > 5000


def test_processes_share_one_cache_and_keep_to_its_quota(tmp_path: Path) -> None:
    script = (
        "import sys, os\nfrom pathlib import Path\nfrom cvmfs.cache import Cache\n"
        "cache = Cache(Path(sys.argv[1]), quota=300_000)\n"
        "for number in range(150):\n"
        "    key = f'{number % 60:02d}xx'\n"
        "    found = cache.open(key) or cache.store(key, iter([key.encode() * 2000]))\n"
        "    assert found.read(0, 99999) == key.encode() * 2000\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "c")]) for _ in range(4)]
    assert [worker.wait(50) for worker in workers] == [0] * 4
    total = sum(path.stat().st_size for path in (tmp_path / "c/data").rglob("*") if path.is_file())
    assert 0 < total <= 300_000 + 4 * 8100
    assert list((tmp_path / "c/tmp").iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c")
    stale = tmp_path / "c/tmp/999.1"
    stale.write_bytes(b"half")
    os.utime(stale, (1, 1))
    reached, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        yield b"first"
        reached.set()
        go_on.wait(10)

    writer = threading.Thread(target=lambda: cache.store("abcd", slow()))
    writer.start()
    reached.wait(10)
    for path in (tmp_path / "c/tmp").iterdir():
        os.utime(path, (1, 1))
    Cache(tmp_path / "c")
    assert not stale.exists()
    go_on.set()
    writer.join()
    assert cache.open("abcd") is not None


@pytest.mark.parametrize("what", ["foreign files", "writable by others", "a file", "other version"])
def test_a_directory_that_is_not_ours_is_refused_untouched(tmp_path: Path, what: str) -> None:
    place = tmp_path / "c"
    if what == "a file":
        place.write_text("x")
    else:
        place.mkdir()
        (place / (MARKER if what == "other version" else "precious")).write_text("something")
    if what == "writable by others":
        place.chmod(0o777)
    before = sorted(place.iterdir()) if place.is_dir() else []
    with pytest.raises(CacheUnusable, match=str(place)):
        Cache(place)
    assert (sorted(place.iterdir()) if place.is_dir() else []) == before


def test_a_full_disk_is_survived(webs: Callable[[Path], Web], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    publisher = Publisher(tmp_path / "repo")
    content = {f"/f{number}": scrambled(300_000, number) for number in range(12)}
    publisher.publish({path: file(data, compressed=False) for path, data in content.items()})
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", str(small)], check=True)
    try:
        url, key = webs(publisher.root).url, publisher.key_file
        with mounted(url, tmp_path / "mnt", small / "cache", name=publisher.name, key=key):
            for _ in range(2):
                for path, data in content.items():
                    assert (tmp_path / "mnt" / path[1:]).read_bytes() == data
            (small / "filler").write_bytes(bytes(max(0, os.statvfs(small).f_bavail * 4096)))
            assert (tmp_path / "mnt/f3").read_bytes() == content["/f3"]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_memory_taken_for_a_full_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "c", memory=5000)
    real = os.open

    def full(path: object, *more: int) -> int:
        if "/tmp/" in str(path).replace(str(tmp_path), ""):
            raise OSError(errno.ENOSPC, "full")
        return real(path, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", full)
    held = cache.store("abcd", pieces(bytes(4000)))
    with pytest.raises(CacheUnusable, match="free some space"):
        cache.store("abce", pieces(bytes(4000)))
    del held
    assert cache.store("abce", pieces(bytes(4000))).size == 4000


def test_reading_goes_on_offline_from_the_cache(web: Web, opened: Open) -> None:
    first = opened(web.url)
    located = first.tree.lookup(b"/README.txt")
    assert located is not None
    content = b"".join(first.read(located))
    first.close()  # small files are written behind the reader
    offline = opened("http://127.0.0.1:9")
    assert offline.revision.number == 3
    assert "127.0.0.1:9" in offline.revision.warning
    assert b"".join(offline.read(located)) == content
    with pytest.raises(Unreachable):
        other = offline.tree.lookup(b"/bin/hello.sh")
        assert other is not None
        b"".join(offline.read(other))


def test_offline_needs_a_whitelist_that_is_still_valid(web: Web, tmp_path: Path) -> None:
    open_repository(settings_for(web.url, tmp_path / "cache")).close()
    whitelist = tmp_path / "cache/repositories" / NAME / "whitelist"
    whitelist.write_bytes((Path(__file__).parent / f"data/{NAME}/extra/cvmfswhitelist.expired").read_bytes())
    with pytest.raises(Exception, match="expired on"):
        open_repository(settings_for("http://127.0.0.1:9", tmp_path / "cache"))


def test_mounts_share_a_cache_at_the_same_time(web: Web, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with mounted(web.url, tmp_path / "m1", cache), mounted(web.url, tmp_path / "m2", cache):
        first = (tmp_path / "m1/big/zeros-200k").read_bytes()
        asked = len(web.requests)
        assert (tmp_path / "m2/big/zeros-200k").read_bytes() == first
        assert len(web.requests) == asked


def test_the_command_says_in_one_line_why_the_cache_cannot_be_used(web: Web, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c/precious").write_text("x")
    done = command("ls", NAME, *words_for(web.url, tmp_path / "c"))
    assert done.returncode != 0
    assert done.stderr.count(b"\n") == 1
    assert b"holds files that are not of this cache" in done.stderr
