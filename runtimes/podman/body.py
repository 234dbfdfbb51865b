"""A spec as the body of Podman's `POST /libpod/containers/create`. Pure."""

from collections.abc import Mapping
from typing import Any

from runtimes.cgroups import LOWEST_SHARES
from runtimes.containers.places import log_bytes, tmpfs_sizes
from runtimes.containers.stamp import labels, volume_name
from runtimes.contract import Mount, Spec
from runtimes.idranges import IdRange

PERIOD = 100_000
FUSE = "/dev/fuse"


def create_body(
    spec: Spec,
    *,
    image: str | None,
    root: str | None,
    ids: IdRange | None,
    nofile: int,
    nproc: int,
    fuse: str,
    weigh: str | None = None,
) -> dict[str, Any]:
    """The request for `spec`, with its image's id or its root directory, its ids (None: none of its own), and the
    greatest numbers of open files and processes that this host lets us set. `fuse`: how nested containers get the
    FUSE device: "bind" (crun, which would make a node that only root may open), "device" (runc, which lets the
    control group refuse a bound node) or "" (not at all). `weigh`: how an idle machine gets its lowest weight: "idle"
    (kernels that know it run it when nothing else wants to), "shares", or None (there is no controller to do it)."""
    read_only = spec.read_only_root or root is not None
    open_files = min(spec.limits.open_files or nofile, nofile)
    body: dict[str, Any] = {
        "name": spec.id,
        "hostname": spec.id,
        "labels": labels(spec, ids.first if ids else 0),
        "env": dict(spec.environment),
        "cap_drop": ["ALL"],
        "cap_add": sorted(spec.capabilities | ({"SETFCAP"} if spec.nested_containers else frozenset())),
        "no_new_privileges": True,
        "read_only_filesystem": read_only,
        "mounts": [_bind(m) for m in spec.mounts] + _tmpfs(tmpfs_sizes(spec, read_only=read_only)),
        "volumes": [
            {"Name": volume_name(spec.id, number), "Dest": str(target), "Options": ["rw", "nosuid", "nodev"]}
            for number, target in enumerate(spec.scratch)
        ],
        "image_volume_mode": "tmpfs" if spec.read_only_root else "anonymous",
        "resource_limits": _limits(spec, weigh),
        "r_limits": [
            {"type": "nofile", "soft": open_files, "hard": open_files},
            {"type": "nproc", "soft": nproc, "hard": nproc},
        ],
        "log_configuration": {"driver": "k8s-file", "size": log_bytes(spec)},
        "devices": [{"path": path} for path in spec.devices],
        "stop_signal": 15,
        "systemd": "false",
    }
    body |= {"rootfs": root} if root else {"image": image}
    body |= {name: list(v) for name, v in (("entrypoint", spec.entrypoint), ("command", spec.args)) if v is not None}
    if spec.entrypoint is not None and spec.args is None:
        body["command"] = []
    if spec.user:
        body["user"] = spec.user
    if spec.working_directory:
        body["work_dir"] = str(spec.working_directory)
    if spec.lifetime_seconds:
        body["timeout"] = spec.lifetime_seconds
    if ids:
        mapping = [{"container_id": 0, "host_id": ids.first, "size": ids.count}]
        body["userns"] = {"nsmode": "private"}
        body["idmappings"] = {"HostUIDMapping": False, "HostGIDMapping": False, "UIDMap": mapping, "GIDMap": mapping}
    if spec.nested_containers:
        body["unmask"] = ["ALL"]
        if fuse == "bind":
            body["mounts"].append(_device_bind(FUSE))
        elif fuse == "device":
            body["devices"].append({"path": FUSE})
    return body


def _bind(mount: Mount) -> dict[str, Any]:
    options = ["rbind", "ro" if mount.read_only else "rw", "nosuid", "nodev"]
    options.append("rslave" if mount.propagate else "rprivate")
    return {"type": "bind", "source": str(mount.source), "destination": str(mount.target), "options": options}


def _device_bind(path: str) -> dict[str, Any]:
    return {"type": "bind", "source": path, "destination": path, "options": ["bind", "rw", "nosuid"]}


def _tmpfs(sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {
            "type": "tmpfs",
            "source": "tmpfs",
            "destination": target,
            "options": ["rw", "nosuid", "nodev", "mode=1777", f"size={size}"],
        }
        for target, size in sizes.items()
    ]


def _limits(spec: Spec, weigh: str | None) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if spec.limits.processors is not None:
        limits["cpu"] = {"period": PERIOD, "quota": round(spec.limits.processors * PERIOD)}
    if spec.idle and weigh is not None:
        limits["cpu"] = limits.get("cpu", {}) | {"shares": LOWEST_SHARES} | ({"idle": 1} if weigh == "idle" else {})
    if spec.limits.memory_bytes is not None:
        limits["memory"] = {"limit": spec.limits.memory_bytes, "swap": spec.limits.memory_bytes}
    if spec.limits.pids is not None:
        limits["pids"] = {"limit": spec.limits.pids}
    return limits
