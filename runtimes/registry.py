"""Which runtimes there are: the built-in table, and the entry point group that adds others."""

import importlib
from importlib.metadata import entry_points

from runtimes.contract import Runtime, Settings

BUILT_IN = {
    "docker": "runtimes.docker:Docker",
    "fake": "runtimes.fake:Fake",
    "kvm": "runtimes.kvm:Kvm",
    "podman": "runtimes.podman:Podman",
}
CLIENTS = {"docker": "docker", "kvm": "libvirt-python", "podman": "podman"}
"""The distributions that hold the client packages of the built-in runtimes."""
GROUP = "lmd.runtimes"


class UnknownRuntime(LookupError):
    """No runtime of that name; the text lists those there are."""


def locations() -> dict[str, str]:
    """Every known runtime's name with its `module:Class`; a built-in name cannot be replaced."""
    added = {point.name: point.value for point in entry_points(group=GROUP)}
    return added | BUILT_IN


def load(name: str, settings: Settings) -> Runtime:
    """Import and make the runtime `name`. Raises `UnknownRuntime`, or `ImportError` saying what to install."""
    known = locations()
    if name not in known:
        raise UnknownRuntime(f"no runtime {name!r}; known are {', '.join(sorted(known))}")
    module, _, attribute = known[name].partition(":")
    try:
        made: Runtime = getattr(importlib.import_module(module), attribute)(settings)
    except ImportError as error:
        client = CLIENTS.get(name, error.name or "its client package")
        raise ImportError(f"runtime {name}: {error}: pip install {client}") from error
    return made
