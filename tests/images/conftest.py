"""What the tests of images share: recipes, and a Podman command with storage of its own, gone when they are over."""

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests of this folder share

from images.recipe import Recipe, find_recipe, load

EPOCH = 1_700_000_000
Run = Callable[..., str]
_CONF = """
[containers]
default_ulimits = ["nofile={nofile}", "nproc={nproc}"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "{runtime}"
[network]
network_backend = "netavark"
"""


@pytest.fixture
def epoch() -> int:
    """A time before any file of this checkout was written."""
    return EPOCH


@pytest.fixture(scope="session")
def busybox() -> Recipe:
    return find_recipe("busybox")


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """Write a `recipe.toml` into a directory of the name and load it."""

    def write(text: str, name: str = "mine") -> Recipe:
        folder = tmp_path / "recipes" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.toml").write_text(text)
        return load(folder)

    return write


@pytest.fixture
def hanging_mirror() -> Iterator[socket.socket]:
    """A mirror that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def _limit(kind: int) -> str:
    """Below what any host allows; the default of Podman 4 is above what some do, and then nothing starts."""
    _, hard = resource.getrlimit(kind)
    value = 16384 if hard == resource.RLIM_INFINITY else min(hard, 16384)
    return f"{value}:{value}"


@pytest.fixture(scope="session")
def podman_command() -> Iterator[Run]:
    """Runs `podman ARGUMENT…` beside the host's own: other storage, other settings; returns what it printed."""
    assert shutil.which("podman"), "podman is not installed: apt-get install podman runc netavark"
    folder = Path(tempfile.mkdtemp(prefix="lmd-i."))
    conf = folder / "containers.conf"
    runtime = next(name for name in ("runc", "crun") if shutil.which(name))
    limits = {"nofile": _limit(resource.RLIMIT_NOFILE), "nproc": _limit(resource.RLIMIT_NPROC)}
    conf.write_text(_CONF.format(runtime=runtime, **limits))
    place = [f"--root={folder}/root", f"--runroot={folder}/run", f"--tmpdir={folder}/tmp"]

    def run(*arguments: str | Path, cwd: Path | None = None) -> str:
        done = subprocess.run(
            ["podman", *place, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=os.environ | {"CONTAINERS_CONF": str(conf)},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"podman {arguments[0]}: {done.stderr}"
        return done.stdout

    try:
        yield run
    finally:
        _clear(run, folder)


def _clear(run: Run, folder: Path) -> None:
    try:
        run("rm", "--all", "--force", "--time=0")
    finally:
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if line.split()[4].startswith(f"{folder}/"):
                subprocess.run(["umount", "-l", line.split()[4]], check=False)
        if os.geteuid():
            subprocess.run(["podman", "unshare", "rm", "-rf", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)
