"""`lm doctor` on hosts whose libvirt is not there or does not answer, or whose /dev/kvm hangs: what to type is said."""

import sys
from pathlib import Path

import pytest

QUICK = "--quick"
NO_SOCKET = "[ ! -d /run/libvirt ] || mount -t tmpfs none /run/libvirt"
DEAF_DEVICE = """
import ctypes, os, sys
fuse = os.open("/dev/fuse", os.O_RDWR)
os.set_inheritable(fuse, True)
options = f"fd={fuse},rootmode=100666,user_id=0,group_id=0"
assert ctypes.CDLL(None, use_errno=True).mount(b"deaf", sys.argv[1].encode(), b"fuse", 0, options.encode()) == 0
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Runs a command where whoever looks at a file waits for an answer that nobody gives, until the command has ended."""


def of_kvm(told) -> str:
    """What the runtime kvm is told to be, with what to type."""
    assert told.findings[-1], told.errors
    lines = [line for level in ("problem", "warning", "note") for line in told.of("runtimes", level)]
    return "\n".join(line for line in lines if line.startswith("kvm "))


def test_a_host_without_libvirt(root_doctor, poorer) -> None:
    script = f"{NO_SOCKET}; mount --bind /dev/null /usr/sbin/libvirtd"
    told = root_doctor(QUICK, through=poorer(script))
    assert of_kvm(told).startswith("kvm is not here: libvirt is not installed -> apt-get install libvirt-daemon-system")


def test_a_libvirt_that_nobody_has_started(root_doctor, poorer) -> None:
    told = root_doctor(QUICK, through=poorer(NO_SOCKET))
    assert of_kvm(told) == "kvm is not here: libvirtd does not run -> systemctl start libvirtd virtlogd"


def test_a_libvirt_that_has_stopped_answering(root_doctor, poorer, libvirt_engine) -> None:
    script = f"mount --bind {libvirt_engine.directory}/run /run/libvirt"
    libvirt_engine.tell("stop")
    try:
        config = f"{root_doctor.usual}[runtimes.kvm]\ncall_seconds = 1\n"
        told = root_doctor(QUICK, through=poorer(script), config=config)
    finally:
        libvirt_engine.tell("continue")
    said = "kvm does not work: libvirt did not tell its version within 1 s (qemu:///system)"
    assert of_kvm(told) == f"{said} -> systemctl restart libvirtd"
    assert told.code == 2  # there is a table for it: somebody counts on it


@pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="this host has no /dev/kvm to put one that hangs over")
def test_a_device_that_hangs_is_named_and_the_others_are_told(root_doctor) -> None:
    through = ("unshare", "--mount", "--propagation=private", sys.executable, "-c", DEAF_DEVICE, "/dev/kvm")
    told = root_doctor(QUICK, through=through)
    said = "\n".join(told.of("devices", "warning"))
    assert "/dev/kvm hangs: it gives no answer within 2 s -> acceleration = " in said
    assert [one for one in told.findings if one["check"] == "devices" and "/dev/fuse" in one["sentence"]]
