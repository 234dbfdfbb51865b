"""What the suite is told about the runtime that it tries."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from runtimes.conformance.payloads import Payloads, ShellPayloads
from runtimes.contract import Boot, Image, ImageKind, Runtime, Settings


class Foreign(Protocol):
    """Machines in the same engine that are not ours, made with the engine's own client."""

    async def make(self, name: str) -> None:
        """Start one under this name, without any stamp of ours."""

    async def state(self, name: str) -> str | None:
        """Something that changes if the machine is touched (instance id, status); None if it is gone."""

    async def remove(self, name: str) -> None:
        """Remove it; absent is success."""


Leftovers = Callable[[str], Awaitable[Sequence[str]]]
"""All that the host still has of a machine id (containers, volumes, mounts, cgroups, files), one line each."""

HostNetwork = Callable[[], Awaitable[str]]
"""What `/proc/PID/ns/net` of the engine points to, which is the host's network as its machines can have it."""

Outage = Callable[[], AbstractAsyncContextManager[Runtime]]
"""Gives a runtime whose engine cannot answer, or not completely, as long as the context lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One runtime on one host, and how to try it.

    `make` gives a new instance of the runtime each time: the suite takes several, as separate processes would.
    `settings`, if given, are those by which a child process makes `registry.load(name, settings)`.
    `directory` is empty and the suite's alone. `deadline` in seconds is for each check; what ought to come soon is
    waited for a third of it, and looked for every `pause` seconds. `boot` is what virtual machines start with. Hooks
    that are None make the checks that want them not applicable.
    """

    make: Callable[[], Runtime]
    image: Image
    payloads: Payloads
    directory: Path
    settings: Settings | None = None
    boot: Boot | None = None
    missing_image: Image = field(
        default_factory=lambda: Image(
            kind=ImageKind.REFERENCE, location="localhost/lmd-no-such-image:none", pull="never"
        )
    )
    deadline: float = 60.0
    pause: float = 0.05
    foreign: Foreign | None = None
    leftovers: Leftovers | None = None
    host_network: HostNetwork | None = None
    outages: Mapping[str, Outage] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerContext(Context):
    """A container engine, and an image that has /bin/sh and the small commands of busybox."""

    payloads: Payloads = field(default_factory=ShellPayloads)
