"""The factory's network as a whole: made, checked and mended each time a machine wants a place in it.

The host has one, looked after under a lock, by whoever needs it: `lm run`, the daemon. A fault is data: it stops the
machines that want a place, and nothing that runs.
"""

import errno
import fcntl
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path
from typing import TypeVar

from lmd.metadata import launch
from lmd.network import addresses, bridge, firewall, host, leases, libvirt_network
from lmd.network.bridge import NetworkFault, Wanted
from runtimes.containers.nic import index
from runtimes.contract import Nic
from runtimes.tracebacks import let_go

LOCK = "network.lock"
BY_LIBVIRT = "network.by-libvirt"
"""A file that is there while libvirt, and so dnsmasq, has a part in the network."""
LIBVIRT_SECONDS = 60.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the network is to be: `libvirt` "auto" (where it answers), "yes" or "no"; `offered` as for `firewall`."""

    ipv6: bool = True
    libvirt: str = "auto"
    uri: str = libvirt_network.URI
    offered: tuple[str, ...] = ()
    hosts: Path = libvirt_network.HOSTS


def join(run: Path, directory: Path, name: str, settings: Settings) -> Nic:
    """A place for the machine `name`, whose directory will be `directory`, in a network that is as it has to be.

    The place is the machine's until its directory is gone. Raises `NetworkFault`. Blocks: use a thread.
    """
    with _held(run):
        prefix6 = _prefix(settings)
        try:
            leases.sweep(run)
            place = leases.take(run, directory, secrets.randbelow(1 << 16))
            leases.note(run, place, directory, name, str(place.address6(prefix6)) if prefix6 else "")
        except (OSError, leases.NoAddress) as error:
            raise NetworkFault(f"no place in the network {addresses.NAME}: {error}") from error
        try:
            by_libvirt = _mend(run, prefix6, settings)
        except BaseException:
            leases.give_back(run, place)
            raise
        return place.nic(prefix6, addresses.NAME if by_libvirt else "")


def mend(run: Path, settings: Settings) -> None:
    """Check the network, and make right what is not: for the daemon's rounds. Raises `NetworkFault`. Blocks."""
    with _held(run):
        leases.sweep(run)
        _mend(run, _prefix(settings), settings)


def check_and_mend(run: Path, settings: Settings) -> bool:
    """For whoever runs machines, every few seconds: mend the network beneath them if it is broken; True if it was.

    Costs a few milliseconds while all is well or no machine has a place. Raises `NetworkFault`, which stops nothing
    that runs. Blocks: use a thread.
    """
    if not leases.places(run) or whole(run):
        return False
    mend(run, settings)
    return True


def whole(run: Path) -> bool:
    """True if what breaks most easily is there: the server, the bridge with its addresses, machines' ports in it, the
    rules for each, and dnsmasq where libvirt has it.

    Cheap, changes nothing, and needs no lock. Blocks.
    """
    if not launch.serving(run):
        return False
    try:
        with bridge.netlink() as net:
            if not bridge.whole(net):
                return False
            connected = bridge.ports(net).keys() & {place.port for place in leases.places(run)}
            if not connected <= firewall.listed():
                return False
    except NetworkFault:
        return False
    return answers_dns() or not (run / BY_LIBVIRT).exists()


def remove(run: Path, settings: Settings) -> None:
    """Take all of it from the host: rules, bridge, libvirt's network. Not there is success. Blocks."""
    with _held(run):
        if settings.libvirt != "no" and _within(LIBVIRT_SECONDS, lambda: libvirt_network.answers(settings.uri)):
            _within(LIBVIRT_SECONDS, lambda: libvirt_network.remove(settings.uri))
        with bridge.netlink() as net:
            bridge.remove(net)
        firewall.keep_out()
        firewall.load(firewall.REMOVE)
        (run / BY_LIBVIRT).unlink(missing_ok=True)


def _mend(run: Path, prefix6: IPv6Network | None, settings: Settings) -> bool:
    """True if libvirt has a part in the network."""
    wanted, places = Wanted(prefix6), leases.places(run)
    with bridge.netlink() as net:
        if other := bridge.in_the_way(net):
            raise NetworkFault(
                f"the network {addresses.NETWORK} belongs to {other}: take it from there; if it is zeroconf's, set"
                " NOZEROCONF=yes (avahi-autoipd, NetworkManager's link-local), if Vac's: virsh net-destroy"
                f" {libvirt_network.VACS}"
            )
        by_libvirt = _libvirts(net, settings)
        if by_libvirt:
            libvirt_network.list_hosts(settings.hosts, places)
            usable = index(net, addresses.BRIDGE) is not None and answers_dns()
            _within(LIBVIRT_SECONDS, lambda: libvirt_network.ensure(prefix6, settings.hosts, usable, settings.uri))
        else:
            bridge.make(net)
        bridge.furnish(net, wanted)
        bridge.forwarding(wanted)
        try:
            firewall.load(firewall.rules(places, prefix6, offered=settings.offered))
        except ValueError as error:
            raise NetworkFault(f"[network] services: {error}") from error
        firewall.let_through()
        bridge.reconnect(net)
    if by_libvirt:
        (run / BY_LIBVIRT).touch()
    else:
        (run / BY_LIBVIRT).unlink(missing_ok=True)
    serve(run, prefix6)
    return by_libvirt


def serve(run: Path, prefix6: IPv6Network | None) -> None:
    """See to a metadata server. Raises `NetworkFault`."""
    try:
        launch.ensure(run, *host.sides(prefix6))
    except launch.CannotLaunch as error:
        raise NetworkFault(str(error)) from error


def _libvirts(net: object, settings: Settings) -> bool:
    """Whether libvirt makes the network: if it answers, unless machines live on a bridge that it has not made."""
    if settings.libvirt == "no":
        return False
    if not _within(LIBVIRT_SECONDS, lambda: libvirt_network.answers(settings.uri)):
        if settings.libvirt == "yes":
            raise NetworkFault(f"libvirt does not answer at {settings.uri}: is libvirtd (virtnetworkd) running?")
        return False
    if index(net, addresses.BRIDGE) is None or _within(LIBVIRT_SECONDS, lambda: libvirt_network.has_it(settings.uri)):
        return True
    if bridge.ports(net):
        if settings.libvirt == "yes":
            raise NetworkFault("machines live on a bridge that was made without libvirt; wait until they have ended")
        return False
    bridge.remove(net)
    return True


def answers_dns() -> bool:
    """True if the network's dnsmasq is there: somebody has its address and port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(addresses.GATEWAY), 53))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _prefix(settings: Settings) -> IPv6Network | None:
    """The host's own prefix; None where IPv6 is off."""
    return host.prefix6() if settings.ipv6 else None


@contextmanager
def _held(run: Path) -> Iterator[None]:
    """The host's one lock on its network. Raises `NetworkFault`."""
    if os.geteuid() != 0:
        raise NetworkFault(f"the network {addresses.NAME} needs root; as an ordinary user, leave network out")
    try:
        run.mkdir(mode=0o711, parents=True, exist_ok=True)
        descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise NetworkFault(f"{error.filename}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise NetworkFault(f"the network {addresses.NAME}: {error}") from error
    finally:
        os.close(descriptor)


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call into a library that may hang; given up after so long. Raises `NetworkFault`."""
    result: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:  # raised where it was called
            raised.append(let_go(error))

    thread = threading.Thread(target=run, name="libvirt network", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised.pop()
    if not result:
        raise NetworkFault(f"libvirt did not answer within {seconds:g} s")
    return result[0]
