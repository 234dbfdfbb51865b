"""What this runtime can do on this host. Pure."""

from runtimes.contract import Capabilities, Delivery, EndReason, ImageKind, Limit, Network

DIRECT = frozenset({ImageKind.ROOT_DIRECTORY, ImageKind.INITRAMFS})
"""Images that only a machine with a kernel of the caller's choice can start from."""
NO_VIRTIOFSD = "no virtiofsd on this host: apt-get install qemu-system-common virtiofsd"
DISKS = frozenset({ImageKind.DISK_QCOW2, ImageKind.DISK_RAW})


def capabilities(architectures: frozenset[str], virtiofsd: bool, without: str = "") -> Capabilities:
    """`virtiofsd`: whether the host has one that can be used, without which direct-boot machines cannot be told
    anything; `without`: why it cannot, where it is there."""
    absent = {
        "devices": "devices of the host are not handed to virtual machines",
        "before_start": "a virtual machine has no namespaces to enter; mount on the host, and hand that over",
        "idle": (
            "a guest with the least weight starves beside busy ones, and libvirt waits for it in what it tells of all"
        ),
        "images": "" if virtiofsd else without or NO_VIRTIOFSD,
        "networks": "the host's network cannot be a virtual machine's own",
    }
    return Capabilities(
        isolation="vm",
        images=DISKS | {ImageKind.BOOT_ISO} | (DIRECT if virtiofsd else frozenset()),
        delivery=frozenset({Delivery.HTTP, Delivery.SEED} | ({Delivery.VIRTIOFS} if virtiofsd else set())),
        limits=frozenset(Limit),
        networks=frozenset({Network.BRIDGE, Network.LMD, Network.NONE}),
        user_namespace=True,
        nested_containers=True,
        fuse=True,
        read_only_root=virtiofsd,
        scratch=virtiofsd,
        boot=virtiofsd,
        disks=True,
        graphics=True,
        placement=True,
        architectures=architectures,
        end_reasons=frozenset(EndReason),
        absent={name: why for name, why in absent.items() if why},
    )
