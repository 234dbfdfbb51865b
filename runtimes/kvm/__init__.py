"""Machines as virtual machines of QEMU, with or without KVM, through libvirt."""

from runtimes.kvm.runtime import Kvm

__all__ = ["Kvm"]
