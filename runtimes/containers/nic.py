"""Put a container into the factory's own network: a pair of interfaces by netlink, from outside, in its own namespace.

It asks nothing of the engine but an empty network namespace, so it is the same for every engine.
"""

import asyncio
import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from runtimes.contract import Nic, Rejected, Spec, Started, Unavailable

INSIDE = "eth0"
"""The interface's name in a container."""

_NODAD = 0x02
_INET6 = 10
_CLONE_NEWNET = 0x40000000


def joined(spec: Spec) -> Spec:
    """The spec with a step before its start that connects its `nic`, if it has one, and then what else it has."""
    nic = spec.nic
    if nic is None:
        return spec

    async def step(started: Started) -> None:
        try:
            await asyncio.to_thread(connect, nic, started.pid)
        except (NetlinkError, OSError) as error:
            raise Rejected(f"machine {spec.id}: cannot be put into the network {nic.bridge}: {error}") from error
        if spec.before_start:
            await spec.before_start(started)

    return replace(spec, before_start=step)


def connect(nic: Nic, pid: int) -> None:
    """Make the interface in the network namespace of a process, with its addresses and routes. Safe to repeat.

    Both ends are made with their final names in one request, the inner one where it belongs, so no crash leaves one
    that is nobody's: the pair goes with the namespace.
    Raises `Unavailable` if the bridge is gone, NetlinkError, OSError.
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
    _in_network_of(pid, lambda: _configure(nic))


def isolate(net: Any, port: int | None) -> None:
    """Let a port of a bridge reach the host alone, no other port that is isolated."""
    net.brport("set", index=port, isolated=1)


def index(net: Any, name: str) -> int | None:
    """The number of an interface; None if there is none of that name."""
    found = net.link_lookup(ifname=name)
    return found[0] if found else None


def _configure(nic: Nic) -> None:
    with IPRoute() as inside:
        number = index(inside, INSIDE)
        for name in (index(inside, "lo"), number):
            inside.link("set", index=name, state="up")
        inside.addr("add", index=number, address=nic.address, prefixlen=nic.prefix)
        inside.route("add", dst="default", gateway=nic.gateway)
        if nic.address6:
            _switch_on_ipv6()
            inside.addr("add", index=number, address=nic.address6, prefixlen=nic.prefix6, flags=_NODAD)
            inside.route("add", family=_INET6, dst="default", gateway=nic.gateway6, oif=number)


def _switch_on_ipv6() -> None:
    """For the interface in the network namespace of this thread: Docker's empty namespaces have it switched off."""
    with suppress(FileNotFoundError):  # a kernel that has no such switch has no IPv6 to refuse
        path = Path(f"/proc/sys/net/ipv6/conf/{INSIDE}/disable_ipv6")
        if path.read_text().strip() != "0":
            path.write_text("0\n")


def _in_network_of(pid: int, call: Callable[[], None]) -> None:
    """`call` in a thread that is in the network namespace of a process, and ends with it.

    pyroute2 would start a child for it, whose signals asyncio's handlers in this process take for their own.
    """
    failed: list[BaseException] = []

    def inside() -> None:
        try:
            descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "its network namespace cannot be entered")
            finally:
                os.close(descriptor)
            call()
        except BaseException as error:  # raised in the thread that waits
            failed.append(error)

    thread = threading.Thread(target=inside, name=f"network of {pid}")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
