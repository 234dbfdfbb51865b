"""A factory in a network namespace of the test's own, on which `lm run` makes the network."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from network_namespace import Namespace

from lmd.metadata import launch

LM = [sys.executable, "-c", "from lmd.cli.main import main; main()"]


class Host:
    """A host whose network is the test's; `lm` there has directories of its own and an engine of the tests'."""

    def __init__(self, home: Path, engine: str, options: dict[str, str]) -> None:
        self.home, self.namespace, self.run_dir = home, Namespace(), home / "run"
        home.mkdir(mode=0o711)
        (home / "config").mkdir()
        (home / "work").mkdir()
        lines = [f"{key} = {json.dumps(value)}" for key, value in options.items()]
        network = '[network]\nlibvirt = "no"\nservices = ["tcp 3128"]'
        (home / "config/lmd.toml").write_text("\n".join([f"[runtimes.{engine}]", *lines, network, ""]))
        names = {"LMD_CONFIG_DIR": "config", "LMD_STATE_DIR": "state", "LMD_RUN_DIR": "run"}
        self.environment = os.environ | {name: str(home / part) for name, part in names.items()} | {"NO_COLOR": "1"}
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *words: str, seconds: float = 50) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.namespace.command(*words),
            cwd=self.home / "work",
            env=self.environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )

    def lm(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(*LM, *words)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        command = self.namespace.command(*LM, *words)
        return subprocess.Popen(
            command, cwd=self.home / "work", env=self.environment, stdout=-1, stderr=subprocess.STDOUT, text=True
        )

    def machinetype(self, name: str, script: str, **keys: object) -> str:
        work = self.home / "work"
        (work / f"{name}.sh").write_text(f"#!/bin/sh\n{script}\n")
        plain = {"root_image": "lmd:busybox", "user_data": f"{name}.sh", "mb_per_processor": 64, "network": "lmd"}
        lines = [f"{key} = {json.dumps(value)}" for key, value in (plain | keys).items()]
        (work / f"{name}.toml").write_text("\n".join([f"[machinetypes.{name}]", *lines, ""]))
        return f"{name}.toml"

    def server(self) -> int:
        """The pid of the metadata server."""
        return int((self.run_dir / "metadata.lock").read_text())

    def close(self) -> None:
        if launch.serving(self.run_dir):
            with suppress(OSError, ValueError):
                os.kill(self.server(), signal.SIGTERM)
            last = time.monotonic() + 10
            while launch.serving(self.run_dir):
                assert time.monotonic() < last, "the metadata server does not end"
                time.sleep(0.05)
        self.namespace.close()


REMOVE = """
import os, sys
from pathlib import Path
from lmd.network import factory_network
run = Path(os.environ["LMD_RUN_DIR"])
try:
    os.kill(int((run / "metadata.lock").read_text()), 15)
except (OSError, ValueError):
    pass
factory_network.remove(run, factory_network.Settings(libvirt="yes"))
"""


class LibvirtHost:
    """`lm` beside the tests' libvirt, in all of its namespaces, with directories of its own."""

    def __init__(self, engine: object, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o711)
        (home / "config").mkdir()
        (home / "config/lmd.toml").write_text(
            f'[runtimes.kvm]\nlog_dir = "{engine.directory}/log/qemu"\nacceleration = "emulated"\n'
            '[network]\nlibvirt = "yes"\n'
        )
        names = {"LMD_CONFIG_DIR": "config", "LMD_STATE_DIR": "state", "LMD_RUN_DIR": "run"}
        self.environment = os.environ | {name: str(home / part) for name, part in names.items()} | {"NO_COLOR": "1"}
        of = f"/proc/{engine._daemon.pid}/ns"
        self._enter = ["nsenter", f"--mount={of}/mnt", f"--net={of}/net", f"--pid={of}/pid_for_children", "--"]
        self._enter += ["env", f"--chdir={home}"]  # entering a mount namespace leaves the directory behind

    def run(self, *words: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._enter, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )

    def lm(self, *words: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
        return self.run(*LM, *words, seconds=seconds)

    def close(self) -> None:
        done = self.run(sys.executable, "-c", REMOVE, seconds=60)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def libvirt_host(libvirt_engine, short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[LibvirtHost]:
    made = LibvirtHost(libvirt_engine, short_tmp / f"h{abs(hash(request.node.nodeid)):x}")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def podman(private_podman) -> Iterator[object]:
    """One OCI runtime is enough here."""
    with private_podman("network", "crun") as engine:
        yield engine


@pytest.fixture(scope="session")
def image_cache(short_tmp: Path) -> Path:
    """Built once for all tests."""
    return short_tmp / "network-images"


@pytest.fixture
def host(podman, image_cache: Path, short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    with _host(short_tmp / f"n{abs(hash(request.node.nodeid)):x}", "podman", podman.options, image_cache) as made:
        yield made


@pytest.fixture
def docker_host(docker, image_cache: Path, short_tmp: Path) -> Iterator[Host]:
    with _host(short_tmp / "docker-host", "docker", docker.options, image_cache) as made:
        yield made


@contextmanager
def _host(home: Path, engine: str, options: dict[str, str], image_cache: Path) -> Iterator[Host]:
    made = Host(home, engine, options)
    made.environment["LMD_CACHE_DIR"] = str(image_cache)
    try:
        yield made
        for machine in json.loads(made.lm("ps", "--json").stdout):
            made.lm("destroy", machine["id"])
    finally:
        made.close()
