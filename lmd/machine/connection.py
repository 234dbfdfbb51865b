"""A machine's place in the factory's own network, and what the metadata server is told of it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from lmd.config.models import Config, NetworkOptions
from lmd.environment import features
from lmd.environment.directory import Directory, write
from lmd.environment.seed import Seed
from lmd.environment.seed import write as write_seed
from lmd.machine.spec import PLACES, Plan
from lmd.metadata import card
from lmd.metadata.account import account
from lmd.metadata.card import Card
from lmd.network import factory_network
from lmd.network.bridge import NetworkFault
from lmd.places import Places
from runtimes.contract import Network, Nic

__all__ = ["NetworkFault", "describe", "joined", "looked_after", "seed", "settings"]

LOOK_SECONDS = 5.0
RESOLV_CONF = Path("/etc/resolv.conf")


async def joined(plan: Plan, directory: Directory, places: Places, config: Config) -> Plan:
    """The plan with a place in the network if its type wants one; the network is made or mended for it.

    Raises `NetworkFault`, naming the type.
    """
    if plan.machinetype.network is not Network.LMD:
        return plan
    try:
        nic = await asyncio.to_thread(
            factory_network.join, places.run, directory.path, plan.id, settings(config.network, config.runtimes)
        )
    except NetworkFault as error:
        raise NetworkFault(f"machinetype {plan.machinetype.name}: {error}") from error
    return replace(plan, nic=nic)


@asynccontextmanager
async def looked_after(plan: Plan, places: Places, config: Config, tell: Callable[[str], None]) -> AsyncIterator[None]:
    """While the machine lives, mend its network if that breaks, and start the metadata server if it dies."""
    if plan.nic is None:
        yield
        return
    looking = asyncio.ensure_future(_look_after(places, settings(config.network, config.runtimes), tell))
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def _look_after(places: Places, wanted: factory_network.Settings, tell: Callable[[str], None]) -> None:
    told = ""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            if await asyncio.to_thread(factory_network.check_and_mend, places.run, wanted):
                tell("the network of machines was broken, and has been mended")
            told = ""
        except NetworkFault as error:
            if str(error) != told:
                tell(f"the network of machines is broken: {error}")
            told = str(error)


def settings(options: NetworkOptions, runtimes: Mapping[str, Mapping[str, str]]) -> factory_network.Settings:
    """What the configuration says of the network; libvirt is asked where the kvm runtime asks it."""
    made = factory_network.Settings(ipv6=options.ipv6, libvirt=options.libvirt, offered=options.services)
    uri = runtimes.get("kvm", {}).get("uri")
    return replace(made, uri=uri) if uri else made


def describe(plan: Plan, nic: Nic, directory: Directory, user_data: bytes | None, public_key: str, host: str) -> None:
    """Write what the server answers for the machine, and its resolv.conf. Raises OSError, `DirectoryError`."""
    type_ = plan.machinetype
    form = "http" if type_.features_form == "http" or type_.isolation == "vm" else type_.features_form
    made = Card(
        id=plan.id,
        job_id=plan.allocation.job_id,
        space=plan.space,
        machinetype=type_.name,
        factory=host,
        address=nic.address,
        address6=nic.address6,
        prefix6=nic.prefix6,
        mac=nic.mac,
        port=nic.port,
        bridge=nic.bridge,
        gateway=nic.gateway,
        gateway6=nic.gateway6,
        mtu=nic.mtu,
        public_key=public_key,
        token_required=type_.metadata_token_required,
        variables=features.variables(form, PLACES),
        cvmfs=dict(plan.repositories.told),
        outputs_bytes=type_.joboutputs_bytes,
        outputs_files=type_.joboutputs_files,
    )
    card.make(directory.path, made, user_data, account(os.geteuid()))
    write(directory.resolv_conf, resolv_conf(nic, _text(RESOLV_CONF)).encode(), 0o644)


def seed(plan: Plan, directory: Directory, user_data: bytes | None, public_key: str) -> None:
    """Write the NoCloud CD of a machine. Raises `SeedError`."""
    nic = plan.nic
    made = Seed(
        instance_id=plan.allocation.job_id,
        hostname=plan.id,
        user_data=user_data or b"",
        public_key=public_key,
        mac=nic.mac if nic else "",
        address6=nic.address6 if nic else "",
        prefix6=nic.prefix6 if nic else 64,
        gateway6=nic.gateway6 if nic else "",
        cvmfs=plan.repositories.told,
    )
    write_seed(directory.seed, made)


def resolv_conf(nic: Nic, hosts: str) -> str:
    """A container's resolv.conf: libvirt's name server, or without it those of the host (its own resolv.conf as
    `hosts`) that are reached from elsewhere too."""
    if nic.network:
        return f"nameserver {nic.gateway}\n"
    lines = [line for line in hosts.splitlines() if line.split()[:1] in (["nameserver"], ["search"], ["options"])]
    usable = [line for line in lines if not line.startswith("nameserver") or not _local(line.split()[-1])]
    return "".join(f"{line}\n" for line in usable)


def _local(address: str) -> bool:
    return address.startswith(("127.", "::1", "fe80:"))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
