"""The network of bridged machines: one of ours in each engine, `lmd`."""

from pathlib import Path

NAME = "lmd"
LABEL = "lmd.network"


def has_ipv6(if_inet6: str) -> bool:
    """True if an interface other than loopback has an address of global scope (the text of /proc/net/if_inet6)."""
    rows = [line.split() for line in if_inet6.splitlines()]
    return any(len(row) == 6 and row[3] == "00" and row[5] != "lo" for row in rows)


def host_has_ipv6() -> bool:
    """True if this host can reach others by IPv6, as far as its addresses tell."""
    try:
        return has_ipv6(Path("/proc/net/if_inet6").read_text())
    except OSError:
        return False
