"""The steps of making and removing a machine: what is asked of libvirt, and what is done on the host. Blocking."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt

from runtimes.contract import Conflict, Exhausted, Rejected, RuntimeFault, Spec, Unavailable
from runtimes.kvm import disks, orphans, place
from runtimes.kvm.engine import Gone
from runtimes.kvm.listing import stamp
from runtimes.kvm.place import Place

Act = Callable[[libvirt.virDomain], object]
VHOST_USER = (Path("/etc/qemu/vhost-user"), Path("/usr/share/qemu/vhost-user"))
"""Where programs such as virtiofsd are described (QEMU's vhost-user.json), the administrator's word first."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
STOPPED = {0: "shutdown", 1: "destroyed", 2: "crashed", 3: "migrated", 4: "saved", 5: "failed", 6: "snapshot"}
"""virDomainEventStoppedDetailType by the words that libvirt writes into QEMU's log."""
UNDEFINE = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
SOCKETS = (Path("/run/libvirt/libvirt-sock"), Path("/run/libvirt/virtqemud-sock"))
DAEMONS = "/usr/sbin:/usr/local/sbin:/usr/bin"
MOST_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
FULL = (12, 28, 122)  # ENOMEM, ENOSPC, EDQUOT


def host(connection: libvirt.virConnect) -> tuple[str, Path | None, frozenset[str]]:
    """The versions of libvirt and QEMU, the host's virtiofsd, and the architectures of guests, by both their names."""
    library, hypervisor = connection.getLibVersion(), connection.getVersion()
    root = ET.fromstring(connection.getCapabilities())  # noqa: S314  libvirt's own
    names = {arch.get("name", "") for arch in root.iterfind("guest[os_type='hvm']/arch")} - {""}
    names &= set(ARCHITECTURES)
    version = f"libvirt {_version(library)}, QEMU {_version(hypervisor)}"
    return version, virtiofsd(VHOST_USER), frozenset(names | {ARCHITECTURES[name] for name in names})


def virtiofsd(folders: tuple[Path, ...]) -> Path | None:
    """The program that serves virtiofs, by the first description of one; None if there is none."""
    for path in sorted((one for folder in folders for one in folder.glob("*.json")), key=lambda path: path.name):
        with suppress(OSError, ValueError, TypeError, KeyError):
            words = json.loads(path.read_text())
            program = Path(words["binary"])
            if words["type"] == "fs" and program.is_file():
                return program
    return None


def no_ids(limit: Path = MOST_NAMESPACES) -> str:
    """Why files cannot be given to machines' own user ids on this host; empty if they can."""
    with suppress(OSError, ValueError):
        if int(limit.read_text()) == 0:
            return "user namespaces are switched off on this host: sysctl -w user.max_user_namespaces=15000"
    return ""


def check(spec: Spec) -> None:
    """Raise `Rejected` if the host lacks a file that the spec names, or its image is none."""
    place.check(spec)
    if spec.image.kind in disks.FORMATS:
        disks.check_image(Path(spec.image.location), disks.FORMATS[spec.image.kind])


def foreign(connection: libvirt.virConnect, machine_id: str) -> bool:
    """True if a domain has this name and is not ours."""
    try:
        return not stamp(connection.lookupByName(machine_id))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return False
        raise


def taken(connection: libvirt.virConnect) -> set[int]:
    """The first user ids of all our machines."""
    uids = set()
    for domain in connection.listAllDomains():
        try:
            uids.add(int(stamp(domain).get("uid") or 0))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
    return uids


def define(connection: libvirt.virConnect, where: Place, logs: Path, xml: str) -> None:
    """Make libvirt know the machine, with nothing of an earlier one of this id. Raises `Conflict` where it is known
    and not ours."""
    name = where.machine_id
    if foreign(connection, name):
        raise Conflict(f"machine {name}: libvirt has a domain of this name that is not ours")
    clear(where, logs)
    connection.defineXML(xml)


def start(connection: libvirt.virConnect, machine_id: str) -> None:
    """Start it, unless somebody else has."""
    domain = connection.lookupByName(machine_id)
    try:
        domain.create()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or not domain.isActive():
            raise


def prepare(spec: Spec, where: Place, first_uid: int, program: Path | None) -> None:
    """Make all files of the machine that are not there yet."""
    where.prepare(spec, first_uid, program or Path("/nonexistent"))
    if spec.image.kind in disks.FORMATS:
        image, form = Path(spec.image.location), disks.FORMATS[spec.image.kind]
        where.once("root.qcow2", lambda path: disks.overlay(path, image, form))
    if spec.disk_bytes:
        size, direct = spec.disk_bytes, spec.boot is not None
        where.once("disk.raw", lambda path: disks.empty(path, size, file_system=direct))


def asked(connection: libvirt.virConnect, machine_id: str, act: Act) -> None:
    """Do `act` with a domain of ours. What has ended meanwhile cannot be asked, and that is well."""
    domain = connection.lookupByName(machine_id)
    if not stamp(domain):
        return
    try:
        act(domain)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise


def undefine(domain: libvirt.virDomain) -> None:
    """Make libvirt forget a domain that is off."""
    domain.undefineFlags(UNDEFINE)


def clear(where: Place, logs: Path) -> None:
    """Remove the files of a machine that is off, and what libvirt leaves of it among its logs. Raises OSError."""
    if where.path.exists():
        orphans.end(where.path)
    where.remove()
    name = where.machine_id
    for pattern in (f"{name}.log", f"{name}.log.[0-9]*", f"{name}-fs[0-9]*-virtiofsd.log*"):
        for log in logs.glob(pattern):
            log.unlink(missing_ok=True)


def note_shutdown(where: Place, detail: int) -> None:
    """Keep what comes with the event that a machine is about to go off. A later one does not count: on the guest's own
    word QEMU ends, and that may be heard again as the host's."""
    words = {libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST: "guest", libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST: "host"}
    if detail in words and not where.shutdown():
        where.note_shutdown(words[detail])


def note_end(where: Place, event: int, detail: int) -> None:
    """Keep the reason that comes with the event of an end."""
    crashed = event == libvirt.VIR_DOMAIN_EVENT_CRASHED
    where.note_event("crashed" if crashed else STOPPED.get(detail, ""))


def fault(machine_id: str, error: Exception) -> RuntimeFault:
    """The contract's error for whatever came up."""
    if isinstance(error, RuntimeFault):
        return error
    if isinstance(error, Gone):
        return Unavailable(f"machine {machine_id} vanished while it was started")
    if isinstance(error, OSError):
        kind = Exhausted if error.errno in FULL else Rejected
        return kind(f"machine {machine_id}: {error.filename or 'its files'}: {error.strerror or error}")
    return Unavailable(f"machine {machine_id}: {error!r}")


def installed() -> str:
    """The libvirt daemon for QEMU that is installed here, or an empty text."""
    return next((name for name in ("libvirtd", "virtqemud") if shutil.which(name, path=DAEMONS)), "")


def missing() -> str:
    """Why there is no libvirt here that anybody wants; empty if there is one."""
    if any(path.is_socket() for path in SOCKETS):
        return ""
    return f"{name} does not run" if (name := installed()) else "libvirt is not installed"


def remedy(uri: str) -> str:
    """The line to type when libvirt does not answer; its machines outlive a restart of it."""
    if not uri.startswith("qemu:///system") or "socket=" in uri:
        return f"virsh --connect '{uri}' version"
    if not (name := installed()):
        return "apt-get install libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils"
    if not missing():  # its socket is there
        return f"systemctl restart {name}"
    return f"systemctl start {'virtqemud.socket' if name == 'virtqemud' else name} virtlogd"


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
