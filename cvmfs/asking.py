"""Ask a child process what may never be answered: an autofs without its daemon, or a client that was stopped, says
nothing for ever."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

CONVENTIONAL = Path("/cvmfs")


def asked(words: Sequence[str], seconds: float) -> tuple[int, str] | None:
    """The exit code and the errors of a command; None if it has not ended within so many seconds."""
    child = subprocess.Popen(
        words,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _, said = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits in the kernel is left to it
            child.wait(0.5)
        if child.stderr:
            child.stderr.close()
        return None
    return child.returncode, said.decode("utf-8", "replace").strip()
