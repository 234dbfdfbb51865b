"""How facts are read from the host: small files, and programs that must answer soon. Nothing is changed."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def text(path: str | Path) -> str | None:
    """A small file's content without surrounding blanks; None if it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def number(path: str | Path) -> int | None:
    """The whole number in a file; None if there is none."""
    found = text(path)
    return int(found) if found is not None and found.isdecimal() else None


def program(name: str) -> str | None:
    """Where a program is, in the PATH or in the directories that only root's PATH has."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(SBIN))


def complaint(command: Sequence[str], *, seconds: float = 5.0) -> str | None:
    """None if the command succeeds; else what it said, in one line."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within {seconds:g} s"
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    if done.returncode == 0:
        return None
    said = (done.stderr or done.stdout).strip().splitlines()
    return (said[-1] if said else f"{command[0]} ended with {done.returncode}")[:300]


def first_line(command: Sequence[str], *, seconds: float = 5.0) -> str:
    """The first line that a command prints; empty if it cannot be run."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.strip().splitlines() or [""])[0][:200]
