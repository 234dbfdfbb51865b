"""The factory's network as libvirt keeps it: its bridge, DHCP with an address and a name for each machine, DNS.

Built as a tree, read back as a tree, and changed only where it differs. The rules are ours (`firewall`), so the mode is
`open`, in which libvirt makes none: the same rules hold for machines of every kind, and whoever flushes the host's does
not leave libvirt at a loss. A machine is made known by a file in the directory of hosts that dnsmasq watches: asking
libvirt for it takes half a second each. All calls block: use a thread with a deadline.
"""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Tree

from lmd.network.addresses import BRIDGE, GATEWAY, MAC, NAME, NETWORK, Place, gateway6
from lmd.network.bridge import NetworkFault

STAMP = "urn:lmd:network:1"
DNSMASQ = "http://libvirt.org/schemas/network/dnsmasq/1.0"
VACS = "vac_169.254.0.0"
URI = "qemu:///system"
HOSTS = Path("/var/lib/libvirt/dnsmasq/lmd.hosts")
"""Below a directory that dnsmasq may read where SELinux or AppArmor confine it."""


def definition(prefix6: IPv6Network | None, hosts: Path) -> str:
    """The network's XML; `hosts` is the directory in which machines are listed. Nobody else gets an address."""
    network = Tree.Element("network")
    Tree.SubElement(network, "name").text = NAME
    Tree.SubElement(network, "uuid").text = str(uuid.uuid5(uuid.NAMESPACE_URL, STAMP))
    Tree.SubElement(Tree.SubElement(network, "metadata"), f"{{{STAMP}}}network")
    Tree.SubElement(network, "forward", mode="open")
    Tree.SubElement(network, "bridge", name=BRIDGE, stp="off", delay="0")
    Tree.SubElement(network, "mac", address=MAC)
    Tree.SubElement(network, "port", isolated="yes")
    Tree.SubElement(network, "ip", address=str(GATEWAY), prefix=str(NETWORK.prefixlen))
    if prefix6:
        address6 = str(gateway6(prefix6))
        Tree.SubElement(network, "ip", family="ipv6", address=address6, prefix=str(prefix6.prefixlen))
    options = Tree.SubElement(network, f"{{{DNSMASQ}}}options")
    for value in (
        f"dhcp-range={GATEWAY},static,{NETWORK.netmask}",
        f"dhcp-hostsdir={hosts}",
        "dhcp-authoritative",
        "leasefile-ro",
        "no-ping",
    ):
        Tree.SubElement(options, f"{{{DNSMASQ}}}option", value=value)
    return Tree.tostring(network, encoding="unicode")


def list_hosts(directory: Path, places: Mapping[Place, str]) -> None:
    """Have the directory list these machines and no others. Raises OSError."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    wanted = {str(place.address): f"{place.mac},{place.address},{name}\n" for place, name in places.items()}
    for path in directory.iterdir():
        if path.name not in wanted:
            path.unlink(missing_ok=True)
    for name, line in wanted.items():
        path = directory / name
        if not path.exists() or path.read_text() != line:
            # In one write and in place: dnsmasq looks when a file that it watches is closed or moved in.
            part = directory.with_name(f"{directory.name}.part")
            part.write_text(line)
            part.chmod(0o644)
            part.rename(path)


def ours(xml: str) -> bool:
    """True if a network's XML has our stamp."""
    return _read(xml).find(f"metadata/{{{STAMP}}}network") is not None


def same(xml: str, wanted: str) -> bool:
    """True if two definitions are the same but for what libvirt adds."""
    return _shape(xml) == _shape(wanted)


def ensure(prefix6: IPv6Network | None, hosts: Path, usable: bool, uri: str = URI) -> None:
    """Make the network what it has to be; started anew unless it is `usable` (its bridge and dnsmasq are there).

    Raises `NetworkFault`.
    """
    import libvirt

    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise NetworkFault(f"libvirt cannot be reached: {error}") from error
    try:
        _ensured(libvirt, connection, definition(prefix6, hosts), usable)
    except libvirt.libvirtError as error:
        raise NetworkFault(f"libvirt refuses the network {NAME}: {error}{_hint(str(error))}") from error
    finally:
        connection.close()


def remove(uri: str = URI) -> None:
    """Take the network from libvirt; not there, or not ours, is success."""
    import libvirt

    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    connection = libvirt.open(uri)
    try:
        with suppress(libvirt.libvirtError):
            network = connection.networkLookupByName(NAME)
            if ours(network.XMLDesc(0)):
                if network.isActive():
                    network.destroy()
                network.undefine()
    finally:
        connection.close()


def answers(uri: str = URI) -> bool:
    """True if libvirt's client is installed and a daemon with networks answers."""
    try:
        import libvirt
    except ImportError:
        return False
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    try:
        connection = libvirt.open(uri)
        try:
            connection.numOfNetworks()
        finally:
            connection.close()
    except libvirt.libvirtError:
        return False
    return True


def has_it(uri: str = URI) -> bool:
    """True if libvirt has the network, and it is ours."""
    import libvirt

    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    connection = libvirt.open(uri)
    try:
        return ours(connection.networkLookupByName(NAME).XMLDesc(0))
    except libvirt.libvirtError:
        return False
    finally:
        connection.close()


def _ensured(api: Any, connection: Any, wanted: str, usable: bool) -> None:
    try:
        network = connection.networkLookupByName(NAME)
    except api.libvirtError:
        network = connection.networkDefineXML(wanted)
    else:
        if not ours(network.XMLDesc(0)):
            raise NetworkFault(
                f"libvirt has a network {NAME} that is not ours: rename it, or remove it: virsh net-undefine {NAME}"
            )
        usable = usable and same(network.XMLDesc(0), wanted)
    if network.isActive() and not usable:
        network.destroy()
    if not network.isActive():
        network = connection.networkDefineXML(wanted)
        network.create()
    if not network.autostart():
        network.setAutostart(1)


def _read(xml: str) -> Tree.Element:
    return Tree.fromstring(xml)  # noqa: S314  libvirt's own


def _shape(xml: str) -> list[object]:
    top = _read(xml)
    forward, bridge = top.find("forward"), top.find("bridge")
    return [
        forward.get("mode") if forward is not None else None,
        bridge.get("name") if bridge is not None else None,
        sorted(
            (ip.get("family") or "ipv4", str(ip.get("address")), str(ip.get("prefix"))) for ip in top.iterfind("ip")
        ),
        [port.get("isolated") for port in top.iterfind("port")],
        [option.get("value") for option in top.iterfind(f"{{{DNSMASQ}}}options/{{{DNSMASQ}}}option")],
    ]


def _hint(text: str) -> str:
    if "accept_ra" in text:
        return " (or switch IPv6 off for machines: [network] ipv6 = false)"
    if "already in use" in text:
        return f" (is Vac's network still there? virsh net-destroy {VACS})"
    return ""
