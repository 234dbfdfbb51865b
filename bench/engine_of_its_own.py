"""Engines of a bench's own, in a temporary directory: a busybox image, a private Docker, a Podman store."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from images.archive import ImageConfig, write_oci_archive
from runtimes.contract import Image, ImageKind, Limits, Network, Settings, Spec
from runtimes.rlimits import peer


def busybox(directory: Path) -> Image:
    root = directory / "root-of-image"
    (root / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    (root / "bin/sleep").symlink_to("busybox")
    write_oci_archive(root, directory / "image.tar", ImageConfig())
    return Image(kind=ImageKind.OCI_ARCHIVE, location=str(directory / "image.tar"))


def spec(name: str, image: Image) -> Spec:
    return Spec(
        id=name,
        owner="run:bench",
        space="bench.invalid",
        machinetype="bench",
        image=image,
        entrypoint=("/bin/sleep", "1000"),
        limits=Limits(processors=1, memory_bytes=64 * 2**20, pids=100),
        network=Network.NONE,
    )


@contextmanager
def docker() -> Iterator[Settings]:
    """A daemon in namespaces of its own, gone at the end."""
    directory = Path(tempfile.mkdtemp(prefix="lmd-b."))
    path = directory / "docker.sock"
    places = {"data-root": directory / "data", "exec-root": directory / "exec", "pidfile": directory / "pid"}
    (directory / "daemon.json").write_text("{}")
    words = ["unshare", "--mount", "--net", shutil.which("dockerd") or "/usr/sbin/dockerd", f"--host=unix://{path}"]
    words += [f"--{name}={place}" for name, place in places.items()]
    words += [f"--config-file={directory}/daemon.json", "--shutdown-timeout=1", "--cgroup-parent=/lmd-bench"]
    with (directory / "log").open("wb") as log:
        daemon = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        while not _listens(path):
            assert daemon.poll() is None, (directory / "log").read_text()[-500:]
            time.sleep(0.05)
        yield Settings(
            state_dir=directory, run_dir=directory / "run", cache_dir=directory, options={"socket": str(path)}
        )
    finally:
        daemon.terminate()
        daemon.wait(60)
        for group in Path("/sys/fs/cgroup").glob("*/lmd-bench"):
            group.rmdir()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def podman() -> Iterator[Settings]:
    """A service with a store of its own, gone at the end."""
    directory = Path(tempfile.mkdtemp(prefix="lmd-b."))
    store = {name: str(directory / name) for name in ("root", "runroot", "tmpdir", "network_config_dir")}
    try:
        yield Settings(state_dir=directory, run_dir=directory / "run", cache_dir=directory, options=store)
    finally:
        for path in (directory / "run").glob("*.sock"):
            if pid := peer(path):
                subprocess.run(["kill", "-KILL", str(pid)], check=False)
        subprocess.run(["umount", "-q", directory / "root/overlay"], check=False)
        shutil.rmtree(directory, ignore_errors=True)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True
