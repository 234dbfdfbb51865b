"""An init that waits: Docker starts a container in one step, so a machine with a `before_start` begins as a static
busybox of the host, which reads one line from a FIFO and then becomes the payload, with its process id.

Whether a machine still waits is the kernel's to say: its first process runs the host's busybox or it does not. So
whoever finds such a machine can let it go on, and nothing of it is kept in anybody's memory.
"""

import os
import shutil
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtimes.containers.stamp import LABEL

BUSYBOX, GO = "/.lmd/busybox", "/.lmd/go"  # busybox goes by the name that it is called by
COMMAND = (BUSYBOX, "sh", "-c", f'read -r go < {GO}; exec "$@"', "sh")
WAITS = f"{LABEL}waits"
PT_INTERP = 3


@dataclass(frozen=True, slots=True)
class Wait:
    """The host's static busybox, and the FIFO that the machine reads."""

    busybox: Path
    fifo: Path


def static_busybox() -> Path | None:
    """A busybox of this host that needs nothing of the machine's image; None if there is none."""
    found = shutil.which("busybox", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
    return Path(found) if found and _static(Path(found)) else None


def _static(path: Path) -> bool:
    """True for an ELF file of 64 bits that asks for no dynamic loader (elf(5))."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        if head[:5] != b"\x7fELF\x02":
            return False
        offset, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
        kinds = [struct.unpack_from("<I", head, offset + number * size)[0] for number in range(count)]
    except (OSError, struct.error):
        return False
    return PT_INTERP not in kinds


def fifo(run_dir: Path, machine_id: str) -> Path:
    """Where a machine's FIFO is made."""
    return run_dir / "waiting" / machine_id


def prepare(run_dir: Path, machine_id: str) -> Wait | None:
    """Make the FIFO of a machine that is to wait; None without a static busybox."""
    busybox, path = static_busybox(), fifo(run_dir, machine_id)
    if busybox is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    path.chmod(0o644)
    return Wait(busybox, path)


def forget(run_dir: Path, machine_id: str) -> None:
    """Remove a machine's FIFO; absent is success."""
    with suppress(OSError):
        fifo(run_dir, machine_id).unlink()


def label(wait: Wait | None) -> dict[str, str]:
    """Beside the stamp, what tells that a machine begins by waiting, and for what."""
    return {WAITS: str(wait.fifo)} if wait else {}


def mounts(wait: Wait | None) -> list[dict[str, Any]]:
    """What the init needs in the machine, as the engine's mounts."""
    if wait is None:
        return []
    files = {BUSYBOX: wait.busybox, GO: wait.fifo}
    return [{"Type": "bind", "Source": str(path), "Target": name, "ReadOnly": True} for name, path in files.items()]


def waits(found: Mapping[str, Any]) -> bool:
    """True if the container that `inspect` shows so is up and its payload does not run yet."""
    pid = found["State"].get("Pid")
    if WAITS not in (found["Config"].get("Labels") or {}) or not pid:
        return False
    sources = [str(m.get("Source")) for m in found.get("Mounts") or () if m.get("Destination") == BUSYBOX]
    try:
        becoming = Path(f"/proc/{pid}/comm").read_text().startswith("runc:[")
        return becoming or (bool(sources) and Path(f"/proc/{pid}/exe").samefile(sources[0]))
    except OSError:
        return False


def release(path: Path) -> bool:
    """Let the machine that reads `path` go on; False if nobody reads it (yet, or any more)."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, b"go\n")
    finally:
        os.close(descriptor)
    return True
