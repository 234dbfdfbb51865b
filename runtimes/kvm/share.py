"""Put a machine's share together and become the virtiofsd that serves it: what libvirt runs as virtiofsd.

usage: share.py FILE ARGUMENTS…

FILE is JSON: `binary` is the true virtiofsd, which is given the arguments; `binds` are objects with the absolute paths
`source` and `target`, `read_only`, and `first`: where not 0, the host's user and group id that is the machine's root
there (an id-mapped mount). Everything is bound in a mount namespace of this process alone: the host sees none of it,
nothing is left when it ends, and what is read-only is so whatever the guest does. Needs the standard library only, and
is gone from memory when virtiofsd runs.
"""

import ctypes
import json
import os
import signal
import struct
import sys

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REC, MS_SLAVE = 16384, 1 << 19
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442  # the same on every architecture
OPEN_TREE_CLONE, AT_RECURSIVE, AT_EMPTY_PATH, O_CLOEXEC, AT_FDCWD = 1, 0x8000, 0x1000, 0o2000000, -100
MOVE_MOUNT_F_EMPTY_PATH = 4
RDONLY, NODEV, IDMAP = 1, 4, 0x100000
IDS = 65536


class Kernel:
    """The few system calls that Python does not offer; each ends this process with the kernel's word if it fails."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def private_mounts(self) -> None:
        """A mount namespace of our own, where file systems that are mounted on the host later still appear."""
        self._check(self._libc.unshare(CLONE_NEWNS), "a mount namespace of its own")
        self._check(self._libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None), "propagation")

    def bind(self, source: str, target: str, flags: int, ids: int) -> None:
        """Mount `source` with all below it at `target`; `ids` is a user namespace's descriptor, or 0."""
        what = f"{source} at {target}"
        tree = self._call(OPEN_TREE, what, AT_FDCWD, source, OPEN_TREE_CLONE | AT_RECURSIVE | O_CLOEXEC)
        if flags:
            self._set(tree, what, flags, 0, AT_RECURSIVE)
        if ids:
            self._set(tree, what, IDMAP, ids, 0)
        self._call(MOVE_MOUNT, what, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH)
        os.close(tree)

    def user_namespace(self, first: int) -> int:
        """The descriptor of one in which the host's id `first` on disk is 0, and the next ones follow."""
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(told, b"0" if self._libc.unshare(CLONE_NEWUSER) == 0 else b"1")
            signal.pause()
        try:
            self._check(int(os.read(ready, 1)), "a user namespace")
            for name in ("uid_map", "gid_map"):
                with open(f"/proc/{child}/{name}", "w", encoding="ascii") as stream:  # noqa: PTH123
                    stream.write(f"{first} 0 {IDS}")
            return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _set(self, tree: int, what: str, flags: int, descriptor: int, how: int) -> None:
        attributes = struct.pack("QQQQ", flags, 0, 0, descriptor)
        self._call(MOUNT_SETATTR, what, tree, "", AT_EMPTY_PATH | how, attributes, len(attributes))

    def _call(self, number: int, what: str, *arguments: "int | str | bytes") -> int:
        words = [os.fsencode(one) if isinstance(one, str) else one for one in arguments]
        return self._check(
            self._libc.syscall(number, *(ctypes.c_long(w) if isinstance(w, int) else w for w in words)), what
        )

    def _check(self, result: int, what: str) -> int:
        if result < 0 or (result and what == "a user namespace"):
            sys.exit(f"lmd share: {what}: {os.strerror(ctypes.get_errno())}")
        return result


def main(file: str, arguments: "list[str]") -> None:
    """Never returns: virtiofsd takes the place of this process."""
    with open(file, encoding="utf-8", errors="surrogateescape") as stream:  # noqa: PTH123  quick to start
        order = json.load(stream)
    kernel = Kernel()
    kernel.private_mounts()
    spaces = {first: kernel.user_namespace(first) for first in {one["first"] for one in order["binds"]} if first}
    for one in order["binds"]:
        flags = RDONLY | NODEV if one["read_only"] else NODEV
        kernel.bind(one["source"], one["target"], flags, spaces.get(one["first"], 0))
    os.execv(order["binary"], [order["binary"], *arguments])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
