"""The network of bridged machines: one of ours, `lmd`, with IPv6 where the host has it (Podman's default has not)."""

from pathlib import Path
from typing import Any

from runtimes.containers.engine import Engine
from runtimes.contract import Network, Rejected

NAME = "lmd"
LABEL = "lmd.network"


def has_ipv6(if_inet6: str) -> bool:
    """True if an interface other than loopback has an address of global scope (the text of /proc/net/if_inet6)."""
    rows = [line.split() for line in if_inet6.splitlines()]
    return any(len(row) == 6 and row[3] == "00" and row[5] != "lo" for row in rows)


def request(network: Network, rootless: bool) -> dict[str, Any]:
    """The part of a create request that puts a machine into its network.

    A rootless machine has the user-mode network that Podman gives by default.
    """
    if network is Network.LMD:
        return {"netns": {"nsmode": str(Network.NONE)}}  # its interface comes before its start
    if network is not Network.BRIDGE:
        return {"netns": {"nsmode": str(network)}}
    return {} if rootless else {"netns": {"nsmode": "bridge"}, "networks": {NAME: {}}}


async def ensure(engine: Engine) -> None:
    """Make the network unless it is there. Raises `Rejected` if another of this name is, or if Podman refuses it."""
    found = await engine.call("GET", f"/networks/{NAME}/json")
    if found.status == 200:
        if LABEL not in (found.body.get("labels") or {}):
            raise Rejected(f"podman has a network {NAME} that is not ours: rename it, or give the machinetype another")
        return
    wanted = {
        "name": NAME,
        "driver": "bridge",
        "ipv6_enabled": has_ipv6(_text(Path("/proc/net/if_inet6"))),
        "dns_enabled": False,
        "labels": {LABEL: "1"},
    }
    made = await engine.call("POST", "/networks/create", body=wanted)
    if made.status not in (200, 409):
        raise made.fault(f"make the network {NAME}")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
