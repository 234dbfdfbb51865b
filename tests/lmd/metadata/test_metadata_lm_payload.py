"""`lm-payload` in a machine that has nothing but the metadata server: with curl, and with what busybox has."""

import os
import subprocess
from pathlib import Path

import pytest

from images.skeleton import helper

GUEST = Path(__file__).parents[3] / "images/guest"
APPLETS = ("sh", "sed", "cat", "date", "mktemp", "rm", "mv", "wget", "nc", "wc", "head", "touch", "tr")


@pytest.fixture(params=["curl", "busybox"])
def payload(request: pytest.FixtureRequest, machine, tmp_path: Path):
    one, programs = machine(), tmp_path / "bin"
    programs.mkdir()
    (programs / "lm-payload").write_bytes(helper())
    (programs / "lm-put").write_bytes((GUEST / "lm-put").read_bytes())
    for path in programs.iterdir():
        path.chmod(0o755)
    busybox = next(p for p in (Path("/bin/busybox"), Path("/usr/bin/busybox")) if p.exists())
    if request.param == "busybox":
        for name in APPLETS:
            (programs / name).symlink_to(busybox)
    path = str(programs) if request.param == "busybox" else f"{programs}:{os.environ['PATH']}"

    def run(*words: str):
        environment = {"PATH": path, "HOME": "/", **one.card.variables}
        inside = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in environment.items()), "lm-payload"]
        return subprocess.run(one.namespace.command(*inside, *words), capture_output=True, text=True, timeout=50)

    run.machine = one
    return run


def test_it_reads_features_and_says_how_the_work_ended(payload) -> None:
    one = payload.machine
    first = payload("feature", "allocated_cpu")
    assert first.stdout == "2\n", first.stderr
    assert payload("feature", "total_cpu").stdout == "2\n"
    assert payload("feature", "no_such_key", "none").stdout == "none\n"
    assert 3500 < int(payload("remaining").stdout) <= 3600
    done = payload("done", "200", "Success")
    assert done.returncode == 0, done.stderr
    assert one.output("shutdown_message") == b"200 Success\n"
    assert payload("heartbeat").returncode == 0
    assert one.output("heartbeat")


def test_it_puts_files_whole_and_says_when_it_cannot(payload, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "result").write_bytes(content)
    assert payload("output", str(tmp_path / "result"), "a result #1?").returncode == 0
    assert payload.machine.output("a result #1?") == content
    (tmp_path / "large").write_bytes(bytes(2_000_000))
    refused = payload("output", str(tmp_path / "large"))
    assert refused.returncode == 1
    assert "could not be sent: is there quota left?" in refused.stderr
