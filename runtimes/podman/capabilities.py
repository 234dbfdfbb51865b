"""What Podman can do on this host, from its own `info` and the mode of the FUSE device. Pure."""

from collections.abc import Mapping
from typing import Any

from runtimes.contract import CONTAINER_IMAGES, Capabilities, Delivery, EndReason, Limit, Network

CONTROLLERS = {Limit.PROCESSORS: "cpu", Limit.MEMORY: "memory", Limit.PIDS: "pids"}
"""The control group controller that each limit needs."""

TOLD = frozenset(EndReason)
"""Podman, with the kernel's log, can tell every end reason; see `translate.end`."""


def capabilities(info: Mapping[str, Any], fuse_mode: int | None, tun: bool) -> Capabilities:
    """`info` of the API; `fuse_mode` is the mode of /dev/fuse, None if the host has none; `tun`: whether this user may
    open /dev/net/tun, which a rootless bridge needs."""
    host = info["host"]
    rootless = bool(host["security"]["rootless"])
    controllers = set(host.get("cgroupControllers") or ())
    limits = {limit for limit, controller in CONTROLLERS.items() if controller in controllers}
    absent = {}
    if lacking := sorted(set(CONTROLLERS.values()) - controllers):
        absent["limits"] = _without(lacking, rootless, str(host.get("cgroupVersion", "")))
    if Limit.PROCESSORS not in limits:
        absent["idle"] = absent["limits"]
    if rootless and not controllers:
        absent["usage"] = "machines have no control group of their own here"
    if rootless:
        absent["user_namespace"] = "rootless podman shares the user's own ids between machines"
        absent["devices"] = "rootless podman cannot hand devices on"
    if rootless and not tun:
        absent["networks"] = "rootless networks need /dev/net/tun, which this user may not open: chmod 666 /dev/net/tun"
    fuse = fuse_mode is not None and fuse_mode & 0o006 == 0o006
    if not fuse:
        absent["fuse"] = "no /dev/fuse" if fuse_mode is None else "/dev/fuse is root's alone: chmod 666 /dev/fuse"
    return Capabilities(
        isolation="container",
        images=CONTAINER_IMAGES,
        delivery=frozenset({Delivery.BIND}),
        limits=frozenset(limits | {Limit.OPEN_FILES}),
        networks=_networks(rootless, tun),
        user_namespace=not rootless,
        nested_containers=True,
        fuse=fuse,
        read_only_root=True,
        scratch=True,
        devices=not rootless,
        before_start=True,
        idle=Limit.PROCESSORS in limits,
        usage="usage" not in absent,
        architectures=frozenset({str(host["arch"])}),
        end_reasons=TOLD,
        absent=absent,
    )


def _networks(rootless: bool, tun: bool) -> frozenset[Network]:
    """Those that can be had: the factory's own needs root, as does a bridge without /dev/net/tun."""
    lacking = ({Network.LMD} if rootless else set()) | ({Network.BRIDGE} if rootless and not tun else set())
    return frozenset(Network) - lacking


def _without(controllers: list[str], rootless: bool, version: str) -> str:
    """Why limits are not enforced, and what would help where something can."""
    if not rootless:
        return f"this host has no control group controller {', '.join(controllers)}"
    if version == "v1":
        return "control groups of version 1 give an ordinary user no limits; as root, or on version 2, they hold"
    return (
        f"control group controllers not delegated to this user: {', '.join(controllers)};"
        " delegate them with Delegate= in a drop-in of user@.service"
    )


def fuse_by(info: Mapping[str, Any], fuse_mode: int | None) -> str:
    """How nested containers get /dev/fuse: "bind", "device" or "" (see `body.create_body`)."""
    if fuse_mode is None:
        return ""
    rootful_runc = info["host"]["ociRuntime"]["name"] == "runc" and not info["host"]["security"]["rootless"]
    return "device" if rootful_runc else "bind"
