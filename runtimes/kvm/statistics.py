"""What running machines use, from libvirt's bulk statistics. Blocking."""

from collections.abc import Mapping
from typing import Any

import libvirt

from runtimes.contract import Usage
from runtimes.kvm.listing import stamp

ASKED = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_BLOCK
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
)
HOW = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
"""A domain that is busy with something is told as far as it can be, and delays nobody."""


def usage(connection: libvirt.virConnect) -> Mapping[str, Usage]:
    """By machine id, for all running machines of ours."""
    used = {}
    for domain, values in connection.getAllDomainStats(ASKED, HOW):
        try:
            if stamp(domain):
                used[domain.name()] = translated(values)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
    return used


def translated(values: Mapping[str, Any]) -> Usage:
    """libvirt's values as the contract's: `cpu.time` is in nanoseconds, `balloon.rss` in KiB."""
    cards = int(values.get("net.count", 0))
    return Usage(
        cpu_seconds=int(values.get("cpu.time", 0)) / 1e9,
        memory_bytes=int(values.get("balloon.rss", 0)) * 1024,
        disk_bytes=_sum(values, "block", "allocation"),
        network_received_bytes=_sum(values, "net", "rx.bytes") if cards else None,
        network_sent_bytes=_sum(values, "net", "tx.bytes") if cards else None,
    )


def _sum(values: Mapping[str, Any], group: str, name: str) -> int | None:
    count = int(values.get(f"{group}.count", 0))
    return sum(int(values.get(f"{group}.{number}.{name}", 0)) for number in range(count)) if count else None
