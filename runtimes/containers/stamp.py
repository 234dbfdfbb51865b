"""The stamp that makes a container ours: labels beside the name that we chose. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from runtimes.contract import Conflict, Spec

LABEL = "lmd."


def labels(spec: Spec, first_uid: int) -> dict[str, str]:
    """The labels of a machine whose root is the host's user `first_uid`."""
    return {
        f"{LABEL}id": spec.id,
        f"{LABEL}owner": spec.owner,
        f"{LABEL}space": spec.space,
        f"{LABEL}machinetype": spec.machinetype,
        f"{LABEL}digest": spec.digest(),
        f"{LABEL}uid": str(first_uid),
        f"{LABEL}scratch": str(len(spec.scratch)),
        f"{LABEL}console": str(spec.console_bytes),
    }


def volume_name(machine_id: str, number: int) -> str:
    """The engine's volume that holds a machine's scratch directory `number`."""
    return f"lmd-{machine_id}-{number}"


def stamped(found: Mapping[str, str] | None, name: str) -> bool:
    """True if a container carries our stamp for the very name it has."""
    return bool(found) and found is not None and found.get(f"{LABEL}id") == name


def listed_name(listed: Mapping[str, Any]) -> str:
    """The name of a container in a listing (Docker writes a slash before it)."""
    return str((listed.get("Names") or [""])[0]).removeprefix("/")


def same(spec: Spec, found: Sequence[Mapping[str, str] | None]) -> bool:
    """True if a container with these labels is the machine of this very spec. Raises `Conflict` if one is of this name
    but of another spec."""
    ours = next((labels for labels in found if labels and stamped(labels, spec.id)), None)
    if ours and ours[f"{LABEL}digest"] != spec.digest():
        raise Conflict(f"machine {spec.id} exists already with another specification; destroy it first")
    return ours is not None
