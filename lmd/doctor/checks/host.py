"""What this host is: system, kernel, versions of ours and of the engines' helpers."""

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, note, ok
from lmd.doctor.looking import first_line, program, text

HELPERS = ("crun", "runc", "conmon", "fuse-overlayfs", "skopeo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`helpers`: the first line of what each installed helper says of its version."""

    system: str
    kernel: str
    machine: str
    lmd: str
    python: str
    container: str
    helpers: Mapping[str, str]


def gather(asked: Asked) -> Host:
    """Ask each helper for its version."""
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = ""
    return Host(
        system=system,
        kernel=os.uname().release,
        machine=os.uname().machine,
        lmd=version("lmd"),
        python=platform.python_version(),
        container=_container(),
        helpers={name: first_line([path, "--version"]) for name in HELPERS if (path := program(name))},
    )


def _container() -> str:
    """What container this process itself is in, as far as can be told."""
    if text("/run/.containerenv") is not None:
        return "podman"
    return "docker" if text("/.dockerenv") is not None else (text("/run/systemd/container") or "")


def rule(host: Host) -> Iterator[Finding]:
    """Nothing here is wrong; it is what a report has to begin with."""
    yield ok(
        f"{host.system or 'unknown system'}, kernel {host.kernel}, {host.machine}; lmd {host.lmd}, Python {host.python}"
    )
    if host.helpers:
        yield ok("; ".join(_named(name, line) for name, line in host.helpers.items()))
    if host.container:
        yield note(f"this process is itself in a container ({host.container}): what it sees may not be the host's")


def _named(name: str, line: str) -> str:
    return line if name in line else f"{name} {line}".strip()


CHECK = Check("host", gather, rule)
