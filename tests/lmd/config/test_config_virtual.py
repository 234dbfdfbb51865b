"""Machinetypes that are virtual machines: what they are unless they say it, and what cannot stand together."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lmd.config.layers import Layer
from lmd.config.load import check, validated
from lmd.config.models import KvmOptions, MachineType


def made(**keys: Any) -> MachineType:
    return MachineType.model_validate({"name": "atlas", "root_image": "/srv/image", **keys})


@pytest.mark.parametrize(
    ("keys", "isolation"),
    [
        ({}, "container"),
        ({"root_image": "docker://example.org/a", "isolation": "vm"}, "vm"),
        ({"runtime": "podman"}, "container"),
        ({"machine_model": "direct"}, "vm"),
        ({"machine_model": "vm-raw"}, "vm"),
        ({"machine_model": "cernvm3"}, "vm"),
        ({"machine_model": "cernvm4", "runtime": "auto"}, "vm"),
    ],
)
def test_what_isolates_a_machine_follows_from_what_it_is(keys: dict[str, Any], isolation: str) -> None:
    assert made(**keys).isolation == isolation


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"machine_model": "vm-raw", "isolation": "container"}, 'isolation: is "container", and a machine of model'),
        ({"runtime": "podman", "isolation": "vm"}, 'isolation: is "vm", and runtime podman makes containers'),
        ({"kernel": "/boot/vmlinuz"}, "kernel: is for virtual machines"),
        ({"hugepages": True}, "hugepages: is for virtual machines"),
        ({"numa_node": 0}, "numa_node: is for virtual machines"),
        ({"isolation": "vm", "network": "host"}, 'network: "host" is for containers'),
        ({"isolation": "vm", "devices": ["/dev/fuse"]}, "devices: are for containers"),
        ({"isolation": "vm", "initramfs": "/boot/initrd"}, "initramfs: needs the kernel"),
        ({"machine_model": "vm-raw", "root_image": "docker://a"}, "root_image: is a container image"),
        ({"machine_model": "direct", "root_image": "oci-archive:/a.tar"}, "root_image: is a container image"),
        ({"machine_model": "vm-raw", "network": "none"}, 'network: is "none", and a machine of model vm-raw reads its'),
        ({"machine_model": "vm-raw", "kernel": "/boot/vmlinuz"}, "kernel: is for machines whose kernel lmd loads"),
        ({"machine_model": "vm-raw", "entrypoint": ["/bin/sh"]}, "entrypoint: cannot be brought about"),
        ({"machine_model": "cernvm3", "environment": {"A": "b"}}, "environment: cannot be brought about"),
    ],
)
def test_keys_that_cannot_stand_together_are_refused(keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError) as error:
        made(**keys)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"isolation": "vm", "root_image": "lmd:busybox", "disk_gb_per_processor": "20G", "hugepages": True},
        {"isolation": "vm", "kernel": "/boot/vmlinuz", "initramfs": "/boot/initrd", "kernel_arguments": "quiet x.y=1"},
        {"isolation": "vm", "entrypoint": ["/bin/sh"], "user": "1000:1000", "tmp_binds": ["/scratch"]},
        {"machine_model": "direct", "root_image": "lmd:micro"},
        {"machine_model": "vm-raw", "user_data": "/x", "graphics": True, "pinning": True, "numa_node": 1},
    ],
)
def test_keys_that_can_stand_together_are_taken(keys: dict[str, Any]) -> None:
    made(**keys)


def test_sizes_of_disks_are_in_gigabytes_and_come_from_the_settings() -> None:
    table = {
        "settings": {"disk_gb_per_processor": 7},
        "machinetypes": {"a": {"root_image": "a"}, "b": {"root_image": "b", "disk_gb_per_processor": "1.5T"}},
    }
    types = check([Layer("x.toml", Path("/"), table)]).machinetypes
    assert (types["a"].disk_gb_per_processor, types["b"].disk_gb_per_processor) == (7, 1500)


def test_the_files_of_a_type_start_at_the_directory_of_its_file() -> None:
    keys = {"machine_model": "direct", "root_image": "./root", "kernel": "vmlinuz", "initramfs": "../initrd"}
    made_ = check([Layer("x.toml", Path("/srv/types"), {"machinetypes": {"a": keys}})]).machinetypes["a"]
    assert (made_.kernel, made_.initramfs) == ("/srv/types/vmlinuz", "/srv/types/../initrd")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"uri": "qemu:///session", "acceleration": "emulated"}, None),
        ({"uri": "qemu+unix:///system?socket=/run/x"}, None),
        ({"uri": "xen:///system"}, "expected a URI such as qemu:///system"),
        ({"uri": "qemu+ssh://example.org/system"}, "expected a URI such as qemu:///system"),
        ({"acceleration": "yes"}, "acceleration"),
        ({"accelaration": "kvm"}, "did you mean acceleration?"),
    ],
)
def test_the_options_of_kvm_are_checked(table: dict[str, Any], expected: str | None) -> None:
    _, found = validated(table, KvmOptions)
    assert (expected is None and not found) or expected in "; ".join(f"{key}: {text}" for key, text in found)


@pytest.mark.parametrize(
    ("key", "expected"),
    [("scratch_device", "disk_gb_per_processor"), ("initrd", "initramfs"), ("vm_model", "machine_model")],
)
def test_keys_that_vac_and_others_have_lead_to_ours(key: str, expected: str) -> None:
    _, found = validated({"root_image": "/a", key: "x"}, MachineType, name="a")
    assert f"did you mean {expected}?" in found[0][1]
