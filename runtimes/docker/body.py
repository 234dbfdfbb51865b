"""A spec as the body of Docker's `POST /containers/create`. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from runtimes.cgroups import LOWEST_SHARES
from runtimes.containers import network
from runtimes.containers.places import log_bytes, tmpfs_sizes
from runtimes.containers.stamp import labels, volume_name
from runtimes.contract import Mount, Network, Spec
from runtimes.docker import waiting
from runtimes.docker.waiting import Wait

PERIOD = 100_000
FUSE = "/dev/fuse"
LOG_FILES = 2
"""One that is written and one that was full last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the engine and the host add to a spec: the image as the engine's `inspect` shows it, the host's user id of
    the machine's root, the greatest numbers of open files and processes that can be given, whether /dev/fuse can be
    handed on and whether the engine confines by AppArmor, and how the machine waits for its `before_start`."""

    image: dict[str, Any]
    first_uid: int
    nofile: int
    nproc: int
    fuse: bool
    apparmor: bool
    wait: Wait | None


def create_body(spec: Spec, on: Ground) -> dict[str, Any]:
    """The request for `spec`."""
    entrypoint, command = _command(spec, on)
    body: dict[str, Any] = {
        "Image": on.image["Id"],
        "Hostname": spec.id,
        "Labels": labels(spec, on.first_uid) | waiting.label(on.wait),
        "Env": [f"{name}={value}" for name, value in spec.environment.items()],
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "HostConfig": _host_config(spec, on),
    }
    if entrypoint is not None:
        body["Entrypoint"] = list(entrypoint) or [""]
    if command is not None:
        body["Cmd"] = list(command)
    if spec.user:
        body["User"] = spec.user
    if spec.working_directory:
        body["WorkingDir"] = str(spec.working_directory)
    if spec.network is Network.BRIDGE:
        body["NetworkingConfig"] = {"EndpointsConfig": {network.NAME: {}}}
    return body


def _command(spec: Spec, on: Ground) -> tuple[Sequence[str] | None, Sequence[str] | None]:
    """Entrypoint and command; None for the image's own."""
    own = on.image.get("Config") or {}
    args = () if spec.entrypoint is not None and spec.args is None else spec.args
    if on.wait is None:
        return spec.entrypoint, args
    entrypoint = spec.entrypoint if spec.entrypoint is not None else own.get("Entrypoint") or ()
    return waiting.COMMAND, [*entrypoint, *(args if args is not None else own.get("Cmd") or ())]


def _host_config(spec: Spec, on: Ground) -> dict[str, Any]:
    open_files = min(spec.limits.open_files or on.nofile, on.nofile)
    config: dict[str, Any] = {
        "CapDrop": ["ALL"],
        "CapAdd": sorted(spec.capabilities | ({"SETFCAP"} if spec.nested_containers else frozenset())),
        "SecurityOpt": ["no-new-privileges", *(_nested(on) if spec.nested_containers else ())],
        "NetworkMode": _network(spec.network),
        "ReadonlyRootfs": spec.read_only_root,
        "Mounts": [*(_bind(m) for m in spec.mounts), *_scratch(spec), *waiting.mounts(on.wait)],
        "Tmpfs": {
            place: f"rw,exec,nosuid,nodev,mode=1777,size={size}"
            for place, size in tmpfs_sizes(spec, read_only=spec.read_only_root).items()
        },
        "Ulimits": [
            {"Name": "nofile", "Soft": open_files, "Hard": open_files},
            {"Name": "nproc", "Soft": on.nproc, "Hard": on.nproc},
        ],
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": str(log_bytes(spec) // LOG_FILES), "max-file": str(LOG_FILES)},
        },
        "Devices": [_device(path) for path in spec.devices],
        **_limits(spec),
    }
    if spec.nested_containers:
        config |= {"MaskedPaths": [], "ReadonlyPaths": []}
        if on.fuse:
            config["Devices"].append(_device(FUSE))
    return config


def _network(wanted: Network) -> str:
    """For the factory's own network an empty namespace: the interface comes before the payload."""
    modes = {Network.BRIDGE: network.NAME, Network.LMD: str(Network.NONE)}
    return modes.get(wanted, str(wanted))


def _nested(on: Ground) -> list[str]:
    """Docker's AppArmor profile forbids every mount; within mapped user ids and without capabilities the system call
    filter is what is left, and it is ours."""
    return [f"seccomp={nested_profile()}", *(["apparmor=unconfined"] if on.apparmor else ())]


def nested_profile() -> str:
    """The system calls that a machine with nested containers may make, as JSON on one line."""
    text = resources.files("runtimes.docker").joinpath("nested.json").read_text()
    return json.dumps(json.loads(text), separators=(",", ":"))


def _device(path: str) -> dict[str, str]:
    return {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}


def _bind(mount: Mount) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": str(mount.source),
        "Target": str(mount.target),
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": "rslave" if mount.propagate else "rprivate"},
    }


def _scratch(spec: Spec) -> list[dict[str, Any]]:
    return [
        {
            "Type": "volume",
            "Source": volume_name(spec.id, number),
            "Target": str(target),
            "VolumeOptions": {"NoCopy": True},
        }
        for number, target in enumerate(spec.scratch)
    ]


def _limits(spec: Spec) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if spec.limits.processors is not None:
        limits |= {"CpuPeriod": PERIOD, "CpuQuota": round(spec.limits.processors * PERIOD)}
    if spec.idle:
        limits["CpuShares"] = LOWEST_SHARES
    if spec.limits.memory_bytes is not None:
        limits |= {"Memory": spec.limits.memory_bytes, "MemorySwap": spec.limits.memory_bytes}
    if spec.limits.pids is not None:
        limits["PidsLimit"] = spec.limits.pids
    return limits
