"""Machines with repositories when something breaks under them: servers, disks, and what other payloads try."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cvmfs_publisher import Publisher, directory, file
from cvmfs_served import Web
from lm_left import clear
from lm_repositories import NAME

from cvmfs.hosting import shared

WHERE = ["factory", "machine"]
FILES, SIZE = 12, 400_000
PATIENCE = 30
"""Seconds that a payload waits for one read at most, on a busy host; the reader's own time-outs are of one second."""


def content(number: int) -> bytes:
    """Does not compress."""
    return random.Random(number).randbytes(SIZE)


def sums(numbers: range) -> list[str]:
    return [hashlib.md5(content(number)).hexdigest() for number in numbers]


@pytest.fixture(scope="module")
def published(short_tmp: Path) -> Publisher:
    made = Publisher(Path(tempfile.mkdtemp(prefix="faults.", dir=short_tmp)) / "root", NAME)
    made.publish({"/f": directory(), **{f"/f/{number}": file(content(number)) for number in range(FILES)}})
    return made


@pytest.fixture
def web(published: Publisher) -> Iterator[Web]:
    made = Web(published.root)
    yield made
    made.answer = None
    made.stop()


@pytest.fixture
def site(lm, web: Web, published: Publisher) -> Iterator[object]:
    """`lm` with a cache of its own for repositories, so that nothing is read already."""
    images, cache = Path(lm.environment["LMD_CACHE_DIR"]), lm.home / "cache"
    cache.mkdir()
    (images / "images").mkdir(parents=True, exist_ok=True)
    (cache / "images").symlink_to(images / "images")
    lm.environment["LMD_CACHE_DIR"] = str(cache)
    configure(lm, web.url, published.key_file)
    yield lm
    clear(lm.home)


def configure(lm, url: str, key: Path, more: str = "") -> None:
    settings = 'settings = { CVMFS_TIMEOUT = "1", CVMFS_TIMEOUT_DIRECT = "1" }'
    with (lm.home / "config/lmd.toml").open("a") as out:
        out.write(f'\n[cvmfs]\nprovider = "embedded"\nserver_url = ["{url}"]\npublic_key = ["{key}"]\n')
        out.write(f"idle_seconds = 1\n{settings}\n{more}")


def type_of(host, script: str, where: str, name: str = "reads", **keys: object) -> str:
    keys = {"cvmfs_repositories": [NAME], "cvmfs": {"where": where}, "mb_per_processor": 256} | keys
    return host.machinetype(f"{name}-{where}", f"cd /cvmfs/{NAME}/f || exit 1\n{script}", **keys)


def waits(word: str) -> str:
    """A payload's line that says a word and goes on when the test has taken note of it."""
    return f"echo {word}; until test -e $JOBOUTPUTS/{word}; do sleep 0.05; done\n"


def go(host, word: str) -> None:
    (machine,) = host.machines()
    (host.home / "state/machines" / machine["id"] / "joboutputs" / word).touch()


GONE = f"""
md5sum <0
{waits("read")}
timeout {PATIENCE} cat 1 >/dev/null; echo hanging $?
md5sum <0
{waits("hung")}
md5sum <1
{waits("came-back")}
timeout {PATIENCE} cat 2 >/dev/null; echo gone $?
md5sum <0
md5sum <1
echo 200 Done >$JOBOUTPUTS/shutdown_message
"""


@pytest.mark.parametrize("where", WHERE)
def test_a_server_that_hangs_or_is_gone_fails_reads_soon_and_what_is_cached_stays(site, web: Web, where: str) -> None:
    released = threading.Event()

    def hang(*_: object) -> bool:
        return released.wait(120)

    running = site.start("run", type_of(site, GONE, where))
    try:
        running.until("read")
        web.answer = hang
        go(site, "read")
        running.until("hung", 60)
        released.set()
        web.answer = None
        go(site, "hung")
        running.until("came-back", 60)
        web.answer = refuse
        go(site, "came-back")
        assert running.wait(60) == 0, running.said()
    finally:
        released.set()
        running.end()
    (first, second) = sums(range(2))
    said = [line.removesuffix("  -") for line in running.out.read_text().splitlines()]
    errors = [line for line in said if line.startswith("cat: ")]
    assert len(errors) == 2
    assert all("Input/output error" in line or "I/O error" in line for line in errors), errors
    assert [line for line in said if line not in errors] == [
        first,
        "read",
        "hanging 1",
        first,
        "hung",
        second,
        "came-back",
        "gone 1",
        first,
        second,
    ]


def refuse(handler, _: Path) -> bool:
    """As of a server that has been killed."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)
    return True


@pytest.fixture
def small_disk(site) -> Iterator[Path]:
    """The reader's cache on a disk that one file fills."""
    where = site.home / "cache/cvmfs"
    where.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE * 3 // 2},mode=0700", "none", str(where)], check=True)
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


@pytest.mark.parametrize("where", WHERE)
def test_a_full_disk_below_the_cache_spoils_no_read(site, small_disk: Path, where: str) -> None:
    done = site("run", type_of(site, f"for i in $(seq 0 {FILES - 1}); do md5sum <$i; done", where))
    assert [line.split()[0] for line in done.stdout.splitlines()] == sums(range(FILES)), done.stderr


HOSTILE = f"""
exec 2>/dev/null
cat * >/dev/null; echo ready
rm -rf /cvmfs/* ; rm -f 0; echo >0; echo bad >/cvmfs/{NAME}/f/1; chmod 777 /cvmfs/{NAME} 2; mknod x p
mount -o remount,rw /cvmfs/{NAME}; mount -o bind,remount,rw /cvmfs/{NAME}; umount -l /cvmfs/{NAME}
unshare -Urm sh -c 'umount -l /cvmfs/{NAME}; mount -o remount,rw /cvmfs/{NAME}; echo bad >/cvmfs/{NAME}/f/3'
mv /cvmfs/{NAME} /cvmfs/other; ln -s /etc /cvmfs/evil.example.org; cat /dev/zero >/cvmfs/fill
for place in / /proc/[0-9]*/root /proc/[0-9]*/cwd /proc/[0-9]*/fd; do
    find $place/ -maxdepth 4 -name 'cvmfs*' -path '*cache*' -exec echo cache {{}} ';' -exec rm -rf {{}} +
done
echo >/cvmfs/{NAME}/f/4; truncate -s 0 4; dd if=/dev/zero of=5 conv=notrunc bs=1 count=10
echo done; md5sum <5
{waits("tried")}
"""


@pytest.mark.parametrize("where", WHERE)
def test_a_hostile_payload_changes_nothing_that_another_machine_reads(site, where: str) -> None:
    reads = f"for i in $(seq 0 {FILES - 1}); do md5sum <$i; done"
    running = site.start("run", type_of(site, HOSTILE, where, "hostile", user="0:0"))
    try:
        running.until("ready")
        before = cached(site.home / "cache/cvmfs")
        running.until("tried", 60)
        done = site("run", type_of(site, reads, where))
        assert [line.split()[0] for line in done.stdout.splitlines()] == sums(range(FILES)), done.stderr
        assert before.items() <= cached(site.home / "cache/cvmfs").items()
        go(site, "tried")
        assert running.wait() == 0, running.said()
    finally:
        running.end()
    said = running.out.read_text().splitlines()
    assert said == ["ready", "done", f"{sums(range(5, 6))[0]}  -", "tried"]


def cached(folder: Path) -> dict[str, str]:
    """The content of each object, by its name."""
    files = [path for path in folder.rglob("*") if path.is_file() and len(path.name) >= 30]
    assert files
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("where", WHERE)
def test_a_quota_smaller_than_what_machines_read_holds_and_spoils_no_read(site, where: str) -> None:
    text = (site.home / "config/lmd.toml").read_text()
    (site.home / "config/lmd.toml").write_text(text.replace("idle_seconds", "quota_mb = 1\nidle_seconds"))
    done = site("run", type_of(site, f"for i in $(seq 0 {FILES - 1}); do md5sum <$i; done", where))
    assert [line.split()[0] for line in done.stdout.splitlines()] == sums(range(FILES)), done.stderr
    used = int(json.loads(site("cvmfs", "cache", "--json").stdout)["bytes"])
    assert used < 2_000_000


def test_the_whole_of_a_cvmfs_that_is_not_passed_on_is_told_of(site) -> None:
    done = site("run", site.machinetype("whole", "ls /cvmfs", cvmfs_repositories=["*"]))
    assert done.returncode == 0, done.stderr
    told = "sees of /cvmfs only what was mounted there when it started" in done.stderr.replace("\n", " ")
    assert told is not shared(site.home / "run/cvmfs/mnt"), done.stderr


def test_a_repository_that_does_not_exist_and_one_of_another_server_are_told_apart(site, web: Web) -> None:
    """`@fqrn@` in the server's URL: the manifest of what is not there is not found."""
    text = (site.home / "config/lmd.toml").read_text()
    (site.home / "config/lmd.toml").write_text(text.replace(web.url, f"{web.url}/@fqrn@"))
    for where in WHERE:
        done = site("run", type_of(site, "true", where, cvmfs_repositories=["none.example.org"]))
        assert done.returncode != 0
        assert "CernVM-FS repository none.example.org: " in done.stderr
        assert "404" in done.stderr, done.stderr
        assert site.machines() == []
