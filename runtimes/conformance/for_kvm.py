"""How the suite is made on libvirt: domains of others, what the host has of a machine, a libvirt that goes away."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt

from runtimes.conformance.context import ContainerContext
from runtimes.conformance.outages import hung, stopped
from runtimes.contract import Boot, Image, ImageKind, Runtime, Settings
from runtimes.kvm import Kvm
from runtimes.kvm.engine import Engine, Gone
from runtimes.kvm.runtime import DEFAULT_LOGS, DEFAULT_URI

DEADLINE = 600.0
"""Seconds for a check: an emulated machine takes a few to start, and many where the host is busy."""


class KvmForeign:
    """Domains of the same libvirt without our stamp; they never get past their firmware."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    async def make(self, name: str) -> None:
        root = ET.Element("domain", type="qemu")
        ET.SubElement(root, "name").text = name
        ET.SubElement(root, "memory", unit="MiB").text = "16"
        ET.SubElement(ET.SubElement(root, "os"), "type").text = "hvm"
        xml = ET.tostring(root, encoding="unicode")
        await self._call(lambda c: c.defineXML(xml).create())

    async def state(self, name: str) -> str | None:
        with suppress(Gone):
            return await self._call(lambda c: f"{c.lookupByName(name).ID()} {c.lookupByName(name).state()}")
        return None

    async def remove(self, name: str) -> None:
        with suppress(Gone):
            await self._call(lambda c: (c.lookupByName(name).destroy(), c.lookupByName(name).undefine()))

    async def _call(self, act: Callable[[libvirt.virConnect], object]) -> str:
        engine = Engine(self._uri, workers=1)
        try:
            return str(await engine.call(act, "make a foreign domain"))
        finally:
            engine.close()


def kvm_context(settings: Settings, directory: Path, image: Image, boot: Boot) -> ContainerContext:
    """The suite's context for the libvirt that `settings` reach, with a root directory that has a busybox userland."""
    uri = settings.options.get("uri", DEFAULT_URI)
    logs = Path(settings.options.get("log_dir", DEFAULT_LOGS))

    async def leftovers(machine_id: str) -> Sequence[str]:
        return await asyncio.to_thread(_left, uri, [settings.state_dir / "kvm", logs], machine_id)

    def without(path: Path) -> Callable[[], Runtime]:
        options = {**settings.options, "uri": f"qemu:///system?socket={path}", "call_seconds": "1"}
        return lambda: Kvm(replace(settings, options=options))

    return ContainerContext(
        make=lambda: Kvm(settings),
        image=image,
        directory=directory,
        settings=settings,
        boot=boot,
        deadline=DEADLINE,
        pause=0.25,
        missing_image=Image(kind=ImageKind.ROOT_DIRECTORY, location=str(directory / "no-such-root")),
        foreign=KvmForeign(uri),
        leftovers=leftovers,
        outages={
            "no libvirtd": stopped(without(directory / "no.sock")),
            "a libvirtd that never answers": hung(directory / "hung.sock", without(directory / "hung.sock")),
        },
    )


def _left(uri: str, folders: Sequence[Path], machine_id: str) -> list[str]:
    connection = libvirt.open(uri)
    try:
        left = [f"domain {domain.name()}" for domain in connection.listAllDomains() if domain.name() == machine_id]
    finally:
        connection.close()
    left += [f"file {path}" for folder in folders for path in folder.glob(f"{machine_id}*")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if machine_id.encode() in path.read_bytes():
                left.append(f"process {path.parent.name}")
    mounts = Path("/proc/self/mountinfo").read_text()
    return left + [f"mount {line}" for line in mounts.splitlines() if machine_id in line]
