"""What every image that is built here holds, whatever its recipe: places for the environment, and the payload's helper.

A root directory that is used read-only or by a foreign range of user ids starts only if the files that engines bind
over, and the places where the environment is bound, are there already.
"""

import hashlib
from importlib.resources import files

from images.entries import Tree, directory, file, place, symlink

HELPER = "/usr/local/bin/lm-payload"
_HOSTS = b"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


def helper() -> bytes:
    """The program `lm-payload`."""
    return files("images").joinpath("payload", "lm-payload").read_bytes()


def add_skeleton(tree: Tree) -> None:
    """Add to `tree`; what the host put into hosts, hostname and resolv.conf is replaced."""
    for path, mode in (("/tmp", 0o1777), ("/var/tmp", 0o1777), ("/root", 0o700)):  # noqa: S108 - the image's own
        place(tree, path, directory(mode))
    for path in ("/dev", "/proc", "/run", "/sys", "/cvmfs", "/etc/machinefeatures", "/etc/jobfeatures"):
        place(tree, path, directory())
    place(tree, "/var/spool/joboutputs", directory())
    for path, data in (("hosts", _HOSTS), ("hostname", b"localhost\n"), ("resolv.conf", b"")):
        place(tree, f"/etc/{path}", file(data))
    place(tree, "/etc/mtab", symlink("/proc/mounts"))  # Podman makes it where it is missing, even in a directory in use
    place(tree, "/user_data", file(b""))
    place(tree, HELPER, file(helper(), 0o755))


def skeleton_digest() -> str:
    """SHA-256 in hex over all that `add_skeleton` adds: images made with another one are other images."""
    tree: Tree = {}
    add_skeleton(tree)
    hashing = hashlib.sha256()
    for name, entry in sorted(tree.items()):
        hashing.update(repr((name, entry.kind.value, entry.mode, entry.target, entry.size)).encode())
        if entry.content is not None:
            with entry.content() as content:
                hashing.update(content.read())
    return hashing.hexdigest()
