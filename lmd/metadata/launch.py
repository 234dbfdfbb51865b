"""Start the metadata server if the host has none."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lmd.metadata.process import ALREADY, LOCK

READY_SECONDS = 20.0
IDLE_SECONDS = 600
"""A server that `lm run` has started ends by itself after so long without machines."""
LOG = "metadata.log"


class CannotLaunch(Exception):
    """There is no server, and none could be started; one line that says why."""


def serving(run: Path) -> bool:
    """True if a server has the lock."""
    with suppress(OSError):
        descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def ensure(run: Path, features: Sequence[str], metadata: Sequence[str], *, idle: float = IDLE_SECONDS) -> None:
    """Start a server, in a session of its own so that it outlives this process, unless there is one.

    Returns when it serves. Raises `CannotLaunch`. Blocks: use a thread.
    """
    if serving(run):
        return
    reader, writer = os.pipe()
    try:
        with (run / LOG).open("wb") as log:
            words = ["--run-dir", str(run), "--idle", str(idle), "--ready-fd", str(writer)]
            command = [sys.executable, "-m", "lmd.metadata.process", *words]
            process = subprocess.Popen(
                [*command, "--features", *features, "--metadata", *metadata],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[writer],
                start_new_session=True,
                cwd="/",
            )
    except OSError as error:
        os.close(reader)
        raise CannotLaunch(f"the metadata server cannot be started: {error.strerror}") from error
    finally:
        os.close(writer)
    try:
        _wait(process, reader, run)
    finally:
        os.close(reader)


def _wait(process: "subprocess.Popen[bytes]", reader: int, run: Path) -> None:
    """Until the server says that it is ready, or has ended: because of another one, or for a reason in its log."""
    os.set_blocking(reader, False)
    import select

    ready, _, _ = select.select([reader], [], [], READY_SECONDS)
    if ready and os.read(reader, 16):
        process.returncode = 0  # it goes on, and is not ours to wait for
        return
    if not ready:
        process.kill()
    code = process.wait()
    if code == ALREADY:
        return
    said = (run / LOG).read_text(errors="replace").strip().splitlines()
    why = said[-1].removeprefix("lmd-metadata: ") if said else f"it ended with {code}"
    raise CannotLaunch(f"the metadata server cannot be started: {why if ready else 'it did not answer in time'}")
