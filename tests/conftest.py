"""Engines of the tests' own: Podman with storage in a temporary directory, gone when the tests are over."""

import asyncio
import json
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "engines"))  # for what the tests of several folders share

from private_docker import PrivateDocker

from images.builder import chosen_epoch
from images.cache import default_directory, ensure
from images.kit import Kit, kit_beside
from images.recipe import find_recipe
from runtimes import cgroups
from runtimes.contract import Image, ImageKind, Settings
from runtimes.podman import Podman

SLOWER = float(os.environ.get("LMD_TESTS_SLOWER", "1"))
"""How many times longer than on plain hardware the tests wait: tests/in_vm.py sets it for emulation."""


@pytest.fixture(scope="session")
def slower() -> float:
    """By how much to stretch what is waited for here."""
    return SLOWER


def _busybox_root(root: Path) -> Path:
    """A root file system of busybox alone, with the files that a root directory used in place must hold."""
    program = shutil.which("busybox")
    assert program, "busybox is not installed: apt-get install busybox-static"
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "run", "var/tmp", "root", "mnt"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(program, root / "bin/busybox")
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in set(listed) - {"busybox"}:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    for name in ("hosts", "hostname", "resolv.conf"):
        (root / "etc" / name).touch()
    (root / "etc/mtab").symlink_to("/proc/mounts")
    return root


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A directory whose path is short enough for Unix sockets below it."""
    path = Path(tempfile.mkdtemp(prefix="lmd-t."))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def busybox_root(short_tmp: Path) -> Path:
    return _busybox_root(short_tmp / "busybox")


class OrdinaryUser:
    """A user that this host does not know, with subordinate ids of its own, in mount and process namespaces of its own.

    The host's files stay as they are: the user stands in private copies of /etc/passwd, /etc/subuid and /etc/subgid.
    All its processes end with `close`. The checkout and its Python are bound to where any user can read them.
    """

    FIRST_UID = 60_100
    FIRST_SUBORDINATE = 1_500_000_000

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o711)
        self.directory = directory
        self.home, self.python = directory / "home", directory / "venv" / Path(sys.executable).relative_to(sys.prefix)
        candidates = range(self.FIRST_UID, self.FIRST_UID + 100)
        self.uid, self._claim = next(claim for uid in candidates if (claim := _claimed(uid)))
        for name in ("home", "run"):
            (directory / name).mkdir(mode=0o700)
            os.chown(directory / name, self.uid, self.uid)
        self.environment = {
            "HOME": str(self.home),
            "USER": "lmd-test",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "PYTHONPATH": str(directory / "checkout"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NO_COLOR": "1",
        }
        script = self._mounts() + "echo ready; while sleep 60; do :; done"
        flags = ["--mount", "--propagation=slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._holder = subprocess.Popen(["unshare", *flags, "sh", "-ec", script], stdout=subprocess.PIPE)
        assert self._holder.stdout
        assert self._holder.stdout.readline() == b"ready\n", "the user's namespaces could not be made"

    def _mounts(self) -> str:
        """A script that binds what is the user's alone. The paths are the tests' own and need no quotes."""
        subordinate = f"lmd-test:{self.FIRST_SUBORDINATE}:65536\n"
        bound = {
            "passwd": Path("/etc/passwd").read_text() + f"lmd-test:x:{self.uid}:{self.uid}::{self.home}:/bin/sh\n",
            "subuid": subordinate,
            "subgid": subordinate,
        }
        lines = []
        for name, text in bound.items():
            (self.directory / name).write_text(text)
            lines.append(f"mount --bind {self.directory}/{name} /etc/{name}")
        for name, source in (("checkout", Path(__file__).parents[1]), ("venv", sys.prefix)):
            (self.directory / name).mkdir()
            lines.append(f"mount --bind '{source}' {self.directory}/{name}")
        if cgroups.mounts().v1 and (unified := cgroups.mounts().v2):
            lines.append(f"umount {unified}")  # crun refuses hybrid control groups in use on both sides
        return "\n".join([*lines, ""])

    def command(self, *words: str, through: Sequence[str] = ()) -> list[str]:
        """The argument list by which root runs `words` as this user; `through`: a command of root's that runs them."""
        of = f"/proc/{self._holder.pid}/ns"
        enter = ["nsenter", f"--mount={of}/mnt", f"--pid={of}/pid_for_children", "--", *through]
        become = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]
        return [*enter, *become, "env", "-i", *(f"{k}={v}" for k, v in self.environment.items()), *words]

    def run(
        self, *words: str, seconds: float = 50, stdin: str = "", through: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run `words` in the user's home."""
        return subprocess.run(
            self.command("sh", "-c", 'cd && exec "$@"', "sh", *words, through=through),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )

    @contextmanager
    def suite(self, file: str, image: Path) -> Iterator[Callable[[str], dict[str, str]]]:
        """Run a file of the tests as this user's program, which tells one line of JSON a check of its suite.

        Gives what asks for a check by name and waits until it has been made.
        """
        program = self.directory / "checkout" / Path(file).relative_to(Path(__file__).parents[1])
        command = self.command(str(self.python), str(program), str(image))
        results: dict[str, dict[str, str]] = {}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:

            def ask(name: str) -> dict[str, str]:
                while name not in results:
                    line = process.stdout.readline() if process.stdout else ""
                    assert line, f"the suite ended with code {process.wait()} before {name}"
                    result = json.loads(line)
                    results[result["check"]] = result
                return results[name]

            try:
                yield ask
            finally:
                process.kill()

    def close(self) -> None:
        """End all that this user has started, and remove its files."""
        self._holder.kill()
        self._holder.communicate()
        shutil.rmtree(self.directory)
        Path(f"/dev/shm/libpod_rootless_lock_{self.uid}").unlink(missing_ok=True)  # Podman's, of no use to anybody else
        self._claim.close()


def _claimed(uid: int) -> tuple[int, socket.socket] | None:
    """The id, and what holds it against other tests that run at the same time; None if somebody has it."""
    claim = socket.socket(socket.AF_UNIX)
    with suppress(OSError):
        claim.bind(f"\0lmd-test-user-{uid}")  # goes with this process, however that ends
        if not _known(uid):
            return uid, claim
    claim.close()
    return None


def _known(uid: int) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwuid(uid))
    return any(path.stat().st_uid == uid for path in Path("/proc").glob("[0-9]*") if path.exists())


@pytest.fixture(scope="session")
def ordinary_user(short_tmp: Path) -> Iterator[OrdinaryUser]:
    """A user without any right on this host but subordinate ids."""
    user = OrdinaryUser(short_tmp / "user")
    try:
        yield user
    finally:
        user.close()


class PrivatePodman:
    """A Podman whose images, containers and networks are the tests' alone."""

    def __init__(self, directory: Path, oci_runtime: str) -> None:
        assert shutil.which("podman"), "podman is not installed: apt-get install podman crun runc"
        assert shutil.which(oci_runtime), f"{oci_runtime} is not installed: apt-get install {oci_runtime}"
        self.directory = directory
        directory.mkdir(mode=0o711)
        self.options = {
            "oci_runtime": oci_runtime,
            "root": str(directory / "root"),
            "runroot": str(directory / "runroot"),
            "tmpdir": str(directory / "tmp"),
            "network_config_dir": str(directory / "networks"),
        }
        self._started: subprocess.Popen[bytes] | None = None
        if oci_runtime == "crun" and cgroups.mounts().v2_controllers and cgroups.mounts().v1:
            self._start_beside_unified()

    def _start_beside_unified(self) -> None:
        """crun refuses hybrid control groups in use on both sides: hide the unified one from it."""
        path = self.directory / "service.sock"
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in self.options.items() if name != "oci_runtime"]
        service = ["podman", "--runtime=crun", "--cgroup-manager=cgroupfs", "--events-backend=file", *flags]
        script = 'umount "$0" && exec "$@"'
        command = ["unshare", "--mount", "--propagation=slave", "sh", "-c", script, str(cgroups.mounts().v2)]
        self._started = subprocess.Popen([*command, *service, "system", "service", "--time=0", f"unix://{path}"])
        last = time.monotonic() + 20 * SLOWER
        while not path.exists():
            assert time.monotonic() < last, "podman's service did not start"
            time.sleep(0.05)
        self.options["socket"] = str(path)

    @property
    def settings(self) -> Settings:
        return Settings(
            state_dir=self.directory / "state",
            run_dir=self.directory / "run",
            cache_dir=self.directory / "cache",
            options=self.options,
        )

    def import_image(self, root: Path, name: str) -> Image:
        """Make an image of a directory; returned as a reference that is never pulled."""

        async def load() -> None:
            runtime = Podman(self.settings)
            try:
                await runtime.probe()
                packed = self.directory / "image.tar"
                with tarfile.open(packed, "w") as archive:
                    archive.add(root, arcname=".")
                engine = await runtime._ready()
                path = f"/images/import?reference={name}"
                answer = await engine.upload(path, lambda: packed.open("rb"), seconds=60 * SLOWER)
                assert answer.status == 200, answer.message
                packed.unlink()
            finally:
                await runtime.aclose()

        asyncio.run(load())
        return Image(kind=ImageKind.REFERENCE, location=name, pull="never")

    def close(self) -> list[str]:
        """End all and remove all; returns the names of containers that tests have left."""
        left = asyncio.run(self._clear())
        last = time.monotonic() + 10 * SLOWER
        while _cleaning(self.directory) and time.monotonic() < last:
            time.sleep(0.05)
        for path in [*self.directory.glob("run/*.sock"), *self.directory.glob("*.sock")]:
            if pid := _listener(path):
                os.kill(pid, signal.SIGKILL)
        if self._started:
            self._started.kill()
            self._started.wait()
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if line.split()[4].startswith(f"{self.directory}/"):
                subprocess.run(["umount", "-l", line.split()[4]], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)
        return left

    async def _clear(self) -> list[str]:
        runtime = Podman(self.settings)
        try:
            engine = await runtime._ready()
            listed = (await engine.call("GET", "/containers/json", params={"all": True})).body or []
            for container in listed:
                params = {"force": True, "timeout": 0, "v": True}
                await engine.call("DELETE", f"/containers/{container['Id']}", params=params)
            return [container["Names"][0] for container in listed]
        finally:
            await runtime.aclose()


def _cleaning(directory: Path) -> bool:
    """True while conmon, or the clean-up that it starts, is at work in a store: it would make it anew behind us."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(os.fsencode(directory) in word for word in words) and (b"conmon" in words[0] or b"cleanup" in words):
            return True
    return False


def _listener(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return 0
        return struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


class PrivateLibvirt:
    """A libvirt whose machines, sockets and logs are the tests' alone; see tests/engines/libvirt_daemon.py."""

    def __init__(self, directory: Path) -> None:
        for program in ("libvirtd", "virtlogd", "qemu-system-x86_64"):
            assert shutil.which(program, path="/usr/sbin:/usr/bin"), f"{program}: see packaging/debian-packages"
        self.directory = directory
        directory.mkdir(mode=0o711, exist_ok=True)
        script = Path(__file__).parent / "engines/libvirt_daemon.py"
        flags = ["--mount", "--propagation=slave", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._daemon = subprocess.Popen(
            ["unshare", *flags, sys.executable, str(script), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._said() == "ready", "libvirtd did not start"
        self.options = {
            "uri": f"qemu:///system?socket={directory}/run/libvirt-sock",
            "log_dir": str(directory / "log/qemu"),
            "acceleration": "emulated",
        }

    @property
    def settings(self) -> Settings:
        return Settings(
            state_dir=self.directory / "state",
            run_dir=self.directory / "lmd",
            cache_dir=self.directory / "images",
            options=self.options,
        )

    def tell(self, word: str) -> None:
        """Have libvirtd `end` or be `kill`ed, `start` again, `stop` in its tracks or `continue`."""
        assert self._daemon.stdin
        self._daemon.stdin.write(f"{word}\n")
        self._daemon.stdin.flush()
        assert self._said() == "done"

    def close(self) -> list[str]:
        """End all and remove all; returns the names of domains that tests have left."""
        done = subprocess.run(
            ["virsh", "--connect", self.options["uri"], "list", "--all", "--name"],
            capture_output=True,
            text=True,
            timeout=30,
        )
        left = done.stdout.split()
        for name in left:
            subprocess.run(
                ["virsh", "--connect", self.options["uri"], "destroy", name], capture_output=True, timeout=30
            )
        self._daemon.communicate(timeout=30)
        shutil.rmtree(self.directory, ignore_errors=True)
        return left

    def _said(self) -> str:
        assert self._daemon.stdout
        return self._daemon.stdout.readline().strip()


@pytest.fixture(scope="session")
def shared_tmp(short_tmp: Path) -> Iterator[Path]:
    """A directory that is a shared mount, as all is where systemd runs: engines with mount namespaces of their own that
    are started later see what is mounted below it."""
    path = short_tmp / "shared"
    path.mkdir()
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    subprocess.run(["mount", "--make-private", str(path)], check=True)
    subprocess.run(["mount", "--make-shared", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture(scope="session")
def libvirt_engine(short_tmp: Path, shared_tmp: Path) -> Iterator[PrivateLibvirt]:
    """A libvirt of the tests' own, which must be empty when they are over."""
    engine = PrivateLibvirt(short_tmp / "v")
    try:
        yield engine
    finally:
        left = engine.close()
    assert not left, f"tests left domains behind: {left}"


@pytest.fixture(scope="session")
def micro_kit() -> Kit:
    """The kernel and initramfs by which test machines boot, from the cache or built now."""
    epoch = chosen_epoch(os.environ, 1_795_000_000)
    built = ensure(default_directory(os.environ, os.geteuid()), find_recipe("micro"), epoch)
    kit = kit_beside(built.path)
    assert kit, f"{built.path} has no kernel and initramfs beside it"
    return kit


@pytest.fixture(scope="session")
def private_podman(short_tmp: Path) -> Callable[[str, str], AbstractContextManager[PrivatePodman]]:
    """Give a directory's name and an OCI runtime, get a Podman that must be empty when it is no longer needed."""

    @contextmanager
    def made(name: str, oci_runtime: str) -> Iterator[PrivatePodman]:
        engine = PrivatePodman(short_tmp / name, oci_runtime)
        try:
            yield engine
        finally:
            left = engine.close()
        assert not left, f"tests left containers behind: {left}"

    return made


@pytest.fixture(scope="session")
def podmans(private_podman) -> Iterator[Callable[[str], PrivatePodman]]:
    """One Podman an OCI runtime, started when first asked for and kept: tests of different modules alternate."""
    with ExitStack() as stack:
        yield cache(lambda name: stack.enter_context(private_podman(name, name)))


@pytest.fixture(scope="session", params=["crun", "runc"])
def podman(request: pytest.FixtureRequest, podmans: Callable[[str], PrivatePodman]) -> PrivatePodman:
    """Podman on each OCI runtime in turn."""
    return podmans(request.param)


@pytest.fixture(scope="session")
def podman_image(podman: PrivatePodman, busybox_root: Path) -> Image:
    return podman.import_image(busybox_root, "localhost/lmd-test/busybox:1")


@pytest.fixture(scope="session")
def private_docker(short_tmp: Path) -> Callable[..., AbstractContextManager[PrivateDocker]]:
    """Give a directory's name, get a Docker that must be empty when it is no longer needed."""

    @contextmanager
    def made(name: str, **how: Any) -> Iterator[PrivateDocker]:
        engine = PrivateDocker(short_tmp / name, **how)
        try:
            yield engine
        finally:
            left = engine.close()
        assert not left, f"tests left containers behind: {left}"

    return made


@pytest.fixture(scope="session")
def docker(private_docker) -> Iterator[PrivateDocker]:
    """Docker as it comes: the machine's root is the host's, without its capabilities."""
    with private_docker("docker") as engine:
        yield engine


@pytest.fixture(scope="session")
def remapped_docker(private_docker) -> Iterator[PrivateDocker]:
    """Docker whose daemon maps all user ids."""
    with private_docker("remapped", remapped=True) as engine:
        yield engine


@pytest.fixture(scope="session")
def docker_image(docker: PrivateDocker, busybox_root: Path) -> Image:
    return docker.import_image(busybox_root, "localhost/lmd-test/busybox:1")


@pytest.fixture(scope="session")
def remapped_image(remapped_docker: PrivateDocker, busybox_root: Path) -> Image:
    return remapped_docker.import_image(busybox_root, "localhost/lmd-test/busybox:1")
