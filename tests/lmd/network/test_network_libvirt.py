"""The network as libvirt makes it: DHCP, names, many machines, and what can be wrong with libvirt."""

import asyncio
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from network_namespace import Namespace

from lmd.environment import features
from lmd.environment.directory import Directory
from lmd.environment.features import Allocation
from lmd.metadata import card, launch
from lmd.metadata.account import account
from lmd.metadata.card import Card
from lmd.network import factory_network, leases, libvirt_network
from lmd.network.addresses import BRIDGE, GATEWAY, NAME
from lmd.network.bridge import NetworkFault
from runtimes.containers.nic import connect
from runtimes.contract import Boot, Image, ImageKind, Limits, Network, Spec, State
from runtimes.kvm import Kvm

ANSWERED = """#!/bin/sh
[ "$1" = bound ] || exit 0
echo "$ip $mask $router $dns $hostname"
"""


class Factory:
    """The tests' libvirt as a factory."""

    def __init__(self, engine: Any, home: Path) -> None:
        self.engine, self.home, self.run = engine, home, home / "run"
        self.run.mkdir(parents=True, mode=0o711)
        home.chmod(0o711)
        self.space = Namespace.of(engine._daemon.pid)
        self.settings = factory_network.Settings(libvirt="yes", uri=engine.options["uri"], hosts=home / "hosts")
        self.machines: list[Namespace] = []

    def join(self, name: str) -> Any:
        (self.home / name).mkdir()
        return self.space.run(factory_network.join, self.run, self.home / name, name, self.settings)

    def mend(self) -> None:
        self.space.run(factory_network.mend, self.run, self.settings)

    def virsh(self, *words: str) -> str:
        command = ["virsh", "--connect", self.settings.uri, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sh(self, script: str) -> str:
        done = subprocess.run(self.space.command("sh", "-ec", script), capture_output=True, text=True, check=False)
        assert done.returncode == 0, (script, done.stderr)
        return done.stdout

    def dhcp(self, nic: Any) -> list[str]:
        """What a machine is told that asks for an address: address, mask, router, name server, name."""
        machine = Namespace()
        self.machines.append(machine)
        self.space.run(connect, nic, machine.pid)
        script = self.home / "answered"
        script.write_text(ANSWERED)
        script.chmod(0o755)
        ask = [
            "sh",
            "-ec",
            "ip addr flush dev eth0; exec busybox udhcpc -i eth0 -n -q -f -t 20 -T 1 -s $0",
            str(script),
        ]
        done = subprocess.run(machine.command(*ask), capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def close(self) -> None:
        for machine in self.machines:
            machine.close()
        if launch.serving(self.run):
            os.kill(int((self.run / "metadata.lock").read_text()), 15)
        self.space.run(factory_network.remove, self.run, self.settings)
        shutil.rmtree(self.home)


@pytest.fixture
def factory(libvirt_engine, short_tmp: Path) -> Iterator[Factory]:
    made = Factory(libvirt_engine, short_tmp / f"ln{secrets.token_hex(3)}")
    try:
        yield made
    finally:
        made.close()


def test_a_machine_is_given_its_address_and_its_name(factory: Factory) -> None:
    nic = factory.join("wn1-one")
    factory.join("wn1-other")
    told = factory.dhcp(nic)
    assert told == [nic.address, "16", str(GATEWAY), str(GATEWAY), "wn1-one"]
    asked = subprocess.run(
        factory.machines[0].command(
            "sh", "-c", f"ip addr add {nic.address}/16 dev eth0; busybox nslookup wn1-one {GATEWAY}"
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert nic.address in asked.stdout.partition("wn1-one")[2]
    assert nic.network == NAME


def test_more_machines_than_vac_could_have_are_listed_and_go_when_they_are_gone(factory: Factory) -> None:
    for number in range(130):
        (factory.home / f"m{number}").mkdir()
        place = leases.take(factory.run, factory.home / f"m{number}", 0x100)
        leases.note(factory.run, place, factory.home / f"m{number}", f"m{number}", "")
    factory.mend()
    nic = factory.join("last")
    assert factory.dhcp(nic)[0] == nic.address
    assert len(list(factory.settings.hosts.iterdir())) == 131
    for number in range(130):
        shutil.rmtree(factory.home / f"m{number}")
    for path in (factory.run / "callers").iterdir():
        os.utime(path, (0, 0))
    factory.mend()
    assert [path.name for path in factory.settings.hosts.iterdir()] == [nic.address]


def test_a_dnsmasq_that_was_killed_is_back(factory: Factory) -> None:
    nic = factory.join("one")
    _kill_dnsmasq(factory)
    last = time.monotonic() + 10
    while factory.space.run(factory_network.answers_dns):
        assert time.monotonic() < last
        time.sleep(0.02)
    assert factory.space.run(factory_network.check_and_mend, factory.run, factory.settings)
    assert factory.dhcp(nic)[0] == nic.address
    assert not factory.space.run(factory_network.check_and_mend, factory.run, factory.settings)


def test_a_libvirt_that_was_restarted_still_has_it_and_machines_go_on(factory: Factory) -> None:
    nic = factory.join("one")
    assert factory.dhcp(nic)[0] == nic.address
    factory.engine.tell("end")
    factory.engine.tell("start")
    factory.mend()
    assert "yes" in factory.virsh("net-info", NAME)
    assert nic.port in factory.sh(f"ip -br link show master {BRIDGE}")


@pytest.mark.parametrize(
    "damage",
    [f"ip link del {BRIDGE}", f"ip addr flush dev {BRIDGE}", "nft flush ruleset", f"ip link set {BRIDGE} down"],
)
def test_what_is_taken_from_under_libvirt_is_mended(factory: Factory, damage: str) -> None:
    nic = factory.join("one")
    factory.dhcp(nic)
    factory.sh(damage)
    factory.mend()
    assert nic.port in factory.sh(f"ip -br link show master {BRIDGE}")
    assert str(GATEWAY) in factory.sh(f"ip addr show {BRIDGE}")
    assert nic.address in factory.sh("nft list table bridge lmd")


def test_a_definition_that_somebody_has_changed_is_put_right(factory: Factory) -> None:
    factory.join("one")
    factory.virsh("net-destroy", NAME)
    factory.virsh("net-undefine", NAME)
    (factory.home / "net.xml").write_text(libvirt_network.definition(IPv6Network("fd00:1234::/64"), factory.home))
    factory.virsh("net-define", str(factory.home / "net.xml"))
    factory.mend()
    assert "fd00:1234" not in factory.virsh("net-dumpxml", NAME)


def test_a_network_of_our_name_that_is_not_ours_is_left_alone(factory: Factory) -> None:
    (factory.home / "net.xml").write_text(f"<network><name>{NAME}</name><bridge name='virbr7'/></network>")
    factory.virsh("net-define", str(factory.home / "net.xml"))
    try:
        with pytest.raises(NetworkFault, match="a network lmd that is not ours: rename it"):
            factory.join("one")
    finally:
        factory.virsh("net-undefine", NAME)


def test_vacs_network_is_named_with_what_to_type(factory: Factory) -> None:
    xml = "<network><name>vac_169.254.0.0</name><forward mode='nat'/><bridge name='virbr1'/>"
    xml += "<ip address='169.254.169.253' netmask='255.255.0.0'/></network>"
    (factory.home / "net.xml").write_text(xml)
    factory.virsh("net-create", str(factory.home / "net.xml"))
    try:
        with pytest.raises(NetworkFault, match=r"belongs to virbr1 .* virsh net-destroy vac_169\.254\.0\.0"):
            factory.join("one")
    finally:
        factory.virsh("net-destroy", "vac_169.254.0.0")
    assert factory.join("two").network == NAME


def test_a_libvirt_that_hangs_is_given_up(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory_network, "LIBVIRT_SECONDS", 1.0)
    factory.engine.tell("stop")
    try:
        began = time.monotonic()
        with pytest.raises(NetworkFault, match="libvirt did not answer within 1 s"):
            factory.join("one")
        assert time.monotonic() - began < 20
    finally:
        factory.engine.tell("continue")


def test_a_libvirt_that_is_not_there_is_said_and_without_it_containers_have_a_network_too(factory: Factory) -> None:
    nowhere = factory_network.Settings(libvirt="yes", uri="qemu:///system?socket=/nowhere/sock")
    (factory.home / "one").mkdir()
    with pytest.raises(NetworkFault, match=r"is libvirtd \(virtnetworkd\) running\?"):
        factory.space.run(factory_network.join, factory.run, factory.home / "one", "one", nowhere)
    auto = factory_network.Settings(uri=nowhere.uri)
    assert factory.space.run(factory_network.join, factory.run, factory.home / "one", "one", auto).network == ""
    # Once libvirt is there it takes over, as nobody lives on the bridge.
    assert factory.join("two").network == NAME


def _described(factory: Factory, number: int) -> tuple[str, Directory, Any]:
    """A machine with a place in the network, which the server knows; its name, its directory and its place."""
    given = Allocation(
        job_id=f"6f1a0c7e-0000-4000-8000-{number:012}",
        processors=1,
        memory_bytes=2**28,
        started=time.time(),
        shutdown_time=time.time() + 600,
        grace=1,
    )
    name = f"net-{secrets.token_hex(4)}"
    directory = Directory(factory.home / "machines" / name)
    nic = factory.space.run(factory_network.join, factory.run, directory.path, name, factory.settings)
    directory.make(features.machinefeatures(given), features.jobfeatures(given))
    server = account(os.geteuid())
    server.share(factory.home / "machines", 0o710)
    told = Card(
        id=name,
        job_id=given.job_id,
        space="s",
        machinetype="t",
        factory="f",
        address=nic.address,
        address6=nic.address6,
        mac=nic.mac,
        port=nic.port,
        bridge=nic.bridge,
        variables={},
        outputs_bytes=10**6,
        outputs_files=10,
    )
    card.make(directory.path, told, b"#!/bin/sh\n", server)
    return name, directory, nic


SPOOFS = """
ask() { timeout 20 wget -q -O - http://169.254.169.254/latest/meta-data/instance-id; }
try() { timeout 4 wget -q -O - http://169.254.169.254/latest/meta-data/instance-id || echo nothing; }
put() {
    printf 'PUT /joboutputs/%s HTTP/1.0\r\nContent-Length: %s\r\n\r\n%s' $1 ${#2} "$2" | nc 169.254.169.253 80
}
become() {
    ip addr flush dev eth0
    ip link set eth0 down; ip link set eth0 address $1; ip link set eth0 up
    ip addr add $2/16 dev eth0
}
put before "$(ask)"
become OWN_MAC ITS_ADDRESS; address=$(try)
become ITS_MAC OWN_ADDRESS; mac=$(try)
become ITS_MAC ITS_ADDRESS; both=$(try)
arping -q -U -c 2 -w 3 -I eth0 -s 169.254.169.253 169.254.169.253
become OWN_MAC OWN_ADDRESS
put after "$(ask)"
put spoofed "$address $mac $both"
"""


@pytest.mark.timeout(300)
def test_a_virtual_machine_asks_and_puts_and_gets_nothing_as_somebody_else(
    factory: Factory, micro_kit, busybox_root: Path
) -> None:
    name, directory, nic = _described(factory, 1)
    _, _, its = _described(factory, 2)
    script = SPOOFS
    for word, value in {
        "OWN_MAC": nic.mac,
        "OWN_ADDRESS": nic.address,
        "ITS_MAC": its.mac,
        "ITS_ADDRESS": its.address,
    }.items():
        script = script.replace(word, value)
    spec = Spec(
        id=name,
        owner="run:0",
        space="s",
        machinetype="t",
        image=Image(kind=ImageKind.ROOT_DIRECTORY, location=str(busybox_root)),
        boot=Boot(kernel=micro_kit.kernel, initramfs=micro_kit.initramfs),
        entrypoint=("/bin/sh", "-c", script),
        limits=Limits(processors=1, memory_bytes=2**28),
        network=Network.LMD,
        nic=nic,
    )

    async def live() -> None:
        runtime = Kvm(factory.engine.settings)
        try:
            await runtime.create(spec)
            last = time.monotonic() + 200
            while (await runtime.machines())[0].state is not State.EXITED:
                assert time.monotonic() < last
                await asyncio.sleep(0.2)
        finally:
            await runtime.destroy(name)
            await runtime.aclose()

    asyncio.run(live())
    said = {path.name: path.read_text().strip() for path in directory.joboutputs.iterdir()}
    own = "6f1a0c7e-0000-4000-8000-000000000001"
    assert said == {"before": own, "after": own, "spoofed": "nothing nothing nothing"}


def _kill_dnsmasq(factory: Factory) -> None:
    """In the process namespace of the tests' libvirt alone."""
    inside = ["nsenter", f"--pid=/proc/{factory.engine._daemon.pid}/ns/pid_for_children", "--", "sh", "-c"]
    script = (
        "mount -t proc proc /proc; for p in /proc/[0-9]*; do"
        f" grep -q [d]nsmasq/{NAME}.conf $p/cmdline && kill -9 ${{p#/proc/}}; done; true"
    )
    subprocess.run(["unshare", "--mount", *inside, script], check=True, capture_output=True)
