"""A Docker of the tests' own: daemon, images, containers and network in namespaces and directories that go with it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from runtimes import cgroups
from runtimes.contract import Image, ImageKind, Settings
from runtimes.docker.service import find

DAEMON = shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") or ""
"""Debian's, before anything that somebody has put beside it."""
SLOWER = float(os.environ.get("LMD_TESTS_SLOWER", "1"))
REMAPPED_FIRST = 1_400_000_000
CLONE_NEWNET = 0x40000000
T = TypeVar("T")


class PrivateDocker:
    """A daemon whole in mount and network namespaces of its own; it ends itself when the tests are killed.

    `remapped`: machines' user ids start at `REMAPPED_FIRST`, in private copies of /etc/subuid and /etc/subgid.
    """

    def __init__(self, directory: Path, *, remapped: bool = False, data: Path | None = None) -> None:
        assert DAEMON, "docker is not installed: apt-get install docker.io"
        directory.mkdir(mode=0o711)
        self.directory, self.socket = directory, directory / "docker.sock"
        self.first_uid = REMAPPED_FIRST if remapped else 0
        self.group = f"lmd-t-{os.getpid()}-{directory.name}"
        (directory / "daemon.json").write_text("{}\n")
        (directory / "sub").write_text(f"nobody:{REMAPPED_FIRST}:65536\nnogroup:{REMAPPED_FIRST}:65536\n")
        places = {"data-root": data or directory / "data", "exec-root": directory / "exec"}
        self._command = [
            *("setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--net", "--propagation=slave", "sh", "-ec"),
            'mount --bind "$0" /etc/subuid; mount --bind "$0" /etc/subgid; ip link set lo up; exec "$@"',
            *(str(directory / "sub"), DAEMON, f"--host=unix://{self.socket}", f"--pidfile={directory / 'pid'}"),
            *(f"--{name}={path}" for name, path in places.items()),
            *(f"--config-file={directory / 'daemon.json'}", "--shutdown-timeout=1"),
            *("--exec-opt=native.cgroupdriver=cgroupfs", f"--cgroup-parent=/{self.group}"),
            *(["--userns-remap=nobody:nogroup"] if remapped else []),
        ]
        self.shared = directory / "shared"  # what is mounted below it later, the daemon sees, too
        self.shared.mkdir()
        subprocess.run(["mount", "--bind", self.shared, self.shared], check=True)
        subprocess.run(["mount", "--make-rshared", self.shared], check=True)
        self.options = {"socket": str(self.socket)}
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the daemon, at first or again; it answers when this returns."""
        log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        last = time.monotonic() + 30 * SLOWER
        while not self._answers():
            said = (self.directory / "log").read_text(errors="replace")[-600:]
            assert self.process.poll() is None and time.monotonic() < last, f"dockerd did not start: {said}"
            time.sleep(0.02)
        return self.process

    def stop(self) -> None:
        """Ask the daemon to end, which ends its containers, and wait."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20 * SLOWER)
        self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        """End the daemon without a word; its containers stay, as files and as processes."""
        self.process.kill()
        self.process.wait()
        for name in ("pid", "exec/containerd/containerd.pid"):  # its orphan may be a zombie for long
            (self.directory / name).unlink(missing_ok=True)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in connection.recv(100)
            except OSError:
                return False

    @property
    def settings(self) -> Settings:
        return Settings(
            state_dir=self.directory / "state",
            run_dir=self.directory / "run",
            cache_dir=self.directory / "cache",
            options=self.options,
        )

    def ask(self, method: str, path: str, **request: object) -> object:
        """The body of an answer of the daemon."""

        async def asking() -> object:
            engine = await find(self.options, workers=1)
            try:
                answer = await engine.call(method, path, **request)  # type: ignore[arg-type]
                assert answer.status < 400, answer.message
                return answer.body
            finally:
                engine.close()

        return _run(asking())

    def import_image(self, root: Path, name: str) -> Image:
        """Make an image of a directory; returned as a reference that is never pulled."""
        packed = self.directory / "image.tar"
        with tarfile.open(packed, "w") as archive:
            archive.add(root, arcname=".")
        repository, _, tag = name.rpartition(":")

        async def load() -> None:
            engine = await find(self.options, workers=1)
            try:
                path = f"/images/create?fromSrc=-&repo={repository}&tag={tag}"
                answer = await engine.upload(path, lambda: packed.open("rb"), seconds=60 * SLOWER)
                assert answer.status == 200, answer.message
            finally:
                engine.close()

        _run(load())
        packed.unlink()
        return Image(kind=ImageKind.REFERENCE, location=name, pull="never")

    def load(self, path: Path) -> None:
        """Load a docker-archive as it is, names and all."""

        async def loading() -> None:
            engine = await find(self.options, workers=1)
            try:
                answer = await engine.upload("/images/load", lambda: path.open("rb"), seconds=60 * SLOWER)
                assert answer.status == 200 and "errorDetail" not in str(answer.body), answer.body
            finally:
                engine.close()

        _run(loading())

    def listener(self) -> socket.socket:
        """A listening TCP socket at the daemon's own 127.0.0.1."""
        made: list[socket.socket] = []

        def work() -> None:
            with Path(f"/proc/{self.process.pid}/ns/net").open() as namespace:
                assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) == 0
            made.append(socket.create_server(("127.0.0.1", 0)))

        thread = threading.Thread(target=work)  # only this thread enters the daemon's network
        thread.start()
        thread.join()
        return made[0]

    def close(self) -> list[str]:
        """End all and remove all; returns the names of containers that tests have left."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGCONT)
        try:
            return self._clear() if self.process.poll() is None else []
        finally:  # also of a daemon that does not answer
            self._remove()

    def _remove(self) -> None:
        self.stop()
        for pid in _of(self.directory):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if line.split()[4].startswith(f"{self.directory}/"):
                subprocess.run(["umount", "-l", line.split()[4]], check=False)
        self._remove_groups()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _clear(self) -> list[str]:
        listed = self.ask("GET", "/containers/json", params={"all": True})
        assert isinstance(listed, list)
        for container in listed:
            self.ask("DELETE", f"/containers/{container['Id']}", params={"force": True, "v": True})
        return [container["Names"][0] for container in listed]

    def _remove_groups(self) -> None:
        where, last = cgroups.mounts(), time.monotonic() + 5
        groups = [root / self.group for root in {*where.v1.values(), *([where.v2] if where.v2 else [])}]
        while (left := [group for group in groups if group.exists()]) and time.monotonic() < last:
            for path in (one for group in left for one in [*sorted(group.rglob("*/"), reverse=True), group]):
                with suppress(OSError):  # the kernel may still be at the end of a process
                    path.rmdir()
            time.sleep(0.02)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """In a loop of its own, wherever the caller is."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _of(directory: Path) -> list[int]:
    """Processes that a daemon with this directory has left behind."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if os.fsencode(directory) + b"/" in path.read_bytes():
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != os.getpid()]
