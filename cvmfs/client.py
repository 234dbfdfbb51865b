"""The distribution's client, `cvmfs2`, on a descriptor that is mounted already: as the server of a machine's mount."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cvmfs.errors import BadConfiguration, Refused

_READY = b"mounted cvmfs on"
_START_SECONDS = 60.0
_MOST_SAID = 1 << 16


def serve_with(
    program: str, repository: str, fd: int, pid: int, cache: Path, etc: Path, ready: Callable[[], None]
) -> None:
    """Run the client on `fd` until process `pid` has ended, or the client has.

    Each client has a workspace of its own (it is locked), and all share the alien cache in `cache`.
    Raises Refused with what the client said if it does not come up.
    """
    workspace = Path(tempfile.mkdtemp(prefix="lmd-cvmfs2."))
    machine = os.pidfd_open(pid)
    process: subprocess.Popen[bytes] | None = None
    try:
        config = ":".join([*_files(etc, repository), str(_own(workspace, cache))])
        words = [program, "-f", "-o", f"config={config}", repository, f"/dev/fd/{fd}"]
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(fd,)
        )
        os.close(fd)
        out = process.stdout.fileno() if process.stdout else -1
        _wait_ready(out, repository, machine)
        ready()
        _wait_end(out, machine)
    except OSError as error:
        raise BadConfiguration(f"{program}: cannot be run ({error.strerror})") from error
    finally:
        if process is not None:
            _end(process)
        os.close(machine)
        shutil.rmtree(workspace, ignore_errors=True)


def _files(etc: Path, repository: str) -> Iterator[str]:
    """The client's own configuration in its order: with `config=` it reads nothing else."""
    domain = repository.partition(".")[2]
    found = [etc / "default.conf", *sorted((etc / "default.d").glob("*.conf")), etc / "default.local"]
    for kind in (f"domain.d/{domain}", f"config.d/{repository}"):
        found += [etc / f"{kind}.conf", etc / f"{kind}.local"]
    return (str(file) for file in found if file.exists())


def _own(workspace: Path, cache: Path) -> Path:
    cache.mkdir(mode=0o770, parents=True, exist_ok=True)
    file = workspace / "lmd.conf"
    lines = [f"CVMFS_CACHE_BASE={workspace}", "CVMFS_SHARED_CACHE=no", f"CVMFS_ALIEN_CACHE={cache}"]
    lines += ["CVMFS_QUOTA_LIMIT=-1", f"CVMFS_RELOAD_SOCKETS={workspace}", "CVMFS_CLAIM_OWNERSHIP=no"]
    file.write_text("\n".join(lines) + "\n")
    return file


def _wait_ready(out: int, repository: str, machine: int) -> None:
    said = b""
    until = time.monotonic() + _START_SECONDS
    waiting = select.poll()
    waiting.register(out, select.POLLIN)
    waiting.register(machine, select.POLLIN)
    while _READY not in said and len(said) < _MOST_SAID:
        events = waiting.poll(max(0, int(1000 * (until - time.monotonic()))))
        piece = os.read(out, 4096) if any(ready == out for ready, _ in events) else b""
        said += piece
        if not piece:
            break
    if _READY not in said:
        text = " ".join(said.decode("utf-8", "replace").split())[-500:] or "it says nothing"
        raise Refused(f"{repository}: the distribution's client does not come up: {text}")


def _wait_end(out: int, machine: int) -> None:
    """Until the machine or the client has ended; what the client says is read, so that it never waits for it."""
    waiting = select.poll()
    waiting.register(out, select.POLLIN | select.POLLHUP)
    waiting.register(machine, select.POLLIN)
    while True:
        for fd, _ in waiting.poll():
            if fd == machine or not os.read(out, 65536):
                return


def _end(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
    if process.stdout is not None:
        process.stdout.close()
