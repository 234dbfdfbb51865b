"""Figures of the CernVM-FS reader, over nginx on loopback.

    python bench/cvmfs_figures.py [--big MB] [--work DIR] [--rounds N]

Publishes a repository of 1,700 entries and 12.7 MB and one with a chunked file of --big MB (default 1024), serves
both with nginx, mounts them by the command, and prints the median of the rounds as a table.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "cvmfs"))

from cvmfs_publisher import Item, Publisher, directory, file, link

PORT = 18480
CHUNK = 8 << 20
NGINX = """daemon on; pid {work}/nginx.pid; error_log {work}/nginx.log; worker_processes 2; events {{}}
http {{ access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000;
client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3;
uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
server {{ listen 127.0.0.1:{port}; root {work}; }} }}
"""


def small_tree() -> dict[str, Item]:
    """1,700 entries with 12.7 MB in files of mixed sizes, half of it compressible, with nested catalogs."""
    source = random.Random(1)
    tree: dict[str, Item] = {}
    folders = [f"/p{number // 10}/v{number % 10}" for number in range(100)]
    for number in range(10):
        tree[f"/p{number}"] = directory(nested=True)
    for folder in folders:
        tree[folder] = directory()
    files = 1450
    for number in range(files):
        size = int(12_700_000 / files * source.uniform(0.1, 1.9))
        half = source.randbytes(size // 2)
        tree[f"{folders[number % 100]}/f{number}"] = file(half + b"text " * ((size - len(half)) // 5))
    while len(tree) < 1699:
        tree[f"{folders[len(tree) % 100]}/l{len(tree)}"] = link(b"f1")
    return tree


def big_file(megabytes: int) -> Item:
    """A file in chunks of 8 MB, of which a third compresses away."""
    source = random.Random(2)
    piece = b"".join(source.randbytes(2 << 20) + bytes(1 << 20) for _ in range(3))[:CHUNK]
    data = b"".join(number.to_bytes(8) + piece[8:] for number in range(megabytes * (1 << 20) // CHUNK))
    return file(data, chunks=(CHUNK,) * (len(data) // CHUNK), whole=False)


class Mount:
    """A mount by the command, timed until it returns."""

    def __init__(self, work: Path, publisher: Publisher, cache: Path) -> None:
        self.where = work / "mnt"
        self.where.mkdir(exist_ok=True)
        url = f"http://127.0.0.1:{PORT}/{publisher.root.name}"
        words = ["--server", url, "--key", str(publisher.key_file), "--cache", str(cache), "--proxy", "DIRECT"]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cvmfs", "mount", publisher.name, str(self.where), *words], check=True)
        self.seconds = time.perf_counter() - started
        self.process = int(os.getxattr(self.where, "user.pid"))

    def peak(self) -> float:
        """Highest resident memory so far, MB."""
        lines = Path(f"/proc/{self.process}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    def end(self) -> None:
        subprocess.run(["fusermount3", "-u", str(self.where)], check=True)
        while Path(f"/proc/{self.process}/fd/0").exists():
            time.sleep(0.01)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def walk(top: Path) -> None:
    """Everything a payload may look at: attributes, link targets, all content; without the cost of pathlib."""
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = f"{folder}/{name}"
            if os.path.islink(path):
                os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as stream:
                    stream.read()


def read_all(path: Path) -> None:
    with path.open("rb", buffering=0) as stream:
        while stream.read(1 << 20):
            pass


def readers(path: Path, count: int) -> Callable[[], None]:
    """`count` readers in parallel, each its own part of the file."""

    def part(number: int) -> None:
        fd = os.open(path, os.O_RDONLY)
        size = os.fstat(fd).st_size // count
        for at in range(number * size, (number + 1) * size, 1 << 20):
            os.pread(fd, 1 << 20, at)
        os.close(fd)

    def run() -> None:
        threads = [threading.Thread(target=part, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run


def small_figures(work: Path, publisher: Publisher, rounds: int) -> list[tuple[str, str]]:
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        cache = work / f"cache-small-{number}"
        mount = Mount(work, publisher, cache)
        found.setdefault("mount, empty cache", []).append(mount.seconds)
        found.setdefault("cold walk with all content", []).append(timed(functools.partial(walk, mount.where)))
        found.setdefault("warm walk with all content", []).append(timed(functools.partial(walk, mount.where)))
        found.setdefault("memory after it (MB)", []).append(mount.peak())
        mount.end()
        mount = Mount(work, publisher, cache)
        found.setdefault("mount, full cache", []).append(mount.seconds)
        found.setdefault("walk after remount from the cache", []).append(timed(functools.partial(walk, mount.where)))
        mount.end()
        shutil.rmtree(cache)
    return [(name, f"{statistics.median(values):8.2f}  (worst {max(values):.2f})") for name, values in found.items()]


def big_figures(work: Path, publisher: Publisher, megabytes: int) -> list[tuple[str, str]]:
    found = []
    for count in (1, 4):
        cache = work / f"cache-big-{count}"
        mount = Mount(work, publisher, cache)
        big = mount.where / "big"
        for state in ("cold", "warm, kernel"):
            seconds = timed(readers(big, count))
            found.append((f"{count} readers, {state}", f"{seconds:8.2f} s  {megabytes / seconds:6.0f} MB/s"))
        found.append((f"{count} readers, memory (MB)", f"{mount.peak():8.2f}"))
        mount.end()
        mount = Mount(work, publisher, cache)
        seconds = timed(readers(big, count))
        found.append((f"{count} readers, from the cache on disk", f"{seconds:8.2f} s  {megabytes / seconds:6.0f} MB/s"))
        mount.end()
        shutil.rmtree(cache)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--big", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        work.chmod(0o755)
        small, big = Publisher(work / "small", "small.example.org"), Publisher(work / "large", "big.example.org")
        small.publish(small_tree())
        if options.big:
            big.publish({"/big": big_file(options.big)})
        (work / "nginx.conf").write_text(NGINX.format(work=work, port=PORT))
        subprocess.run(["nginx", "-c", str(work / "nginx.conf")], check=True)
        try:
            rows = small_figures(work, small, options.rounds)
            rows += big_figures(work, big, options.big) if options.big else []
        finally:
            subprocess.run(["nginx", "-c", str(work / "nginx.conf"), "-s", "stop"], check=True)
            subprocess.run(["fusermount3", "-u", "-z", "-q", str(work / "mnt")], check=False)
    for name, value in rows:
        print(f"{name:40} {value}")


if __name__ == "__main__":
    main()
