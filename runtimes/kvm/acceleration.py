"""Whether KVM works on this host, found by doing: a test machine is started with it and without it.

/dev/kvm may open, and a machine hang, or run far slower than emulation (a virtual machine without hardware support
below it). The test machine says four letters on its console and switches itself off, which takes a tenth of a second
where all is well. What came of it is kept until the host boots again or QEMU is another.
"""

import json
import os
import struct
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt

SECONDS = 8.0
SLOWER = 3.0
"""How many times slower than emulation KVM may be on a busy host before it counts as not working."""
SHORT_SECONDS = 1.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CHOICES = ("auto", "kvm", "emulated")


@dataclass(frozen=True, slots=True)
class Acceleration:
    """Whether machines are accelerated, and a sentence that says why not, with what would help."""

    works: bool
    reason: str = ""
    remedy: str = ""


def kept(path: Path, version: str) -> Acceleration | None:
    """The answer of before, if it holds for this boot of the host and this QEMU."""
    try:
        words = json.loads(path.read_text())
        if words.pop("boot") == _boot() and words.pop("version") == version:
            return Acceleration(**words)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    return None


def keep(path: Path, version: str, found: Acceleration) -> None:
    """Write the answer down; a directory that cannot be written keeps nothing."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_text(json.dumps(asdict(found) | {"boot": _boot(), "version": version}))
        part.replace(path)


def find(connection: libvirt.virConnect, folder: Path, architecture: str) -> Acceleration:
    """Try it out. Blocking, up to twice `SECONDS`. Raises libvirtError if libvirt does not answer."""
    if not offered(connection.getCapabilities(), architecture):
        there = Path("/dev/kvm").exists()
        reason = "libvirt does not offer KVM" if there else "this host has no /dev/kvm"
        remedy = "enable virtualisation in the firmware and modprobe kvm_intel or kvm_amd, then restart libvirtd"
        return Acceleration(False, reason, remedy)
    if architecture != "x86_64":
        return Acceleration(True)  # there is no test machine for other architectures
    folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    image = folder / "probe.bin"
    image.write_bytes(program())
    image.chmod(0o644)
    return judged(_seconds(connection, image, "qemu"), _seconds(connection, image, "kvm"))


def judged(emulated: "float | str | None", accelerated: "float | str | None") -> Acceleration:
    """The answer by how long the test machine took in seconds; None: it did not end; text: it did not start."""
    remedy = "use acceleration = emulated, or a host whose processor (or hypervisor) offers VT-x or AMD-V"
    if isinstance(accelerated, str):
        return Acceleration(False, f"a test machine does not start with KVM: {accelerated}", remedy)
    if accelerated is None:
        return Acceleration(False, f"/dev/kvm is there, but a test machine hangs with it for {SECONDS:g} s", remedy)
    if isinstance(emulated, float) and accelerated > max(SHORT_SECONDS, SLOWER * emulated):
        said = f"/dev/kvm is there, but a test machine took {accelerated:.1f} s with it and {emulated:.1f} s without"
        return Acceleration(False, said, remedy)
    return Acceleration(True)


def offered(capabilities: str, architecture: str) -> bool:
    """True if libvirt's capabilities name KVM for guests of that architecture."""
    root = ET.fromstring(capabilities)  # noqa: S314  libvirt's own
    return any(
        guest.get("name") == architecture and guest.find("domain[@type='kvm']") is not None
        for guest in root.iterfind("guest/arch")
    )


def program() -> bytes:
    """A kernel in the Multiboot format (0.6.96 §3.1) that writes `lmd` to the first serial port and switches off.

    The switch is the one of QEMU's q35 (ACPI's PM1a at 0x604); where that is another, the processor stays halted.
    """
    load, flags, magic = 0x100000, 0x10000, 0x1BADB002
    code = b"\x66\xba\xf8\x03" + b"".join(bytes((0xB0, letter, 0xEE)) for letter in b"lmd\n")
    code += b"\xb9\x00\x00\x00\x04\x49\x75\xfd"  # count to 64 million, which shows an emulated processor
    code += b"\x66\xba\x04\x06\x66\xb8\x00\x20\x66\xef\xf4\xeb\xfd"
    end = load + 32 + len(code)
    return struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, load, load, end, end, load + 32) + code


def document(name: str, image: Path, kind: str) -> str:
    """The test machine as libvirt's XML."""
    root = ET.Element("domain", type=kind)
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "memory", unit="MiB").text = "32"
    system = ET.SubElement(root, "os")
    ET.SubElement(system, "type", arch="x86_64", machine="q35").text = "hvm"
    ET.SubElement(system, "kernel").text = str(image)
    ET.SubElement(ET.SubElement(root, "features"), "acpi")
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        ET.SubElement(root, event).text = "destroy"
    devices = ET.SubElement(root, "devices")
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")
    return ET.tostring(root, encoding="unicode")


def _seconds(connection: libvirt.virConnect, image: Path, kind: str) -> "float | str | None":
    """How long the test machine runs; it goes with the connection, should this process die."""
    xml = document(f"lmd-probe-{uuid.uuid4().hex[:12]}", image, kind)
    try:
        domain = connection.createXML(xml, libvirt.VIR_DOMAIN_START_AUTODESTROY)
    except libvirt.libvirtError as error:
        return " ".join((error.get_error_message() or "").split())[:300]
    began = time.monotonic()
    try:
        while time.monotonic() < began + SECONDS:
            if not domain.isActive():
                break
            time.sleep(0.01)
        else:
            with suppress(libvirt.libvirtError):
                domain.destroy()
            return None
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
    return time.monotonic() - began


def _boot() -> str:
    return BOOT_ID.read_text().strip()
