"""`lm run` and its machine killed with SIGKILL at any moment, in each set-up of machines with repositories."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from lm_left import left, payloads, servers, until
from lm_repositories import NAME

ROUNDS = int(os.environ.get("LMD_ROUNDS", "100"))
LM = [sys.executable, "-c", "from lmd.cli.main import main; main()"]
SAYS = "hello of revision 1"
MORE = 0.3
"""Seconds after a payload's first word in which some of the rounds end."""

SETUPS = ["podman-factory", "podman-machine", "docker-factory", "docker-machine", "rootless-machine"]


@dataclass(frozen=True, slots=True)
class Setup:
    """One way to run machines: `lm` with these words before its own, `home` in the paths of all that it may leave."""

    words: Callable[..., list[str]]
    environment: Mapping[str, str]
    work: Path
    home: Path
    uid: int
    write: Callable[[str, str], str]

    def lm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*arguments),
            cwd=self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def start(self, type_: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words("run", type_),
            cwd=self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def kill(self, running: subprocess.Popen[str], type_: str) -> None:
        """Kill `lm run` itself: what entered the namespaces of an ordinary user for it is another process."""

        def gone() -> bool:
            for pid in _runs(type_, self.uid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return running.poll() is not None

        assert until(gone, 60), "it was not to be found"
        if running.stdout:
            running.stdout.close()  # what it has started may still have the other end

    def machines(self) -> list[dict]:
        return json.loads(self.lm("ps", "--json").stdout)


def _runs(type_: str, uid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().rstrip(b"\0").split(b"\0")
            ours = words[-2:] == [b"run", type_.encode()] and b"python" in words[0]
            if ours and entry.parent.stat().st_uid == uid:
                found.append(int(entry.parent.name))
    return found


@pytest.fixture
def setup(request: pytest.FixtureRequest) -> Iterator[Setup]:
    engine, _, where = request.param.partition("-")
    made = request.getfixturevalue("user_with_repository" if engine == "rootless" else "host")
    if engine == "rootless":
        yield of_user(made, where)
        assert until(lambda: not servers(made.directory))
        return
    home = made.home
    keys: dict[str, object] = {}
    if engine == "docker":
        docker = request.getfixturevalue("docker")
        with (home / "config/lmd.toml").open("a") as file:
            file.write(f'\n[runtimes.docker]\nsocket = "{docker.socket}"\n')
        home = docker.shared / f"{home.name}-{where}"  # where the daemon sees what is mounted later
        made.environment["LMD_RUN_DIR"] = str(home / "run")
        keys["runtime"] = "docker"

    def write(name: str, script: str) -> str:
        keys.update(cvmfs_repositories=[NAME], cvmfs={"where": where})
        return made.machinetype(name, script, **keys)

    yield Setup(lambda *words: [*LM, *words], made.environment, made.home / "work", home, os.geteuid(), write)
    assert until(lambda: not left(home)), left(home)


def of_user(user, where: str) -> Setup:
    def words(*arguments: str) -> list[str]:
        lm = (str(user.python), "-c", "from lmd.cli.main import main; main()", *arguments)
        return user.command("sh", "-c", 'cd && exec "$@"', "sh", *lm)

    def write(name: str, script: str) -> str:
        keys = {
            "root_image": "lmd:busybox",
            "entrypoint": ["/bin/sh", "-c", script],
            "mb_per_processor": 64,
            "network": "none",
            "cvmfs_repositories": [NAME],
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()] + [f'cvmfs.where = "{where}"']
        (user.home / f"{name}.toml").write_text("\n".join([f"[machinetypes.{name}]", *lines, ""]))
        return f"./{name}.toml"

    return Setup(words, os.environ, user.directory, user.directory, user.uid, write)


def _first_word(setup: Setup, type_: str) -> float:
    """The first round: seconds until a machine of this type speaks, and the end comes then."""
    began = time.monotonic()
    running = setup.start(type_)
    assert running.stdout
    assert running.stdout.readline() == f"{SAYS}\n"
    seconds = time.monotonic() - began
    _end(setup, running, type_)
    return seconds


def _end(setup: Setup, running: subprocess.Popen[str], type_: str) -> None:
    """Kill `lm run`, then every process of its machine; the rest is for the commands that follow."""
    setup.kill(running, type_)
    for machine in setup.machines():
        for pid in payloads(machine["id"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        setup.lm("destroy", machine["id"])


def _cleared(setup: Setup) -> bool:
    """One killed between making its directory and its record is, for ten seconds, one that is being made."""
    setup.lm("destroy", "--orphaned")
    return not setup.machines()


@pytest.mark.parametrize(
    ("setup", "rounds"),
    [(name, 1) for name in SETUPS if "podman" not in name]  # test_lm_cvmfs.py has one of those
    + [pytest.param(name, ROUNDS, marks=[pytest.mark.soak, pytest.mark.timeout(0)]) for name in SETUPS],
    indirect=["setup"],
)
def test_machines_killed_at_any_moment_leave_no_mount_no_process_and_no_lock(setup: Setup, rounds: int) -> None:
    type_ = setup.write(f"reads-{os.getpid()}", f"cat /cvmfs/{NAME}/hello; sleep 60")
    most = _first_word(setup, type_) + MORE
    moments = random.Random(20261124)
    for _ in range(rounds - 1):
        running = setup.start(type_)
        time.sleep(moments.uniform(0.05, most))
        _end(setup, running, type_)
    assert until(lambda: not left(setup.home), 60), left(setup.home)
    assert until(lambda: _cleared(setup), 60), setup.machines()
    done = setup.lm("run", setup.write("reads", f"cat /cvmfs/{NAME}/hello"))
    assert done.stdout == f"{SAYS}\n", done.stderr
