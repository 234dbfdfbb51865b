"""`lm doctor` on hosts made poor on purpose: each in namespaces of its own, so that this host stays as it is."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

LM = ("-c", "from lmd.cli.main import main; main()")
IN_A_USER_NAMESPACE = """
import ctypes, os, sys
tell, told = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    assert ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0, ctypes.get_errno()
    os.write(told[1], b"x"); os.read(tell[0], 1)
    exec(sys.argv[1])
    os.execvp(sys.argv[2], sys.argv[2:])
os.read(told[0], 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{name}", "w") as file:
        file.write("0 0 4294967295")
os.write(tell[1], b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Runs a command in a user namespace of its own, in which all users are what they are outside, after some Python."""


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


@pytest.fixture(scope="session")
def root_doctor(private_podman, short_tmp: Path) -> Iterator[Callable[..., Told]]:
    """`lm doctor` as root on a Podman of the tests' own; `poorer` is a script that takes something away before, in a
    mount namespace of its own, and `first` a command that runs it."""
    with private_podman("doctor", "runc") as engine:
        home = short_tmp / "doctor-home"
        home.mkdir()
        lines = [f"{key} = {json.dumps(value)}" for key, value in engine.options.items()]
        usual = "\n".join(["[runtimes.podman]", *lines, ""])
        names = ("config", "state", "run", "cache")
        environment = os.environ | {f"LMD_{name.upper()}_DIR": str(home / name) for name in names}
        (home / "config").mkdir()

        def run(
            *words: str, poorer: str = "", first: tuple[str, ...] = (), config: str = usual, path: str = ""
        ) -> Told:
            (home / "config/lmd.toml").write_text(config)
            enter = ["unshare", "--mount", "--propagation=private", "sh", "-ec", f'{poorer}\nexec "$@"', "sh"]
            command = [*(enter if poorer else ()), *first, sys.executable, *LM, "doctor", "--json", *words]
            done = subprocess.run(
                command,
                env=environment | ({"PATH": path} if path else {}),
                cwd=home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=50,
                check=False,
            )
            return _told(done)

        yield run


@pytest.fixture
def user_doctor(ordinary_user, request: pytest.FixtureRequest) -> Callable[..., Told]:
    """`lm doctor` as an ordinary user whose Podman has run nothing yet."""
    home = ordinary_user.home / f"doctor{abs(hash(request.node.nodeid)):x}"
    run = ordinary_user.directory / f"r{abs(hash(request.node.nodeid)) % 10**6}"
    for path in (home, run):
        path.mkdir(mode=0o700)
        os.chown(path, ordinary_user.uid, ordinary_user.uid)
    set_ = ["env", f"HOME={home}", f"XDG_RUNTIME_DIR={run}"]

    def doctor(*words: str, poorer: str = "", first: tuple[str, ...] = ()) -> Told:
        command = [*first, *set_, str(ordinary_user.python), *LM, "doctor", "--json", *words]
        return _told(ordinary_user.run(*command, poorer=poorer))

    return doctor
