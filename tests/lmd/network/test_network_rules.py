"""What machines can do in the factory's network, and what they cannot, shown by machines that try with all rights."""

import os
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from network_namespace import Namespace

from lmd.metadata import launch
from lmd.network import factory_network, firewall, leases
from lmd.network.addresses import BRIDGE, GATEWAY, METADATA, Place
from lmd.network.bridge import NetworkFault
from runtimes.containers.nic import connect
from runtimes.contract import Nic

SETTINGS = factory_network.Settings(libvirt="no", offered=("tcp 3128",))
OUTSIDE, FACTORY_OUTSIDE = "192.0.2.1", "192.0.2.2"
OUTSIDE6, FACTORY_OUTSIDE6 = "2001:db8::1", "2001:db8::2"


class Ground:
    """A factory with a site behind it, and machines in its network."""

    def __init__(self, home: Path) -> None:
        self.home, self.run = home, home / "run"
        self.run.mkdir(parents=True, mode=0o711)
        self.factory, self.outside = Namespace(), Namespace()
        self.machines: dict[str, tuple[Namespace, Nic]] = {}
        for space in (self.factory, self.outside):
            self.sh(space, "ip link set lo up")
        self.sh(self.factory, f"ip link add site type veth peer name site netns {self.outside.pid}")
        for space, four, six in (
            (self.factory, FACTORY_OUTSIDE, FACTORY_OUTSIDE6),
            (self.outside, OUTSIDE, OUTSIDE6),
        ):
            self.sh(space, f"ip addr add {four}/24 dev site && ip link set site up")
            self.sh(space, f"ip -6 addr add {six}/64 dev site nodad")
        self.sh(self.outside, f"ip route add 169.254.0.0/16 via {FACTORY_OUTSIDE}")
        self.sh(self.outside, f"ip -6 route add fd00::/8 via {FACTORY_OUTSIDE6}")
        self.settings = SETTINGS

    def sh(self, space: Namespace, script: str) -> str:
        done = subprocess.run(space.command("sh", "-ec", script), capture_output=True, text=True, check=False)
        assert done.returncode == 0, (script, done.stderr)
        return done.stdout

    def machine(self, name: str) -> tuple[Namespace, Nic]:
        directory = self.home / name
        directory.mkdir()
        nic = self.factory.run(factory_network.join, self.run, directory, name, self.settings)
        space = Namespace()
        self.machines[name] = (space, nic)
        self.factory.run(connect, nic, space.pid)
        return space, nic

    def mend(self) -> None:
        self.factory.run(factory_network.mend, self.run, self.settings)

    def close(self) -> None:
        if launch.serving(self.run):
            os.kill(int((self.run / "metadata.lock").read_text()), 15)
        for space, _ in self.machines.values():
            space.close()
        self.factory.close()
        self.outside.close()


@pytest.fixture(scope="module")
def ground(short_tmp: Path) -> Iterator[Ground]:
    made = Ground(short_tmp / "rules")
    try:
        made.machine("one")
        made.machine("other")
        yield made
    finally:
        made.close()


@pytest.fixture
def listener() -> Iterator[object]:
    """Listen in a namespace; every connection is told the address that it comes from."""
    sockets: list[socket.socket] = []

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                connection, peer = listening.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.sendall(peer[0].encode())

    def listen(space: Namespace, port: int) -> None:
        def make() -> socket.socket:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)

        sockets.append(space.run(make))
        threading.Thread(target=serve, args=(sockets[-1],), daemon=True).start()

    yield listen
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def unreached(space: Namespace, address: object, port: int, source: str | None = None) -> bool:
    """True if nobody answers."""
    return reached(space, address, port, source, 0.4) is None


def reached(space: Namespace, address: object, port: int, source: str | None = None, seconds: float = 10) -> str | None:
    """What a listener says; None if it is not reached."""

    def ask() -> str:
        with socket.create_connection((str(address), port), seconds, (source, 0) if source else None) as connection:
            return connection.recv(100).decode().removeprefix("::ffff:")

    try:
        return space.run(ask)
    except OSError:
        return None


def test_machines_get_out_by_the_factorys_address_and_nobody_gets_in(ground, listener) -> None:
    space, nic = ground.machines["one"]
    listener(ground.outside, 7000)
    assert reached(space, OUTSIDE, 7000) == FACTORY_OUTSIDE
    assert reached(space, OUTSIDE6, 7000) == FACTORY_OUTSIDE6
    listener(space, 7001)
    assert reached(ground.factory, nic.address, 7001) is not None, "the factory itself may"
    assert unreached(ground.outside, nic.address, 7001)
    assert unreached(ground.outside, nic.address6, 7001)


def test_machines_do_not_reach_each_other(ground, listener) -> None:
    (one, _), (other, nic) = ground.machines["one"], ground.machines["other"]
    listener(other, 7002)
    for address in (nic.address, nic.address6):
        assert reached(other, address, 7002) is not None
        assert unreached(one, address, 7002)


def test_machines_do_not_reach_each_other_even_on_a_port_that_has_lost_its_isolation(ground, listener) -> None:
    (one, first), (other, second) = ground.machines["one"], ground.machines["other"]
    listener(other, 7003)
    for nic in (first, second):
        ground.sh(ground.factory, f"bridge link set dev {nic.port} isolated off")
    assert unreached(one, second.address, 7003)
    ground.mend()
    assert "isolated on" in ground.sh(ground.factory, f"bridge -d link show dev {first.port}")


def test_machines_reach_nothing_of_the_factory_but_what_it_offers(ground, listener) -> None:
    space, nic = ground.machines["one"]
    for port in (22222, 3128):
        listener(ground.factory, port)
    for address in (GATEWAY, nic.gateway6, FACTORY_OUTSIDE, FACTORY_OUTSIDE6):
        assert reached(ground.factory, address, 22222) is not None
        assert unreached(space, address, 22222), address
    assert reached(space, GATEWAY, 3128) == nic.address


def test_the_server_is_reached_by_machines_and_by_nobody_outside(ground) -> None:
    space, nic = ground.machines["one"]

    def connects(where: Namespace, address: object) -> bool:
        def ask() -> bool:
            with socket.create_connection((str(address), 80), 0.4 if where is ground.outside else 10):
                return True

        try:
            return where.run(ask)
        except OSError:
            return False

    for address in (GATEWAY, METADATA, nic.gateway6):
        assert connects(space, address)
        assert not connects(ground.outside, address)


def test_a_stolen_ipv4_or_ipv6_address_gets_nowhere(ground, listener) -> None:
    (thief, own), (_, victim) = ground.machines["one"], ground.machines["other"]
    listener(ground.factory, 3128)
    free = str(Place(0x0102).address)
    for stolen in (victim.address, free, "192.168.7.7"):
        ground.sh(thief, f"ip addr add {stolen}/16 dev eth0")
        assert unreached(thief, GATEWAY, 3128, stolen), stolen
        ground.sh(thief, f"ip addr del {stolen}/16 dev eth0")
    ground.sh(thief, f"ip -6 addr add {victim.address6}/64 dev eth0 nodad")
    assert unreached(thief, own.gateway6, 3128, victim.address6)
    ground.sh(thief, f"ip -6 addr del {victim.address6}/64 dev eth0")
    assert reached(thief, GATEWAY, 3128, own.address) == own.address


def test_frames_that_lie_do_not_pass_the_port(ground) -> None:
    (thief, own), (_, victim) = ground.machines["one"], ground.machines["other"]
    mac, others = (bytes.fromhex(nic.mac.replace(":", "")) for nic in (own, victim))
    address, its, router = (socket.inet_aton(str(a)) for a in (own.address, victim.address, GATEWAY))
    everyone = b"\xff" * 6
    marks = {
        "own arp": _ether(everyone, mac, 0x0806) + _arp(2, mac, address, everyone, address),
        "own arp probe": _ether(everyone, mac, 0x0806) + _arp(1, mac, bytes(4), bytes(6), address),
        "arp for another": _ether(everyone, mac, 0x0806) + _arp(2, mac, its, everyone, its),
        "arp for the gateway": _ether(everyone, mac, 0x0806) + _arp(2, mac, router, everyone, router),
        "arp with another sender inside": _ether(everyone, mac, 0x0806) + _arp(2, others, its, everyone, its),
        "another mac": _ether(everyone, others, 0x0806) + _arp(2, others, its, everyone, its),
        "tagged": _ether(everyone, mac, 0x8100) + b"\0\1\x08\x06" + _arp(2, mac, its, everyone, its),
        "unknown protocol": _ether(everyone, mac, 0x88B5) + b"x" * 50,
        "spanning tree": _ether(bytes.fromhex("0180c2000000"), mac, 0x0026) + b"\x42\x42\x03" + b"\0" * 47,
        "router advertisement": _ether(bytes.fromhex("333300000001"), mac, 0x86DD) + _advertisement(own),
    }
    passed = _seen_on_bridge(ground, thief, marks)
    assert passed == {"own arp", "own arp probe"}


def test_a_docker_host_that_drops_what_is_forwarded_lets_machines_out(ground, listener) -> None:
    space, _ = ground.machines["one"]
    listener(ground.outside, 7004)
    for tool in ("iptables", "ip6tables"):
        ground.sh(ground.factory, f"{tool} -P FORWARD DROP; {tool} -F FORWARD")
    assert unreached(space, OUTSIDE, 7004)
    ground.mend()
    assert reached(space, OUTSIDE, 7004) == FACTORY_OUTSIDE
    assert reached(space, OUTSIDE6, 7004) == FACTORY_OUTSIDE6


def test_what_is_broken_is_mended_beneath_running_machines(ground, listener) -> None:
    space, nic = ground.machines["one"]
    listener(ground.factory, 3128)
    for damage in (
        f"ip link del {BRIDGE}",
        f"ip addr flush dev {BRIDGE}",
        f"ip link set {BRIDGE} down",
        "nft flush ruleset",
        f"ip link set {nic.port} nomaster",
        f"ip link del {BRIDGE}; nft flush ruleset",
    ):
        ground.sh(ground.factory, damage)
        ground.mend()
        last = time.monotonic() + 10
        while reached(space, GATEWAY, 3128) != nic.address:
            assert time.monotonic() < last, damage
        assert _dead(space, ground), f"no rules after: {damage}"


def test_a_look_finds_each_damage_and_nothing_where_nothing_is(ground) -> None:
    def looked() -> bool:
        return ground.factory.run(factory_network.check_and_mend, ground.run, ground.settings)

    _, nic = ground.machines["one"]
    ground.mend()
    assert not looked()
    for damage in (
        f"ip link del {BRIDGE}",
        f"ip addr flush dev {BRIDGE}",
        f"ip link set {BRIDGE} down",
        "nft flush ruleset",
        "nft flush table inet lmd",
        "nft flush chain bridge lmd machine",
        "nft flush set bridge lmd four",
        f"ip link set {nic.port} nomaster",
    ):
        ground.sh(ground.factory, damage)
        assert looked(), damage
        assert not looked(), f"after {damage}"


def test_a_host_without_machines_is_not_given_a_network_by_a_look(short_tmp: Path) -> None:
    assert not factory_network.check_and_mend(short_tmp / "no-machines", SETTINGS)
    assert not (short_tmp / "no-machines").exists()


def test_the_server_is_started_again_when_it_has_been_killed(ground) -> None:
    first = int((ground.run / "metadata.lock").read_text())
    os.kill(first, 9)
    last = time.monotonic() + 10
    while launch.serving(ground.run):
        assert time.monotonic() < last
        time.sleep(0.02)
    ground.mend()
    assert launch.serving(ground.run)
    assert int((ground.run / "metadata.lock").read_text()) != first


def test_more_machines_than_vac_could_have_get_addresses_of_their_own(short_tmp: Path) -> None:
    ground = Ground(short_tmp / "many")
    try:
        nics = []
        for number in range(150):
            directory = ground.home / f"m{number}"
            directory.mkdir()
            place = leases.take(ground.run, directory, 7)
            leases.note(ground.run, place, directory, f"m{number}", "")
            nics.append(place)
        assert len({place.address for place in nics}) == 150
        ground.mend()
        listed = ground.sh(ground.factory, "nft list set bridge lmd four")
        assert all(f'"{place.port}" . {place.mac} . {place.address}' in listed for place in nics)
        shutil.rmtree(ground.home / "m3")
        os.utime(ground.run / "callers" / str(nics[3].address), (0, 0))
        ground.mend()
        assert f'"{nics[3].port}"' not in ground.sh(ground.factory, "nft list set bridge lmd four")
    finally:
        ground.close()


def test_what_an_earlier_run_has_left_is_taken_over_and_nobody_gains_by_it(short_tmp: Path, listener) -> None:
    ground, stray, left = Ground(short_tmp / "left"), Namespace(), Place(0x0500)
    try:
        ground.sh(ground.factory, f"ip link add {BRIDGE} type bridge; ip link set {BRIDGE} up")
        ground.sh(
            ground.factory, f"ip -6 addr add fd00:dead::1/64 dev {BRIDGE} nodad; ip addr add {GATEWAY}/24 dev {BRIDGE}"
        )
        ground.sh(ground.factory, f"ip link add {left.port} master {BRIDGE} type veth peer name eth0 netns {stray.pid}")
        ground.sh(ground.factory, f"ip link set {left.port} up")
        ground.sh(stray, f"ip link set eth0 address {left.mac} up; ip addr add {left.address}/16 dev eth0")
        ground.sh(
            ground.factory, "nft 'table inet lmd { chain old { type filter hook input priority 0; policy drop; }; }'"
        )
        (ground.run / "callers").mkdir()
        for name, content in {str(left.address): '{"directory": "/gone"}', "junk": "\0", "169.254.6.0": "[]"}.items():
            (ground.run / "callers" / name).write_text(content)
            os.utime(ground.run / "callers" / name, (0, 0))
        (ground.run / "metadata.lock").write_text("1\n")
        (ground.run / factory_network.BY_LIBVIRT).touch()
        space, nic = ground.machine("one")
        listener(ground.factory, 3128)
        assert reached(space, GATEWAY, 3128) == nic.address
        assert unreached(stray, GATEWAY, 3128, str(left.address))
        assert [path.name for path in (ground.run / "callers").glob("169*")] == [nic.address]
        assert not ground.factory.run(factory_network.check_and_mend, ground.run, ground.settings)
    finally:
        stray.close()
        ground.close()


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ("ip addr add 169.254.10.2/16 dev site", "site (169.254.10.2/16)"),
        ("ip addr add 169.254.169.254/32 dev lo", "lo (169.254.169.254/32)"),
        ("ip route add 169.254.0.0/16 dev site", "site (route to 169.254.0.0/16)"),
        ("ip route add 169.254.169.254 via 192.0.2.1", "site (route to 169.254.169.254/32)"),
    ],
)
def test_somebody_elses_link_local_network_is_named_and_left_alone(short_tmp: Path, others: str, named: str) -> None:
    ground = Ground(short_tmp / f"others-{abs(hash(others)):x}")
    try:
        ground.sh(ground.factory, others)
        before = ground.sh(ground.factory, "ip addr; ip route; nft list ruleset")
        with pytest.raises(NetworkFault, match=re.escape(f"belongs to {named}")):
            ground.machine("one")
        assert ground.sh(ground.factory, "ip addr; ip route; nft list ruleset") == before
        assert not launch.serving(ground.run)
    finally:
        ground.close()


def test_takers_at_the_same_time_get_different_addresses(tmp_path: Path) -> None:
    taken: list[Place] = []

    def take(worker: int) -> None:
        for number in range(20):
            taken.append(leases.take(tmp_path, tmp_path / f"{worker}-{number}", 0x100))

    workers = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(set(taken)) == 80


def test_all_of_it_can_be_removed(short_tmp: Path) -> None:
    ground = Ground(short_tmp / "removed")
    try:
        ground.machine("one")
        ground.factory.run(factory_network.remove, ground.run, SETTINGS)
        assert BRIDGE not in ground.sh(ground.factory, "ip -br link")
        assert "table bridge lmd" not in ground.sh(ground.factory, "nft list ruleset")
        assert BRIDGE not in ground.sh(ground.factory, "iptables -S; ip6tables -S")
        ground.factory.run(factory_network.remove, ground.run, SETTINGS)
    finally:
        ground.close()


def test_a_missing_nft_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NetworkFault, match="nft is not installed: apt-get install nftables"):
        firewall.load("")


def test_an_ordinary_user_is_told_that_the_network_needs_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NetworkFault, match="needs root"):
        factory_network.mend(tmp_path, SETTINGS)


def _dead(space: Namespace, ground: Ground) -> bool:
    """True if the rules hold: a stolen address gets nowhere."""
    stolen = ground.machines["other"][1].address
    ground.sh(space, f"ip addr add {stolen}/16 dev eth0")
    try:
        return unreached(space, GATEWAY, 3128, stolen)
    finally:
        ground.sh(space, f"ip addr del {stolen}/16 dev eth0")


def _ether(to: bytes, source: bytes, kind: int) -> bytes:
    return to + source + struct.pack("!H", kind)


def _arp(operation: int, mac: bytes, address: bytes, to_mac: bytes, to: bytes) -> bytes:
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac + address + to_mac + to


def _advertisement(nic: Nic) -> bytes:
    """An ICMPv6 router advertisement from the machine's own link-local address."""
    source = Place(int.from_bytes(socket.inet_aton(nic.address)[2:], "big")).link_local.packed
    to = socket.inet_pton(socket.AF_INET6, "ff02::1")
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    words = source + to + struct.pack("!II", len(body), 58) + body
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    return struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + to + body


def _seen_on_bridge(ground: Ground, thief: Namespace, frames: dict[str, bytes]) -> set[str]:
    """Which frames that a machine sends come out at the bridge."""

    def open_on(name: str) -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind((name, 0))
        made.settimeout(0.5)
        return made

    ear, mouth = ground.factory.run(open_on, BRIDGE), thief.run(open_on, "eth0")
    seen = set()
    with ear, mouth:
        for frame in frames.values():
            mouth.send(frame)
        with suppress(TimeoutError):
            while True:
                heard = ear.recv(2000)
                seen |= {name for name, frame in frames.items() if heard[: len(frame)] == frame}
    return seen
