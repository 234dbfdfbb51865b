"""The network of bridged machines: one of ours, `lmd`, with IPv6 where the host has it (Podman's default has not)."""

from typing import Any

from runtimes.containers.engine import Engine
from runtimes.containers.network import LABEL, NAME, host_has_ipv6
from runtimes.contract import Network, Rejected


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
        "ipv6_enabled": host_has_ipv6(),
        "dns_enabled": False,
        "labels": {LABEL: "1"},
    }
    made = await engine.call("POST", "/networks/create", body=wanted)
    if made.status not in (200, 409):
        raise made.fault(f"make the network {NAME}")
