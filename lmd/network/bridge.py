"""The bridge of the factory's network and its ports, by netlink. All calls block: use a thread."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lmd.network import addresses
from lmd.network.addresses import BRIDGE, GATEWAY, MAC, METADATA, METADATA6, MTU, NETWORK
from runtimes.containers.nic import index, isolate


class NetworkFault(Exception):
    """The factory's network cannot be made or used; one line that says what is in the way and what to do."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the bridge has to be: its IPv6 prefix, None for a host without IPv6."""

    prefix6: IPv6Network | None

    def addresses(self) -> dict[str, int]:
        """The host's own addresses on the bridge, and the length of their prefixes."""
        found = {str(GATEWAY): NETWORK.prefixlen, str(METADATA): 32}
        if self.prefix6:
            found |= {str(addresses.gateway6(self.prefix6)): self.prefix6.prefixlen, str(METADATA6): 128}
        return found


@contextmanager
def netlink() -> Iterator[Any]:
    """Netlink in the network namespace of this thread. Raises `NetworkFault` for what the kernel refuses."""
    try:
        with IPRoute() as open_:
            yield open_
    except NetlinkError as error:
        raise NetworkFault(f"the kernel refuses a part of the network {addresses.NAME}: {error}") from error


def in_the_way(net: Any) -> str | None:
    """Who else has 169.254/16 here, such as `eth0 (169.254.10.2/16)`; None if nobody has."""
    names = {link["index"]: link.get("ifname") for link in net.get_links()}
    for found in net.get_addr(family=2):
        name = names.get(found["index"])
        if name != BRIDGE and IPv4Network(f"{found.get('local') or found.get('address')}/32").subnet_of(NETWORK):
            return f"{name} ({found.get('address')}/{found['prefixlen']})"
    for route in net.get_routes(family=2, table=254):
        name, to = names.get(route.get("oif")), route.get("dst")
        if to and name != BRIDGE and ip_network(f"{to}/{route['dst_len']}", strict=False).overlaps(NETWORK):
            return f"{name} (route to {to}/{route['dst_len']})"
    return None


def make(net: Any) -> None:
    """Make the bridge unless it is there. Raises `NetworkFault` if something else has its name."""
    number = index(net, BRIDGE)
    if number is None:
        with suppress_exists():
            net.link("add", ifname=BRIDGE, kind="bridge", address=MAC, br_stp_state=0, br_forward_delay=0)
        return
    kind = (net.get_links(number)[0].get("linkinfo") or {}).get("kind")
    if kind != "bridge":
        raise NetworkFault(
            f"the interface {BRIDGE} is there and no bridge; rename it, or remove it: ip link del {BRIDGE}"
        )


def furnish(net: Any, wanted: Wanted) -> None:
    """Give the bridge its addresses and turn it on; what is right already is left alone."""
    number = index(net, BRIDGE)
    if number is None:
        raise NetworkFault(f"the bridge {BRIDGE} is gone")
    if net.get_links(number)[0].get("address") != MAC:
        net.link("set", index=number, address=MAC)
    net.link("set", index=number, state="up", mtu=MTU)
    there = _addresses(net, number)
    for address, length in wanted.addresses().items():
        if address in there and there[address] != length:
            # Whoever left it: with another mask the kernel would look for machines elsewhere.
            net.addr("del", index=number, address=address, prefixlen=there[address])
        if there.get(address) != length:
            with suppress_exists():
                words = {"flags": 0x02} if ":" in address else {}  # IFA_F_NODAD: usable at once
                net.addr("add", index=number, address=address, prefixlen=length, **words)


def _addresses(net: Any, number: int) -> dict[str, int]:
    """The addresses of an interface, and the length of their prefixes."""
    return {str(found.get("address")): found["prefixlen"] for found in net.get_addr(index=number)}


def forwarding(wanted: Wanted) -> None:
    """Let the kernel pass packets on. Raises `NetworkFault` if it may not be told to."""
    paths = ["ipv4/ip_forward"] + (["ipv6/conf/all/forwarding"] if wanted.prefix6 else [])
    for path in (Path("/proc/sys/net") / path for path in paths):
        try:
            if path.read_text().strip() == "0":
                path.write_text("1\n")
        except OSError as error:
            raise NetworkFault(f"{path} cannot be set to 1: {error.strerror}") from error


def ports(net: Any) -> dict[str, int]:
    """Name and number of every port that is a machine's, in the bridge or fallen out of it."""
    return {
        name: link["index"]
        for link in net.get_links()
        if (name := str(link.get("ifname"))).startswith(addresses.PORT) and name != BRIDGE
    }


def reconnect(net: Any) -> int:
    """Put ports that have lost the bridge back into it, and shut them off from each other; returns how many it were."""
    bridge, count = index(net, BRIDGE), 0
    for number in ports(net).values():
        if net.get_links(number)[0].get("master") != bridge:
            net.link("set", index=number, master=bridge)
            net.link("set", index=number, state="up")
            count += 1
        isolate(net, number)
    return count


def whole(net: Any) -> bool:
    """True if the bridge is up and has its addresses, and every machine's port is in it."""
    number = index(net, BRIDGE)
    if number is None or net.get_links(number)[0].get("state") != "up":
        return False
    there = _addresses(net, number)
    if any(there.get(address) != length for address, length in Wanted(None).addresses().items()):
        return False
    return all(net.get_links(port)[0].get("master") == number for port in ports(net).values())


def remove(net: Any) -> None:
    """Remove the bridge; not there is success."""
    if (number := index(net, BRIDGE)) is not None:
        with suppress(NetlinkError):
            net.link("del", index=number)


@contextmanager
def suppress_exists() -> Iterator[None]:
    """Pass over that somebody else was quicker."""
    try:
        yield
    except NetlinkError as error:
        if error.code != 17:
            raise
