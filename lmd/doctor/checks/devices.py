"""The devices that machines and networks need, each found out by opening it."""

import errno
import grp
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, note, ok, warning

FUSE, KVM, TUN = "/dev/fuse", "/dev/kvm", "/dev/net/tun"
SECONDS = 2.0
"""How long a device may take to be opened."""


@dataclass(frozen=True, slots=True)
class Device:
    """`mode` None: not there. `refused`: what opening it for reading and writing said, empty if it opens. `hangs`: it
    has said nothing, and nothing else is known of it."""

    path: str
    mode: int | None
    refused: str
    group: str = ""
    hangs: bool = False

    @property
    def for_all(self) -> bool:
        """Whether every user may open it, as far as its mode says."""
        return self.mode is not None and self.mode & 0o006 == 0o006


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """The three, as this user finds them."""

    rootless: bool
    user: str
    fuse: Device
    kvm: Device
    tun: Device


def gather(asked: Asked) -> Devices:
    """Open each and close it again."""
    return Devices(rootless=asked.rootless, user=asked.user, fuse=_asked(FUSE), kvm=_asked(KVM), tun=_asked(TUN))


def _asked(path: str) -> Device:
    """Look in a thread that is left to itself if the device does not answer."""
    found: list[Device] = []
    thread = threading.Thread(target=lambda: found.append(_device(path)), daemon=True)
    thread.start()
    thread.join(SECONDS)
    return found[0] if found else Device(path, 0, f"no answer within {SECONDS:g} s", hangs=True)


def _device(path: str) -> Device:
    try:
        found = Path(path).stat()
    except OSError:
        return Device(path, None, os.strerror(errno.ENOENT))
    mode, group = found.st_mode & 0o7777, _group(found.st_gid)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return Device(path, mode, error.strerror or str(error), group)
    return Device(path, mode, "", group)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def rule(devices: Devices) -> Iterator[Finding]:
    """What each is needed for, and how it is opened to those who need it."""
    yield _hanging(devices.fuse) if devices.fuse.hangs else _fuse(devices.fuse)
    yield _hanging(devices.kvm) if devices.kvm.hangs else _kvm(devices.kvm, devices.user)
    if devices.rootless:
        yield _hanging(devices.tun) if devices.tun.hangs else _tun(devices.tun)


def _hanging(device: Device) -> Finding:
    """What no daemon may be left waiting for."""
    remedy = f"dmesg | tail, and look for the driver of {device.path}; if nothing else helps, boot this host anew"
    if device.path == KVM:
        remedy = (
            'acceleration = "emulated" in [runtimes.kvm] until it answers; modprobe -r kvm_intel kvm_amd kvm,'
            " modprobe kvm_intel || modprobe kvm_amd, or boot this host anew"
        )
    return warning(f"{device.path} hangs: it gives {device.refused}", remedy)


def _fuse(device: Device) -> Finding:
    if device.mode is None:
        return warning("there is no /dev/fuse: no CernVM-FS in machines, no Apptainer images mounted", "modprobe fuse")
    if not device.for_all:
        return warning(
            f"/dev/fuse is root's alone (mode {device.mode:04o}): payloads' own containers cannot mount",
            _opened(FUSE, "fuse"),
        )
    return ok("/dev/fuse can be opened by all")


def _kvm(device: Device, user: str) -> Finding:
    """That it can be opened only: whether it accelerates is told by the runtime kvm, which starts a guest."""
    if device.mode is None:
        return note(
            "there is no /dev/kvm: virtual machines would be emulated, 10 to 50 times slower",
            "modprobe kvm_intel || modprobe kvm_amd",
        )
    if device.refused:
        return note(
            f"/dev/kvm cannot be opened by this user: {device.refused}", f"usermod --append --groups kvm {user}"
        )
    if not device.for_all and not (device.mode & 0o060 == 0o060 and device.group == "kvm"):
        return note(
            f"/dev/kvm is not for the group kvm (mode {device.mode:04o}, group {device.group}): QEMU, which runs as"
            " another user, cannot open it, and libvirt takes a minute to find out",
            "chgrp kvm /dev/kvm && chmod 660 /dev/kvm",
        )
    return ok("/dev/kvm can be opened")


def _tun(device: Device) -> Finding:
    if device.mode is None:
        return warning("there is no /dev/net/tun: an ordinary user's machines have no network", "modprobe tun")
    if device.refused:
        return warning(
            f'/dev/net/tun cannot be opened by this user ({device.refused}): only network = "none" or "host"',
            _opened(TUN, "tun"),
        )
    return ok("/dev/net/tun can be opened")


def _opened(path: str, kernel: str) -> str:
    rule = f"""echo 'KERNEL=="{kernel}", MODE="0666"' > /etc/udev/rules.d/90-lmd-{kernel}.rules"""
    return f"chmod 666 {path}; to keep it so: {rule}"


CHECK = Check("devices", gather, rule)
