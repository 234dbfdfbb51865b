"""`lm doctor` on hosts made poor on purpose: each in namespaces of its own, so that this host stays as it is."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

LM = ("-c", "from lmd.cli.main import main; main()")
IN_A_USER_NAMESPACE = """
import ctypes, os, sys
(go, tell), (ready, say) = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.close(tell)
    assert ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0, ctypes.get_errno()
    os.write(say, b"x")
    assert os.read(go, 1), "no ids were given"
    with open(sys.argv[1], "w") as file:
        file.write(sys.argv[2])
    os.execvp(sys.argv[3], sys.argv[3:])
os.read(ready, 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{name}", "w") as file:
        file.write("0 0 4294967295")
os.write(tell, b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Runs a command in a user namespace of its own, in which everybody is who they are outside, and of which a file below
/proc/sys has been written before."""


def _switched(file: str, value: int) -> tuple[str, ...]:
    """A command that runs another where this switch of the kernel has this value."""
    return sys.executable, "-c", IN_A_USER_NAMESPACE, file, str(value)


def _poorer(script: str) -> tuple[str, ...]:
    """A command that runs another after a script of root's, in a mount namespace of its own."""
    return "unshare", "--mount", "--propagation=private", "sh", "-ec", f'{script}\nexec "$@"', "sh"


@dataclass(frozen=True)
class Told:
    """What `lm doctor --json` said."""

    code: int
    findings: list[dict[str, str]]
    errors: str

    def of(self, check: str, level: str = "problem") -> list[str]:
        """The sentences of a check at a level, each with its remedy."""
        matching = [one for one in self.findings if (one["check"], one["level"]) == (check, level)]
        return [f"{one['sentence']} -> {one['remedy']}" for one in matching]


def _told(done: subprocess.CompletedProcess[str]) -> Told:
    assert done.stdout, done.stderr
    return Told(done.returncode, json.loads(done.stdout)["findings"], done.stderr)


@pytest.fixture
def switched() -> Callable[[str, int], tuple[str, ...]]:
    return _switched


@pytest.fixture
def poorer() -> Callable[[str], tuple[str, ...]]:
    return _poorer


class RootDoctor:
    """`lm doctor` as root, on a Podman of the tests' own, run `through` a command that takes something away."""

    def __init__(self, engine, home: Path) -> None:
        self.engine, self.home = engine, home
        lines = [f"{key} = {json.dumps(value)}" for key, value in engine.options.items()]
        self.usual = "\n".join(["[runtimes.podman]", *lines, ""])
        names = ("config", "state", "run", "cache")
        self.environment = os.environ | {f"LMD_{name.upper()}_DIR": str(home / name) for name in names}
        (home / "config").mkdir(parents=True)

    def __call__(self, *words: str, through: Sequence[str] = (), config: str = "", **environment: str) -> Told:
        (self.home / "config/lmd.toml").write_text(config or self.usual)
        done = subprocess.run(
            [*through, sys.executable, *LM, "doctor", "--json", *words],
            env=self.environment | environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        return _told(done)

    def end_services(self) -> None:
        """So that the next one starts where the next command runs."""
        for path in (self.home / "run").glob("*.sock"):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                os.kill(struct.unpack("iII", peer)[0], signal.SIGKILL)


@pytest.fixture(scope="session")
def root_doctor(private_podman, short_tmp: Path) -> Iterator[RootDoctor]:
    with private_podman("doctor", "runc") as engine:
        made = RootDoctor(engine, short_tmp / "doctor-home")
        yield made
        made.end_services()


@pytest.fixture
def user_doctor(ordinary_user, request: pytest.FixtureRequest) -> Callable[..., Told]:
    """`lm doctor` as an ordinary user whose Podman has run nothing yet."""
    digits = f"{abs(hash(request.node.nodeid)) % 10**8:08x}"
    home, run = ordinary_user.home / digits, ordinary_user.directory / digits
    for path in (home, run):
        path.mkdir(mode=0o700)
        os.chown(path, ordinary_user.uid, ordinary_user.uid)

    def doctor(*words: str, through: Sequence[str] = ()) -> Told:
        environment = ["env", f"HOME={home}", f"XDG_RUNTIME_DIR={run}"]
        command = [*environment, str(ordinary_user.python), *LM, "doctor", "--json", *words]
        return _told(ordinary_user.run(*command, through=through))

    return doctor
