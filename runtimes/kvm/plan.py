"""A spec as the domain that libvirt is asked for. Pure."""

import hashlib
import math
import re
import uuid
from pathlib import Path

from runtimes.contract import ImageKind, Network, Placement, Rejected, Spec
from runtimes.kvm.disks import FORMATS
from runtimes.kvm.domain import Card, Disk, Domain
from runtimes.kvm.place import Place

MIB = 2**20
GUEST_BYTES = 96 * MIB
"""What a guest's kernel and init need beside the payload: a machine has at least this, and a payload's limit is then
kept by a control group within it."""
DEFAULT_BYTES = 256 * MIB
LEAST_BYTES = 16 * MIB
COMMAND_LINE = "console=ttyS0 quiet panic=-1 no_timer_check cryptomgr.notests"
"""Quiet, since what the kernel says goes to a log of its own; a kernel that panics ends the machine at once."""
PRODUCT = "OpenStack Nova"
"""The SMBIOS product by which cloud-init looks for metadata."""
_NAMED = re.compile(r"[0-9a-f]{64}(?![^.])")
"""The name of an image's directory or file (before its ending) in a cache that goes by digests."""
PROCESSORS = {"amd64": "x86_64", "arm64": "aarch64"}


def stamp(spec: Spec, created: float, first_uid: int) -> dict[str, str]:
    """What makes a domain ours."""
    return {
        "id": spec.id,
        "owner": spec.owner,
        "space": spec.space,
        "machinetype": spec.machinetype,
        "digest": spec.digest(),
        "created": repr(created),
        "console": str(spec.console_bytes),
        "uid": str(first_uid),
        "mac": nic.mac if (nic := card(spec)) else "",
        "address": spec.nic.address if spec.nic else "",
        **({"image": f"sha256:{digest[0]}"} if (digest := _NAMED.match(Path(spec.image.location).name)) else {}),
        "direct": "yes" if spec.boot else "no",
        "processors": "" if spec.limits.processors is None else repr(spec.limits.processors),
        "memory": "" if spec.limits.memory_bytes is None else str(spec.limits.memory_bytes),
    }


def domain(spec: Spec, place: Place, *, created: float, first_uid: int, accelerated: bool, architecture: str) -> Domain:
    """The domain of `spec`, whose files are in `place`. Raises `Rejected` for what no virtual machine can be."""
    _check(spec)
    processors = spec.limits.processors or 1
    whole = max(1, math.ceil(processors))
    direct = spec.boot is not None
    return Domain(
        name=spec.id,
        uuid=spec.uuid or str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:lmd:{spec.id}:{created!r}")),
        stamp=stamp(spec, created, first_uid),
        accelerated=accelerated,
        architecture=PROCESSORS.get(spec.architecture or "", spec.architecture) or architecture,
        processors=whole,
        quota=processors if processors < whole else None,
        memory_bytes=_memory(spec),
        console_log=place.file("console.log"),
        kernel_log=place.file("kernel.log"),
        kernel=spec.boot.kernel if spec.boot else None,
        initramfs=spec.boot.initramfs if spec.boot else None,
        command_line=f"{COMMAND_LINE} {spec.boot.command_line}".strip() if spec.boot else "",
        disks=_disks(spec, place),
        share=place.file("share") if direct else None,
        share_program=place.file("virtiofsd") if direct else None,
        card=card(spec),
        graphics=place.file("vnc.sock") if spec.graphics else None,
        placement=spec.placement or Placement(),
        product="" if direct else PRODUCT,
    )


def card(spec: Spec) -> Card | None:
    """The machine's network card: in the factory's network, or in a network of QEMU's own; None without a network."""
    if spec.network is Network.LMD and spec.nic:
        nic = spec.nic
        return Card(mac=nic.mac, network=nic.network, bridge=nic.bridge, port=nic.port, mtu=nic.mtu)
    if spec.network is Network.BRIDGE:
        digest = hashlib.sha256(spec.id.encode()).digest()
        return Card(mac="52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3]))
    return None


def _memory(spec: Spec) -> int:
    """What the whole machine gets. A direct-boot payload's own limit may be below what its kernel needs to live."""
    asked = spec.limits.memory_bytes or DEFAULT_BYTES
    return -(-(max(asked, GUEST_BYTES) if spec.boot else asked) // MIB) * MIB


def _disks(spec: Spec, place: Place) -> tuple[Disk, ...]:
    own = Disk(path=place.file("disk.raw"), format="raw", serial="lmd-disk")
    found = [own] if spec.disk_bytes else []
    if spec.image.kind in FORMATS:
        found.insert(0, Disk(path=place.file("root.qcow2"), format="qcow2", serial="lmd-root"))
    if spec.image.kind is ImageKind.BOOT_ISO:
        found.insert(0, Disk(path=Path(spec.image.location), format="raw", serial="", cd=True))
    if spec.boot:
        found.append(Disk(path=place.file("report.raw"), format="raw", serial="lmd-report"))
    if spec.seed:
        found.append(Disk(path=spec.seed, format="raw", serial="", cd=True))
    return tuple(found)


def _check(spec: Spec) -> None:
    """What the contract's capabilities cannot say."""
    for name, value in (("memory_bytes", spec.limits.memory_bytes), ("disk_bytes", spec.disk_bytes)):
        if value is not None and value < LEAST_BYTES:
            raise Rejected(f"machine {spec.id}: {name} is {value}: a virtual machine needs at least {LEAST_BYTES}")
    if spec.image.kind in (ImageKind.ROOT_DIRECTORY, ImageKind.INITRAMFS) and spec.boot is None:
        raise Rejected(
            f"machine {spec.id}: an image of kind {spec.image.kind} needs a kernel: run lm image build micro"
        )
    if spec.image.kind is ImageKind.BOOT_ISO and spec.boot:
        raise Rejected(f"machine {spec.id}: a boot ISO brings its own kernel")
    if not spec.boot and (spec.mounts or spec.scratch or spec.tmpfs):
        raise Rejected(f"machine {spec.id}: mounts need a direct-boot machine; others get theirs by HTTP")
