"""Whom the metadata server runs as: a user of its own where root starts it, else whoever starts it."""

import ctypes
import os
import pwd
import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

USER = "lmd-metadata"
NUMBERS = range(61_000, 61_100)
"""User ids that systemd's list of ranges (systemd.io/UIDS-GIDS) leaves unused and that every image can name."""

_PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True, slots=True)
class Account:
    """User and group of the server."""

    uid: int
    gid: int

    def share(self, path: Path, mode: int) -> None:
        """Give the server's group its part of a file or directory of ours. Raises OSError."""
        if os.geteuid() == 0:
            os.chown(path, 0, self.gid, follow_symlinks=False)
        path.chmod(mode)


def account(uid: int, named: Callable[[str], tuple[int, int] | None] | None = None) -> Account:
    """The server's account where `uid` starts it: the user `lmd-metadata` if the host has one, else a number that
    belongs to nobody."""
    if uid != 0:
        return Account(uid, os.getegid())
    if found := (named or _named)(USER):
        return Account(*found)
    number = next(number for number in NUMBERS if not _taken(number))
    return Account(number, number)


def become(who: Account) -> None:
    """Turn this process into that account for good: no groups, no capabilities, no way back. Raises OSError."""
    if os.geteuid() == 0 and who.uid != 0:
        os.setgroups([])
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs cannot be set")


def lift_open_files() -> int:
    """Allow this process as many open files as its hard limit; returns that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _named(name: str) -> tuple[int, int] | None:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return found.pw_uid, found.pw_gid


def _taken(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
