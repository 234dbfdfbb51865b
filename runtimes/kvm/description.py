"""What a machine's spec says to the init of a direct-boot guest: words, each ended by a NUL byte. Pure.

The verbs and their arguments are those that `images/guest/init` does, in the order in which it does them.
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from runtimes.contract import ImageKind, Rejected, Spec

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READ_ONLY_TMPFS = ("/tmp", "/run", "/var/tmp")  # noqa: S108  the machine's, not the host's
READ_ONLY_TMPFS_BYTES = 64_000_000


def description(spec: Spec, kinds: Mapping[int, str]) -> bytes:
    """The file `description` of a machine's share; `kinds` says of each mount, by its number, `dir` or `file`.

    Raises `Rejected` for what has a NUL byte, or for a place in the machine that is not an absolute path.
    """
    words = [word for line in _lines(spec, kinds) for word in line]
    if bad := next((word for word in words if "\0" in word), None):
        raise Rejected(f"machine {spec.id}: {bad!r} has a NUL byte, which no program can be given")
    return b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)


def _lines(spec: Spec, kinds: Mapping[int, str]) -> Iterator[tuple[str, ...]]:
    yield ("hostname", spec.id)
    roots = {ImageKind.ROOT_DIRECTORY: "share", ImageKind.INITRAMFS: "initramfs"}
    yield ("root", roots.get(spec.image.kind, "disk"), "memory" if spec.disk_bytes is None else "disk")
    if spec.network != "none":
        yield ("network",)
    for _, line in sorted(_places(spec, kinds)):  # a mount below another one comes after it
        yield line
    yield from _limits(spec)
    if spec.user:
        yield ("user", spec.user)
    if spec.working_directory:
        yield ("folder", str(spec.working_directory))
    if spec.read_only_root:
        yield ("read-only",)
    if spec.lifetime_seconds:
        yield ("lifetime", str(spec.lifetime_seconds))
    for name, value in {"PATH": PATH, **spec.environment}.items():
        yield ("environment", f"{name}={value}")
    for word in (*(spec.entrypoint or ()), *(spec.args or ())):
        yield ("argument", word)


def _places(spec: Spec, kinds: Mapping[int, str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    taken = set()
    for number, mount in enumerate(spec.mounts):
        target, options = _target(spec, mount.target), "ro" if mount.read_only else "rw"
        taken.add(target)
        yield target.count("/"), ("mount", kinds[number], options, f"mounts/{number}", target)
    for number, path in enumerate(spec.scratch):
        target = _target(spec, path)
        taken.add(target)
        if spec.disk_bytes is None:
            yield target.count("/"), ("mount", "dir", "rw", f"scratch/{number}", target)
        else:
            yield target.count("/"), ("layer", str(number), target)
    sizes = {_target(spec, one.target): one.size_bytes for one in spec.tmpfs}
    if spec.read_only_root:
        sizes = {path: READ_ONLY_TMPFS_BYTES for path in READ_ONLY_TMPFS if path not in taken} | sizes
    for target, size in sizes.items():
        yield target.count("/"), ("tmpfs", str(size), target)


def _limits(spec: Spec) -> Iterator[tuple[str, ...]]:
    limits = spec.limits
    for verb, value in (
        ("open-files", limits.open_files),
        ("processes", limits.pids),
        ("memory", limits.memory_bytes),
    ):
        if value is not None:
            yield (verb, str(value))


def _target(spec: Spec, path: PurePosixPath) -> str:
    if not path.is_absolute() or ".." in path.parts or path == PurePosixPath("/"):
        raise Rejected(f"machine {spec.id}: {path} is no place in a machine; give an absolute path below /")
    return str(path)
