"""Put a container into the factory's own network: a pair of interfaces by netlink, from outside, in its own namespace.

It asks nothing of the engine but an empty network namespace, so it is the same for every engine.
"""

import asyncio
from dataclasses import replace
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from runtimes.contract import Nic, Rejected, Spec, Started, Unavailable

INSIDE = "eth0"
"""The interface's name in a container."""

_NODAD = 0x02
_INET6 = 10


def joined(spec: Spec) -> Spec:
    """The spec with a step before its start that connects its `nic`, if it has one, and then what else it has."""
    nic = spec.nic
    if nic is None:
        return spec

    async def step(started: Started) -> None:
        try:
            await asyncio.to_thread(connect, nic, started.pid)
        except NetlinkError as error:
            raise Rejected(f"machine {spec.id}: cannot be put into the network {nic.bridge}: {error}") from error
        if spec.before_start:
            await spec.before_start(started)

    return replace(spec, before_start=step)


def connect(nic: Nic, pid: int) -> None:
    """Make the interface in the network namespace of a process, with its addresses and routes. Safe to repeat.

    Both ends are made with their final names in one request, the inner one where it belongs, so no crash leaves one
    that is nobody's: the pair goes with the namespace. Raises `Unavailable` if the bridge is gone, and NetlinkError.
    """
    with IPRoute() as net:
        bridge = index(net, nic.bridge)
        if bridge is None:
            raise Unavailable(f"the bridge {nic.bridge} is gone")
        if (old := index(net, nic.port)) is not None:
            net.link("del", index=old)
        peer = {"ifname": INSIDE, "address": nic.mac, "mtu": nic.mtu, "net_ns_pid": pid}
        net.link("add", ifname=nic.port, kind="veth", mtu=nic.mtu, master=bridge, peer=peer)
        port = index(net, nic.port)
        isolate(net, port)
        net.link("set", index=port, state="up")
    with IPRoute(netns=f"/proc/{pid}/ns/net") as inside:
        _configure(inside, nic)


def isolate(net: Any, port: int | None) -> None:
    """Let a port of a bridge reach the host alone, no other port that is isolated."""
    net.brport("set", index=port, isolated=1)


def index(net: Any, name: str) -> int | None:
    """The number of an interface; None if there is none of that name."""
    found = net.link_lookup(ifname=name)
    return found[0] if found else None


def _configure(inside: Any, nic: Nic) -> None:
    number = index(inside, INSIDE)
    for name in (index(inside, "lo"), number):
        inside.link("set", index=name, state="up")
    inside.addr("add", index=number, address=nic.address, prefixlen=nic.prefix)
    inside.route("add", dst="default", gateway=nic.gateway)
    if nic.address6:
        inside.addr("add", index=number, address=nic.address6, prefixlen=nic.prefix6, flags=_NODAD)
        inside.route("add", family=_INET6, dst="default", gateway=nic.gateway6, oif=number)
