"""A virtual machine as declared properties, and these as libvirt's domain XML: a tree, never pasted text. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from runtimes.contract import Placement

STAMP = "urn:lmd:machine:1"
"""The XML namespace of our stamp in a domain's metadata."""
SHARE = "lmd"
"""The tag of the share by which the host hands everything to a guest (images/guest/init)."""
QUOTA_PERIOD = 100_000
FIRST_SLOT, LAST_SLOT = 0x08, 0x1B
"""Slots of the root bus for our devices; libvirt and q35 have their own in the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A disk of a stated format. `serial` is how the guest finds it; `cd` makes it a read-only CD."""

    path: Path
    format: str
    serial: str
    cd: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A network card: its hardware address, and the libvirt network or the bridge it is on (neither: user-mode
    networking in QEMU). `port` is the name of the host's end; `mtu` is told to the guest."""

    mac: str
    network: str = ""
    bridge: str = ""
    port: str = ""
    mtu: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """What libvirt is asked for. Sizes in bytes; `quota` in processors, where they are limited below the count."""

    name: str
    uuid: str
    stamp: Mapping[str, str]
    accelerated: bool
    architecture: str
    processors: int
    memory_bytes: int
    console_log: Path
    kernel_log: Path
    quota: float | None = None
    kernel: Path | None = None
    initramfs: Path | None = None
    command_line: str = ""
    disks: tuple[Disk, ...] = ()
    share: Path | None = None
    share_program: Path | None = None
    card: Card | None = None
    graphics: Path | None = None
    placement: Placement = field(default_factory=Placement)
    product: str = ""

    @property
    def direct(self) -> bool:
        """True if the hypervisor starts the kernel itself."""
        return self.kernel is not None


def xml(domain: Domain) -> str:
    """The document that defines the domain."""
    root = ET.Element("domain", type="kvm" if domain.accelerated else "qemu")
    _text(root, "name", domain.name)
    _text(root, "uuid", domain.uuid)
    _metadata(root, domain)
    _memory(root, domain)
    _processors(root, domain)
    _system(root, domain)
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        _text(root, event, "destroy")
    root.append(devices(domain))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def stamp_of(text: str) -> dict[str, str]:
    """The stamp by its element, as libvirt gives it back; empty if it is none of ours."""
    try:
        root = ET.fromstring(text)  # noqa: S314  libvirt has parsed and written it
    except ET.ParseError:
        return {}
    if root.tag not in ("machine", f"{{{STAMP}}}machine"):
        return {}
    return {child.tag.rpartition("}")[2]: child.text or "" for child in root}


def _metadata(root: ET.Element, domain: Domain) -> None:
    machine = ET.SubElement(ET.SubElement(root, "metadata"), "lmd:machine", {"xmlns:lmd": STAMP})
    for name, value in domain.stamp.items():
        ET.SubElement(machine, f"lmd:{name}").text = value


def _memory(root: ET.Element, domain: Domain) -> None:
    for name in ("memory", "currentMemory"):
        _text(root, name, str(domain.memory_bytes // 1024), unit="KiB")
    backing = ET.Element("memoryBacking")
    if domain.placement.hugepage_bytes:
        pages = ET.SubElement(backing, "hugepages")
        ET.SubElement(pages, "page", size=str(domain.placement.hugepage_bytes // 1024), unit="KiB")
    if domain.share:  # virtiofsd reads and writes the guest's memory
        ET.SubElement(backing, "source", type="memfd")
        ET.SubElement(backing, "access", mode="shared")
    if len(backing):
        root.append(backing)
    if domain.placement.numa_node is not None:
        tune = ET.SubElement(root, "numatune")
        ET.SubElement(tune, "memory", mode="strict", nodeset=str(domain.placement.numa_node))


def _processors(root: ET.Element, domain: Domain) -> None:
    cpus = domain.placement.cpus
    _text(root, "vcpu", str(domain.processors), **({"cpuset": ",".join(map(str, cpus))} if cpus else {}))
    tune = ET.Element("cputune")
    if domain.quota is not None:
        _text(tune, "global_period", str(QUOTA_PERIOD))
        _text(tune, "global_quota", str(max(1000, round(domain.quota * QUOTA_PERIOD))))
    if len(cpus) >= domain.processors:
        for number in range(domain.processors):
            ET.SubElement(tune, "vcpupin", vcpu=str(number), cpuset=str(cpus[number]))
    if len(tune):
        root.append(tune)
    if domain.accelerated:
        ET.SubElement(root, "cpu", mode="host-passthrough", check="none")
    else:
        ET.SubElement(root, "cpu", mode="maximum")


def _system(root: ET.Element, domain: Domain) -> None:
    if domain.product:
        info = ET.SubElement(ET.SubElement(root, "sysinfo", type="smbios"), "system")
        _text(info, "entry", domain.product, name="product")
    system = ET.SubElement(root, "os")
    machine = "q35" if domain.architecture == "x86_64" else "virt"
    _text(system, "type", "hvm", arch=domain.architecture, machine=machine)
    if domain.kernel:
        _text(system, "kernel", str(domain.kernel))
        if domain.initramfs:
            _text(system, "initrd", str(domain.initramfs))
        _text(system, "cmdline", domain.command_line)
    if domain.product:
        ET.SubElement(system, "smbios", mode="sysinfo")
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    if domain.architecture == "x86_64":
        ET.SubElement(features, "apic")
    ET.SubElement(root, "clock", offset="utc")


def devices(domain: Domain) -> ET.Element:
    """The `devices` element."""
    root = ET.Element("devices")
    slots = iter(range(FIRST_SLOT, LAST_SLOT + 1))
    _console(root, domain.kernel_log if domain.direct else domain.console_log, "serial")
    if domain.direct:
        _console(root, domain.console_log, "virtio")
        _slot(ET.SubElement(root, "controller", type="virtio-serial", index="0"), next(slots))
    if domain.share:
        _slot(_share(root, domain.share, domain.share_program), next(slots))
    if domain.card:
        root.append(interface(domain.card))
        _slot(root[-1], next(slots))
    for number, disk in enumerate(d for d in domain.disks if not d.cd):
        order = None if domain.direct or domain_boots_cd(domain) else number + 1
        _slot(_disk(root, disk, f"vd{'abcdefgh'[number]}", order), next(slots))
    for number, disk in enumerate(d for d in domain.disks if d.cd):
        _cd(root, disk, f"sd{'abcdefgh'[number]}", 1 if domain_boots_cd(domain) and number == 0 else None)
    if root.find("disk/target[@bus='scsi']") is not None:
        _slot(ET.SubElement(root, "controller", type="scsi", model="virtio-scsi"), next(slots))
    ET.SubElement(root, "controller", type="usb", model="none")
    ET.SubElement(root, "memballoon", model="none")
    rng = ET.SubElement(root, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    _slot(rng, next(slots))
    if domain.architecture == "x86_64":
        ET.SubElement(root, "panic", model="isa")
    if domain.graphics:
        _graphics(root, domain.graphics)
    else:
        ET.SubElement(ET.SubElement(root, "video"), "model", type="none")
    return root


def _slot(element: ET.Element, slot: int) -> None:
    """Put a device on the root bus: a port for each, as libvirt would make them, costs a guest time to find out."""
    ET.SubElement(element, "address", type="pci", domain="0x0000", bus="0x00", slot=f"0x{slot:02x}", function="0x0")


def domain_boots_cd(domain: Domain) -> bool:
    """True if a CD comes first among the disks: then that is what is booted."""
    return bool(domain.disks) and domain.disks[0].cd and not domain.direct


def interface(card: Card) -> ET.Element:
    """The network card's element: on a network of libvirt's or a bridge, apart from other machines, or in QEMU's own
    user-mode network."""
    kind = "network" if card.network else "bridge" if card.bridge else "user"
    root = ET.Element("interface", type=kind)
    ET.SubElement(root, "mac", address=card.mac)
    if kind != "user":
        ET.SubElement(root, "source", {kind: card.network or card.bridge})
        ET.SubElement(root, "target", dev=card.port)
        ET.SubElement(root, "port", isolated="yes")
    ET.SubElement(root, "model", type="virtio")
    if card.mtu:
        ET.SubElement(root, "mtu", size=str(card.mtu))
    return root


def _console(root: ET.Element, log: Path, kind: str) -> None:
    element = ET.SubElement(root, "serial" if kind == "serial" else "console", type="pty")
    ET.SubElement(element, "log", file=str(log), append="on")
    if kind == "virtio":
        ET.SubElement(element, "target", type="virtio", port="1")
    else:
        ET.SubElement(element, "target", port="0")


def _disk(root: ET.Element, disk: Disk, target: str, order: int | None) -> ET.Element:
    element = ET.SubElement(root, "disk", type="file", device="disk")
    ET.SubElement(
        element,
        "driver",
        name="qemu",
        type=disk.format,
        cache="writeback",
        discard="unmap",
        detect_zeroes="unmap",
        error_policy="report",
    )
    ET.SubElement(element, "source", file=str(disk.path))
    ET.SubElement(element, "target", dev=target, bus="virtio")
    _text(element, "serial", disk.serial)
    if order:
        ET.SubElement(element, "boot", order=str(order))
    return element


def _cd(root: ET.Element, disk: Disk, target: str, order: int | None) -> None:
    element = ET.SubElement(root, "disk", type="file", device="cdrom")
    ET.SubElement(element, "driver", name="qemu", type=disk.format)
    ET.SubElement(element, "source", file=str(disk.path))
    # Kernels that distributions build for clouds (Debian's, for one) know no AHCI, but virtio; firmware knows AHCI.
    ET.SubElement(element, "target", dev=target, bus="sata" if order else "scsi")
    ET.SubElement(element, "readonly")
    if order:
        ET.SubElement(element, "boot", order=str(order))


def _share(root: ET.Element, source: Path, program: Path | None) -> ET.Element:
    element = ET.SubElement(root, "filesystem", type="mount", accessmode="passthrough")
    ET.SubElement(element, "driver", type="virtiofs")
    if program:
        ET.SubElement(element, "binary", path=str(program))
    ET.SubElement(element, "source", dir=str(source))
    ET.SubElement(element, "target", dir=SHARE)
    return element


def _graphics(root: ET.Element, path: Path) -> None:
    graphics = ET.SubElement(root, "graphics", type="vnc")
    ET.SubElement(graphics, "listen", type="socket", socket=str(path))
    ET.SubElement(ET.SubElement(root, "video"), "model", type="vga")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
