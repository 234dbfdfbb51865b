"""The factory's network as libvirt keeps it: its bridge, NAT, DHCP with an address and a name for each machine, DNS.

Built as a tree, read back as a tree, and changed only where it differs. All calls block: use a thread with a deadline.
"""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv6Network
from typing import Any
from xml.etree import ElementTree as Tree

from lmd.network.addresses import BRIDGE, GATEWAY, MAC, NAME, NETWORK, gateway6
from lmd.network.bridge import NetworkFault

STAMP = "https://lmd.invalid/network/1"
VACS = "vac_169.254.0.0"
URI = "qemu:///system"

Hosts = Mapping[str, tuple[str, str]]
"""MAC address to IPv4 address and name."""


def definition(prefix6: IPv6Network | None, hosts: Hosts) -> str:
    """The network's XML. Nobody gets an address who is not listed."""
    network = Tree.Element("network")
    Tree.SubElement(network, "name").text = NAME
    Tree.SubElement(network, "uuid").text = str(uuid.uuid5(uuid.NAMESPACE_URL, STAMP))
    metadata = Tree.SubElement(network, "metadata")
    Tree.SubElement(metadata, f"{{{STAMP}}}network")
    forward = Tree.SubElement(network, "forward", mode="nat")
    nat = Tree.SubElement(forward, "nat", {"ipv6": "yes"} if prefix6 else {})
    Tree.SubElement(nat, "port", start="1024", end="65535")
    Tree.SubElement(network, "bridge", name=BRIDGE, stp="off", delay="0")
    Tree.SubElement(network, "mac", address=MAC)
    Tree.SubElement(network, "port", isolated="yes")
    four = Tree.SubElement(network, "ip", address=str(GATEWAY), prefix=str(NETWORK.prefixlen))
    dhcp = Tree.SubElement(four, "dhcp")
    for mac, (address, name) in sorted(hosts.items()):
        dhcp.append(_host(mac, address, name))
    if prefix6:
        address6 = str(gateway6(prefix6))
        Tree.SubElement(network, "ip", family="ipv6", address=address6, prefix=str(prefix6.prefixlen))
    return Tree.tostring(network, encoding="unicode")


def ours(xml: str) -> bool:
    """True if a network's XML has our stamp."""
    return _read(xml).find(f"metadata/{{{STAMP}}}network") is not None


def same(xml: str, wanted: str) -> bool:
    """True if two definitions are the same but for their DHCP hosts and what libvirt adds."""
    return _shape(xml) == _shape(wanted)


def hosts_of(xml: str) -> Hosts:
    """The DHCP hosts of a definition."""
    found = _read(xml).iterfind("ip/dhcp/host")
    return {h.get("mac", "").lower(): (h.get("ip", ""), h.get("name", "")) for h in found}


def changes(now: Hosts, wanted: Hosts) -> tuple[list[str], list[str]]:
    """Hosts to delete and to add, as XML; one that has changed is in both."""
    gone = [_text(mac, *now[mac]) for mac in now if wanted.get(mac) != now[mac]]
    new = [_text(mac, *wanted[mac]) for mac in wanted if now.get(mac) != wanted[mac]]
    return gone, new


def ensure(prefix6: IPv6Network | None, hosts: Hosts, bridge_there: bool, uri: str = URI) -> bool:
    """Make the network what it has to be; True if its bridge has been made anew, so that ports have fallen out.

    Raises `NetworkFault`.
    """
    import libvirt

    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise NetworkFault(f"libvirt cannot be reached: {error}") from error
    try:
        return _ensured(libvirt, connection, prefix6, hosts, bridge_there)
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


def _ensured(api: Any, connection: Any, prefix6: IPv6Network | None, hosts: Hosts, bridge_there: bool) -> bool:
    wanted = definition(prefix6, hosts)
    try:
        network = connection.networkLookupByName(NAME)
    except api.libvirtError:
        network = connection.networkDefineXML(wanted)
    else:
        if not ours(network.XMLDesc(0)):
            raise NetworkFault(
                f"libvirt has a network {NAME} that is not ours: rename it, or remove it: virsh net-undefine {NAME}"
            )
        if not same(network.XMLDesc(0), wanted):
            if network.isActive():
                network.destroy()
            network = connection.networkDefineXML(wanted)
    if network.isActive() and not bridge_there:
        network.destroy()  # its bridge has been taken from under it
    made = not network.isActive()
    if made:
        connection.networkDefineXML(wanted)
        network.create()
    if not network.autostart():
        network.setAutostart(1)
    _tell_hosts(api, network, hosts)
    return made


def _tell_hosts(api: Any, network: Any, hosts: Hosts) -> None:
    """Add and remove single hosts. Any change, even one that changes nothing, has libvirt start a dnsmasq that died."""
    gone, new = changes(hosts_of(network.XMLDesc(0)), hosts)
    if hosts and not gone and not new:
        mac, host = min(hosts.items())
        again = api.VIR_NETWORK_UPDATE_COMMAND_MODIFY
        network.update(
            again, api.VIR_NETWORK_SECTION_IP_DHCP_HOST, -1, _text(mac, *host), api.VIR_NETWORK_UPDATE_AFFECT_LIVE
        )
    both = api.VIR_NETWORK_UPDATE_AFFECT_LIVE | api.VIR_NETWORK_UPDATE_AFFECT_CONFIG
    section = api.VIR_NETWORK_SECTION_IP_DHCP_HOST
    for command, texts in (
        (api.VIR_NETWORK_UPDATE_COMMAND_DELETE, gone),
        (api.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, new),
    ):
        for text in texts:
            network.update(command, section, -1, text, both)


def _read(xml: str) -> Tree.Element:
    return Tree.fromstring(xml)  # noqa: S314  libvirt's own


def _shape(xml: str) -> list[object]:
    top = _read(xml)
    forward, nat, bridge = top.find("forward"), top.find("forward/nat"), top.find("bridge")
    return [
        forward.get("mode") if forward is not None else None,
        (nat.get("ipv6") or "no") if nat is not None else None,
        bridge.get("name") if bridge is not None else None,
        sorted((ip.get("family") or "ipv4", ip.get("address"), ip.get("prefix")) for ip in top.iterfind("ip")),
        [port.get("isolated") for port in top.iterfind("port")],
    ]


def _host(mac: str, address: str, name: str) -> Tree.Element:
    return Tree.Element("host", mac=mac, name=name, ip=address)


def _text(mac: str, address: str, name: str) -> str:
    return Tree.tostring(_host(mac, address, name), encoding="unicode")


def _hint(text: str) -> str:
    if "accept_ra" in text:
        return " (or switch IPv6 off for machines: [network] ipv6 = false)"
    if "already in use" in text:
        return f" (is Vac's network still there? virsh net-destroy {VACS})"
    return ""
