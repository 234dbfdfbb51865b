"""A mount made from outside in another process's user and mount namespaces.

The kernel wants the descriptor of /dev/fuse opened in the user namespace that mounts, and a namespace can only be
joined by a process with one thread: so a child is forked while this process has one thread, joins, mounts, and hands
the descriptor back. The file system is then served from here, where the network and the cache are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
from pathlib import Path

from cvmfs.errors import BadConfiguration

_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_NEWUSER, _NEWNS = 0x10000000, 0x00020000
_OPEN_TREE, _MOVE_MOUNT = 428, 429  # the same on all architectures
_AT_FDCWD, _CLONE, _EMPTY_PATH, _DETACH = -100, 1, 4, 2
_GO = b"go"
_LONGEST = 4096


class Joiner:
    """A child that waits to mount in the namespaces of process `pid`."""

    def __init__(self, pid: int) -> None:
        """To be made while this process has one thread. Raises BadConfiguration if there is no such process."""
        try:
            self._user = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            self._mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BadConfiguration(f"process {pid}: its namespaces cannot be opened ({error.strerror})") from error
        self._here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._child = os.fork()
        if self._child == 0:
            self._here.close()
            _child(self._user, self._mounts, there)
        there.close()
        os.close(self._user)
        os.close(self._mounts)

    def mount(self, target: str, name: str, *, suid: bool = False) -> int:
        """Mount on the directory `target`, which is made if need be; returns the descriptor to serve.

        Raises BadConfiguration with what the kernel said.
        """
        self._here.send(b"\0".join((_GO, os.fsencode(target), os.fsencode(name), b"suid" if suid else b"")))
        try:
            text, descriptors, _, _ = socket.recv_fds(self._here, _LONGEST, 1)
        finally:
            self.close()
        if not descriptors:
            said = text.decode("utf-8", "replace") or "the mounting process was killed"
            raise BadConfiguration(f"mountpoint {target} in the machine: {said}")
        os.set_inheritable(descriptors[0], False)
        return descriptors[0]

    def close(self) -> None:
        """Let the child end; nothing is mounted by it any more."""
        self._here.close()
        if self._child:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._child, 0)
            self._child = 0


def _child(user: int, mounts: int, parent: socket.socket) -> None:
    try:
        words = parent.recv(_LONGEST).split(b"\0")
        if words[0] != _GO:
            os._exit(0)
        try:
            descriptor = _mount(user, mounts, *words[1:])
        except OSError as error:
            parent.send(f"{error.filename or 'mount'}: {error.strerror}".encode())
            os._exit(1)
        socket.send_fds(parent, [_GO], [descriptor])
    finally:
        os._exit(0)


def _mount(user: int, mounts: int, target: bytes, name: bytes, suid: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)

    def join(descriptor: int, kind: int, what: str) -> None:
        if libc.setns(descriptor, kind) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), f"joining its {what} namespace")

    if os.fstat(user).st_ino != os.stat("/proc/self/ns/user").st_ino:  # noqa: PTH116 — a magic link
        join(user, _NEWUSER, "user")
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)  # the host's device, opened in the machine's user namespace
    join(mounts, _NEWNS, "mount")
    os.makedirs(target, mode=0o755, exist_ok=True)  # noqa: PTH103 — bytes
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    flags = _RDONLY | _NODEV | (0 if suid else _NOSUID)
    if libc.mount(name, target, b"fuse.lmd-cvmfs", flags, options) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "mounting it")
    return fuse


def replace(pid: int, source: str, target: str) -> bool:
    """Put a mount of ours in the place of the broken one that process `pid` has at `target`; False if that fails.

    Only root can: the mount is cloned here, and moved in the other mount namespace (Linux 5.2 or newer).
    """
    try:
        mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    child = os.fork()
    if child == 0:
        try:
            os._exit(_replace(mounts, os.fsencode(source), os.fsencode(target)))
        finally:
            os._exit(1)
    os.close(mounts)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _replace(mounts: int, source: bytes, target: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    tree = libc.syscall(_OPEN_TREE, _AT_FDCWD, source, _CLONE | os.O_CLOEXEC)
    if tree < 0 or libc.setns(mounts, _NEWNS) != 0:
        return 1
    libc.umount2(target, _DETACH)
    return 0 if libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, target, _EMPTY_PATH) == 0 else 1


def join_control_groups(pid: int) -> list[str]:
    """Move this process to the control groups of process `pid`; returns those that would not have it.

    Who is not allowed (an ordinary user on control groups v1) is not accounted to the machine, and served all the same.
    """
    refused = []
    for line in _lines(f"/proc/{pid}/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path == "/":
            continue
        for where in _hierarchies().get(controllers, ())[:1]:
            try:
                Path(f"{where}{path}/cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
            except OSError:
                refused.append(controllers or "unified")
    return refused


def _hierarchies() -> dict[str, list[str]]:
    """Where the hierarchies of control groups are mounted, by their controllers as /proc/PID/cgroup names them."""
    found: dict[str, list[str]] = {}
    for line in _lines("/proc/self/mountinfo"):
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(" "), tail.split(" ")
        if fields[3] != "/":
            continue
        where = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        if kind[0] == "cgroup2":
            found.setdefault("", []).append(where)
        elif kind[0] == "cgroup":
            options = [word for word in kind[2].split(",") if word not in ("rw", "ro", "xattr", "clone_children")]
            options = [word for word in options if not word.startswith("release_agent=")]
            found.setdefault(",".join(options), []).append(where)
    return found


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
