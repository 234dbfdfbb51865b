"""What the network has of this host alone: its IPv6 prefix."""

import os
from contextlib import suppress
from ipaddress import IPv6Network
from pathlib import Path

from lmd.network import addresses

MACHINE_ID = Path("/etc/machine-id")


def prefix6() -> IPv6Network | None:
    """The host's own prefix for machines; None where the kernel has no IPv6."""
    if not Path("/proc/net/if_inet6").exists():
        return None
    with suppress(OSError):
        return addresses.own_prefix(MACHINE_ID.read_text().strip())
    return addresses.own_prefix(os.uname().nodename)


def sides(prefix: IPv6Network | None) -> tuple[list[str], list[str]]:
    """The addresses of features, and those of metadata."""
    if prefix is None:
        return [str(addresses.GATEWAY)], [str(addresses.METADATA)]
    return (
        [str(addresses.GATEWAY), str(addresses.gateway6(prefix))],
        [str(addresses.METADATA), str(addresses.METADATA6)],
    )
