"""A repository mounted from outside in another process's namespaces, and a mount that ends when nobody needs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cvmfs_mounted import command, unmount, words_for
from cvmfs_served import NAME, Web

from cvmfs.leases import held, living, start_of, take


def until(condition: Callable[[], object], seconds: float = 20) -> bool:
    last = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > last:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def machine() -> Iterator[subprocess.Popen[bytes]]:
    """A process in user and mount namespaces of its own, as the first process of a container is."""
    made = subprocess.Popen(["unshare", "-Urm", "sh", "-c", "echo ready; exec sleep 60"], stdout=subprocess.PIPE)
    assert made.stdout is not None
    made.stdout.readline()
    yield made
    made.kill()
    made.wait()
    made.stdout.close()


def within(machine: subprocess.Popen[bytes], *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["nsenter", "-t", str(machine.pid), "-U", "-m", "--preserve-credentials", *words],
        capture_output=True,
        check=False,
        timeout=20,
    )


def test_a_mount_is_made_inside_and_ends_with_the_machine(
    machine: subprocess.Popen[bytes], web: Web, tmp_path: Path
) -> None:
    target = tmp_path / "seen/inside"
    words = words_for(web.url, tmp_path / "cache")
    done = command("mount", NAME, str(target), "--inside", str(machine.pid), "--log", str(tmp_path / "log"), *words)
    assert (done.returncode, done.stderr) == (0, b"")
    assert f" {target} " not in Path("/proc/self/mountinfo").read_text()
    assert len(within(machine, "cat", f"{target}/README.txt").stdout) == 53
    assert b"Read-only file system" in within(machine, "touch", f"{target}/new").stderr
    server = _server(str(target))
    assert start_of(server)
    machine.kill()
    machine.wait()
    assert until(lambda: start_of(server) is None)


def _server(target: str) -> int:
    """The process that serves a mount inside, by its command line: an image without getfattr cannot be asked."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if target.encode() in entry.read_bytes().split(b"\0"):
                return int(entry.parent.name)
        except OSError:
            continue
    return 0


def test_a_mount_inside_that_cannot_be_made_says_why_and_leaves_nothing(
    machine: subprocess.Popen[bytes], web: Web, tmp_path: Path
) -> None:
    words = words_for(web.url, tmp_path / "cache")
    done = command("mount", NAME, "/proc/none", "--inside", str(machine.pid), *words)
    assert done.returncode == 2
    assert done.stderr.startswith(b"cvmfs: mountpoint /proc/none in the machine: ")
    assert command("mount", NAME, "../etc", "--inside", str(machine.pid), *words).returncode == 2
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = command("mount", NAME, "/mnt", "--inside", str(gone.pid), *words)
    assert b"its namespaces cannot be opened" in done.stderr
    bad = [word if word != web.url else f"{web.url}/none" for word in words]
    done = command("mount", NAME, str(tmp_path / "t"), "--inside", str(machine.pid), *bad, "--cache", f"{tmp_path}/c2")
    assert done.returncode == 16
    assert b" fuse" not in within(machine, "grep", str(tmp_path / "t"), "/proc/self/mountinfo").stdout


def test_a_mount_lives_as_long_as_somebody_needs_it(web: Web, tmp_path: Path) -> None:
    where, leases = tmp_path / "mnt", tmp_path / "base/leases/x"
    where.mkdir()
    needs = subprocess.Popen(["sleep", "60"])
    with held(leases):
        assert take(leases, needs.pid)
    words = ["--leases", str(leases), "--idle", "0.4", *words_for(web.url, tmp_path / "cache")]
    try:
        assert command("mount", NAME, str(where), *words).returncode == 0
        server = int(os.getxattr(where, "user.pid"))
        time.sleep(0.9)
        assert (where / "README.txt").exists()
        needs.send_signal(signal.SIGKILL)
        assert until(lambda: living(leases) == [])  # dead, though nobody has waited for it yet
        assert until(lambda: not where.is_mount())
        assert until(lambda: start_of(server) is None)
    finally:
        needs.kill()
        needs.wait()
        unmount(where)


def test_a_lease_is_of_one_process_and_not_of_its_number(tmp_path: Path) -> None:
    with held(tmp_path):
        assert not take(tmp_path, 2**22 + 1)
        assert take(tmp_path, os.getpid())
    (tmp_path / f"{os.getpid()}.12345").touch()
    (tmp_path / "nonsense").touch()
    assert living(tmp_path) == [os.getpid()]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"{os.getpid()}.{start_of(os.getpid())}", "lock", "nonsense"]
    )
    code = "import sys; from pathlib import Path; from cvmfs.leases import held, take, living; p = Path(sys.argv[1])"
    code += "\nwith held(p): take(p, __import__('os').getpid())\nprint(len(living(p)))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
