"""The numbers of the factory's network: what a machine's number makes of its addresses and of its port's name. Pure.

A machine has one number, the last 16 bits of its IPv4 address; its MAC address is Vac's (vacuum platform, network),
its IPv6 address is the one that it makes of that MAC by itself (RFC 4291, modified EUI-64), and the host's end of its
connection bears the number. So whatever a packet claims can be checked without a table.
"""

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from runtimes.contract import Nic

NAME = "lmd"
BRIDGE = "lmd0"
NETWORK = IPv4Network("169.254.0.0/16")
GATEWAY = IPv4Address("169.254.169.253")
"""Gateway, name server, machine/job features."""
METADATA = IPv4Address("169.254.169.254")
METADATA6 = IPv6Address("fd00:ec2::254")
"""Where EC2's clients look for metadata by IPv6."""
PREFIX4 = bytes.fromhex("564d")
MAC = (PREFIX4 + GATEWAY.packed).hex(":")
"""The bridge's own: one that went with its ports would leave machines with a neighbour that is gone."""
PORT = "lmd-"
FIRST, LAST = 0x0100, 0xFEFF
"""RFC 3927 reserves the first and the last 256 addresses of 169.254/16."""
OURS = frozenset({int(GATEWAY) & 0xFFFF, int(METADATA) & 0xFFFF})
MTU = 1500


@dataclass(frozen=True, slots=True)
class Place:
    """What belongs to one number."""

    number: int

    def __post_init__(self) -> None:
        if not FIRST <= self.number <= LAST or self.number in OURS:
            raise ValueError(f"{self.number:#06x} is no machine's number in {NETWORK}")

    @property
    def address(self) -> IPv4Address:
        return NETWORK.network_address + self.number

    @property
    def mac(self) -> str:
        return (PREFIX4 + self.address.packed).hex(":")

    @property
    def port(self) -> str:
        """Name of the host's end of the connection."""
        return f"{PORT}{self.number:04x}"

    def address6(self, prefix: IPv6Network) -> IPv6Address:
        """The address that the machine's kernel makes of its MAC within `prefix`."""
        return prefix.network_address + interface_id(self.mac)

    @property
    def link_local(self) -> IPv6Address:
        return IPv6Address("fe80::") + interface_id(self.mac)

    def nic(self, prefix6: IPv6Network | None, network: str) -> Nic:
        """The place as runtimes want it; `network` is libvirt's name of the network, or ""."""
        return Nic(
            address=str(self.address),
            prefix=NETWORK.prefixlen,
            gateway=str(GATEWAY),
            address6=str(self.address6(prefix6)) if prefix6 else "",
            prefix6=prefix6.prefixlen if prefix6 else 64,
            gateway6=str(gateway6(prefix6)) if prefix6 else "",
            mac=self.mac,
            port=self.port,
            bridge=BRIDGE,
            mtu=MTU,
            network=network,
        )


def place_of(address: IPv4Address) -> Place:
    """The place that an address belongs to. Raises ValueError if it is no machine's."""
    if address not in NETWORK:
        raise ValueError(f"{address} is not in {NETWORK}")
    return Place(int(address) & 0xFFFF)


def interface_id(mac: str) -> int:
    """Modified EUI-64 of a MAC address (RFC 4291, appendix A)."""
    data = bytes.fromhex(mac.replace(":", ""))
    return int.from_bytes(bytes([data[0] ^ 2]) + data[1:3] + b"\xff\xfe" + data[3:], "big")


def own_prefix(machine_id: str) -> IPv6Network:
    """A unique local prefix (RFC 4193) for this host, from its machine-id; the same after each boot."""
    digest = hashlib.sha256(b"lmd network " + machine_id.encode()).digest()
    return IPv6Network((b"\xfd" + digest[:5] + bytes(10), 64))


def gateway6(prefix: IPv6Network) -> IPv6Address:
    """The factory's own address in a prefix."""
    return prefix.network_address + (int(GATEWAY) & 0xFFFF)


def netmask6(length: int) -> str:
    """An IPv6 prefix length as the mask that OpenStack's network_data wants."""
    return str(IPv6Network((0, length)).netmask)
