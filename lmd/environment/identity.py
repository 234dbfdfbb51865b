"""Names of machines, and of the boot that they live in."""

import base64
import re
from pathlib import Path

RANDOM_BYTES = 8
LONGEST_HOST = 63 - 1 - 13


def machine_id(host: str, random: bytes) -> str:
    """`<host label>-<13 base32 characters>`, a DNS label, from the host's name and 8 random bytes.

    The host's part is its first label in lower case, what DNS does not allow made hyphens, cut so that all fits 63.
    """
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"needs {RANDOM_BYTES} random bytes, got {len(random)}")
    label = re.sub(r"[^a-z0-9]+", "-", host.split(".")[0].lower()).strip("-")[:LONGEST_HOST].strip("-") or "host"
    return f"{label}-{base64.b32encode(random).decode().rstrip('=').lower()}"


def boot_id(path: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """The kernel's identity of this boot; another one means that no machine of before can be running."""
    return path.read_text().strip()
