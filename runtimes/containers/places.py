"""Where a machine may write beside its root, and how much of its console is kept. Pure."""

from runtimes.contract import Spec

READ_ONLY_ROOT_TMPFS = ("/tmp", "/run", "/var/tmp")  # noqa: S108  the machine's, not the host's
SCRATCH_TMPFS_BYTES = 64_000_000
FILE_PER_BYTE = 16
"""Bytes of log file for each byte of console that is kept: engines write a time and more beside each line."""
CONSOLE_LEAST = 32_000_000


def tmpfs_sizes(spec: Spec, *, read_only: bool) -> dict[str, int]:
    """Size in bytes by place; with a root that is `read_only`, also usual places to write where nothing is mounted."""
    sizes = {str(t.target): t.size_bytes for t in spec.tmpfs}
    if not read_only:
        return sizes
    taken = {str(target) for target in spec.scratch} | {str(m.target) for m in spec.mounts}
    return {place: SCRATCH_TMPFS_BYTES for place in READ_ONLY_ROOT_TMPFS if place not in taken} | sizes


def log_bytes(spec: Spec) -> int:
    """How large the engine's log files of a machine may become."""
    return max(FILE_PER_BYTE * spec.console_bytes, CONSOLE_LEAST)
