"""Virtual machines: what a machinetype is by its model and isolation, and which keys then make no sense."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from lmd.config.clashes import Clash
from runtimes.contract import Network

if TYPE_CHECKING:
    from lmd.config.models import MachineType

Isolation = Literal["container", "vm"]
Form = Literal["path", "file-url", "http"]
CONTAINER: Isolation = "container"
VM: Isolation = "vm"
RUNTIMES: Mapping[str, Isolation] = {"podman": CONTAINER, "docker": CONTAINER, "kvm": VM}
"""What the runtimes that come with lmd make; others say it themselves when they are asked."""

SELF_STARTING = ("vm-raw", "cernvm3", "cernvm4")
"""Models that start a system of their own, which knows nothing of ours but user_data and the metadata."""

_VM_KEYS = ("kernel", "initramfs", "kernel_arguments", "hugepages", "pinning", "numa_node", "graphics")
_DIRECT_KEYS = ("kernel", "initramfs", "kernel_arguments")
_INSIDE_KEYS = ("entrypoint", "args", "user", "environment", "secret_files", "tmpfs", "tmp_binds", "read_only")


def isolation(data: Mapping[str, Any]) -> Isolation:
    """The isolation of a type that names none: by its model, else by its runtime, else a container."""
    if data.get("machine_model", CONTAINER) != CONTAINER:
        return VM
    return RUNTIMES.get(data.get("runtime", ""), CONTAINER)


def network(data: Mapping[str, Any]) -> Network:
    """The network of a type that names none."""
    return Network.LMD if data.get("machine_model") in SELF_STARTING else Network.BRIDGE


def features_form(data: Mapping[str, Any]) -> Form:
    """The form of the features of a type that names none."""
    return "http" if data.get("machine_model") in SELF_STARTING else "path"


def contextualisation(data: Mapping[str, Any]) -> Literal["metadata", "seed"]:
    """Where a type that does not say it finds its user_data, if it starts a system of its own."""
    return "metadata" if data.get("network") is Network.LMD else "seed"


def connection(mt: "MachineType") -> Iterator[Clash]:
    """The keys about the network and the metadata that cannot stand together."""
    if mt.network is Network.LMD:
        return
    if mt.machine_model in SELF_STARTING and "features_form" not in mt.model_fields_set:
        told = f"a machine of model {mt.machine_model} reads its features by HTTP unless features_form says otherwise"
        yield ("network", "machine_model"), f'is "{mt.network}", and {told}: network = "lmd", or leave the key out'
    elif mt.features_form == "http":
        yield ("features_form", "network"), 'is "http", which is served in one network: network = "lmd"'
    for key in _given(mt, ("metadata_token_required", "root_public_key")):
        yield (key, "network"), 'is about the metadata, which is served in one network: network = "lmd"'


def combination(mt: "MachineType", of_containers: bool) -> Iterator[Clash]:
    """The keys of a machinetype that cannot stand together for what it is.

    `of_containers`: its root_image is written as only container images are.
    """
    yield from _isolated(mt)
    if mt.isolation == CONTAINER:
        for key in _given(mt, _VM_KEYS):
            yield (key, "isolation"), 'is for virtual machines, and isolation is "container"'
        return
    if mt.network is Network.HOST:
        yield ("network", "isolation"), '"host" is for containers; a virtual machine has a network card of its own'
    if mt.devices:
        yield ("devices", "isolation"), "are for containers; a virtual machine has no device files of the host"
    if mt.machine_model != CONTAINER and of_containers:
        yield ("root_image", "machine_model"), _NO_DISK.format(mt.machine_model)
    if mt.machine_model in SELF_STARTING:
        own = f"a machine of model {mt.machine_model} starts a system of its own"
        for key in _given(mt, _DIRECT_KEYS):
            yield (key, "machine_model"), f"is for machines whose kernel lmd loads; {own}"
        for key in _given(mt, _INSIDE_KEYS):
            yield (key, "machine_model"), f"cannot be brought about: {own}, which is told user_data alone"
    elif mt.initramfs is not None and mt.kernel is None:
        yield ("initramfs", "kernel"), "needs the kernel that it belongs to"


_NO_DISK = (
    "is a container image, and a machine of model {} needs the path of a disk or boot image"
    ' (container images run in virtual machines with machine_model = "container" and isolation = "vm")'
)


def _given(mt: "MachineType", keys: tuple[str, ...]) -> Iterator[str]:
    return (key for key in keys if (value := getattr(mt, key)) not in (None, "", (), {}) and value is not False)


def _isolated(mt: "MachineType") -> Iterator[Clash]:
    made = RUNTIMES.get(mt.runtime)
    if mt.isolation == CONTAINER and mt.machine_model != CONTAINER:
        yield ("isolation", "machine_model"), f'is "container", and a machine of model {mt.machine_model} is none'
    elif made is not None and made != mt.isolation:
        what = "virtual machines" if made == VM else "containers"
        yield ("isolation", "runtime"), f'is "{mt.isolation}", and runtime {mt.runtime} makes {what}'
