"""What Docker can do on this host, from its own `info` and what the host has beside it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtimes.contract import CONTAINER_IMAGES, Capabilities, Delivery, EndReason, ImageKind, Limit, Network

FLAGS = {Limit.PROCESSORS: "CpuCfsQuota", Limit.MEMORY: "MemoryLimit", Limit.PIDS: "PidsLimit"}
"""What `info` says of each limit."""
WAITING = "docker needs a static busybox to wait with: apt-get install busybox-static"
OCI = frozenset({ImageKind.OCI_ARCHIVE, ImageKind.OCI_LAYOUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What counts on the host: the mode of /dev/fuse (None: there is none), skopeo, a busybox that needs no library."""

    fuse_mode: int | None
    skopeo: bool
    static_busybox: bool


def security(info: Mapping[str, Any]) -> set[str]:
    """The names in the daemon's security options: seccomp, apparmor, userns, rootless and so on."""
    options = (str(option).partition(",")[0] for option in info.get("SecurityOptions") or ())
    return {option.removeprefix("name=") for option in options}


def mapped_root(info: Mapping[str, Any]) -> int:
    """The host's user id of every machine's root: not 0 where the daemon remaps ids (it keeps its state in a directory
    of the name `UID.GID` then)."""
    first, dot, _ = str(info.get("DockerRootDir", "")).rpartition("/")[2].partition(".")
    return int(first) if "userns" in security(info) and dot and first.isdecimal() else 0


def capabilities(info: Mapping[str, Any], arch: str, beside: Beside) -> Capabilities:
    """`info` of the API, and the engine's own word for this machine's architecture."""
    remapped = "userns" in security(info)
    fuse = beside.fuse_mode is not None and beside.fuse_mode & 0o006 == 0o006
    limits = {limit for limit, flag in FLAGS.items() if info.get(flag)}
    lacking = ({Network.HOST} if remapped else set()) | (set() if beside.static_busybox else {Network.LMD})
    return Capabilities(
        isolation="container",
        images=CONTAINER_IMAGES - {ImageKind.ROOT_DIRECTORY} - (frozenset() if beside.skopeo else OCI),
        delivery=frozenset({Delivery.BIND}),
        limits=frozenset(limits | {Limit.OPEN_FILES}),
        networks=frozenset(Network) - lacking,
        user_namespace=False,
        nested_containers=remapped,
        fuse=fuse and remapped,
        read_only_root=True,
        scratch=True,
        devices=True,
        before_start=beside.static_busybox,
        idle=_weighs(info),
        architectures=frozenset({arch}),
        end_reasons=frozenset(EndReason),
        absent=_absent(info, beside, remapped=remapped, fuse=fuse, limits=limits),
    )


def _weighs(info: Mapping[str, Any]) -> bool:
    return bool(info.get("CPUShares", info.get("CpuCfsQuota")))


def _absent(
    info: Mapping[str, Any], beside: Beside, *, remapped: bool, fuse: bool, limits: set[Limit]
) -> dict[str, str]:
    """Why what is missing is, by the name of the field."""
    absent = {"images": "docker runs no directory in place: import it with docker import"}
    if not beside.skopeo:
        absent["images"] += "; OCI images need skopeo: apt-get install skopeo"
    if lacking := sorted(str(limit) for limit in set(FLAGS) - limits):
        absent["limits"] = f"docker says that this kernel cannot limit {', '.join(lacking)}"
    if not _weighs(info):
        absent["idle"] = "docker says that this kernel cannot weigh processor time"
    absent["user_namespace"] = (
        f"docker maps all machines to one range of ids, from {mapped_root(info)} on: none has its own"
        if remapped
        else 'docker maps no user ids here: set "userns-remap" in /etc/docker/daemon.json, or use podman'
    )
    if remapped:
        absent["networks"] = "docker gives no machine with mapped user ids the host's network"
    else:
        absent["nested_containers"] = (
            "they need an unmasked /proc, in which the machine's root must not be the host's:"
            ' set "userns-remap" in /etc/docker/daemon.json'
        )
    if not fuse:
        absent["fuse"] = (
            "no /dev/fuse" if beside.fuse_mode is None else "/dev/fuse is root's alone: chmod 666 /dev/fuse"
        )
    elif not remapped:
        absent["fuse"] = "only within nested containers"
    if not beside.static_busybox:
        absent["before_start"] = WAITING
        absent["networks"] = "; ".join([*([absent["networks"]] if remapped else ()), f"for network lmd, {WAITING}"])
    return absent
