"""The runtimes of this host: made from the configuration, chosen for a machinetype, asked together."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lmd.choosing import Offer, offer, why
from lmd.config import virtual
from lmd.config.models import Config, MachineType
from lmd.places import Places
from runtimes import registry
from runtimes.contract import Health, Probe, Runtime, RuntimeFault, Seen, Settings, Spec

AUTO = ("podman", "docker", "kvm")
"""What `runtime = "auto"` tries, in this order, of those that make what the type's isolation says."""

PROBE_SECONDS = 60.0
LIST_SECONDS = 30.0


class NoRuntime(Exception):
    """No runtime can be had for a machinetype; the text says why, and what to type."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one runtime said when asked for its machines: them, or why it cannot tell."""

    runtime: str
    machines: Sequence[Seen] = ()
    problem: str = ""


def settings(name: str, config: Config, places: Places) -> Settings:
    """What a runtime is told when it is made."""
    return Settings(
        state_dir=places.state, run_dir=places.run, cache_dir=places.cache, options=config.runtimes.get(name, {})
    )


@asynccontextmanager
async def opened(name: str, config: Config, places: Places) -> AsyncIterator[Runtime]:
    """The runtime `name`, let go of at the end. Raises `NoRuntime` if it is unknown or its client is not installed."""
    try:
        runtime = registry.load(name, settings(name, config, places))
    except (registry.UnknownRuntime, ImportError) as error:
        raise NoRuntime(str(error)) from error
    try:
        yield runtime
    finally:
        await runtime.aclose()


@dataclass(frozen=True, slots=True)
class Found:
    """The runtime for a machinetype; `why` says in one line why it was chosen, "" if the type names it."""

    runtime: Runtime
    probe: Probe
    why: str


@asynccontextmanager
async def chosen(machinetype: MachineType, config: Config, places: Places, wanted: Spec | None) -> AsyncIterator[Found]:
    """The runtime that the type names, or the first of `AUTO` that works and has what `wanted` needs.

    Raises `NoRuntime` with each one's reason.
    """
    names = fitting(machinetype)
    passed: list[Offer] = []
    for name in names:
        async with opened(name, config, places) as runtime:
            made = offer(name, await _probe(runtime), wanted, machinetype.isolation)
            if made.good:
                yield Found(runtime, made.probe, why(made, passed) if machinetype.runtime == "auto" else "")
                return
            passed.append(made)
    raise NoRuntime(f"machinetype {machinetype.name}: " + "; ".join(one.problem for one in passed))


def fitting(machinetype: MachineType) -> tuple[str, ...]:
    """The runtimes that may run a type: the one that it names, or those of `AUTO` that make what its isolation says."""
    if machinetype.runtime != "auto":
        return (machinetype.runtime,)
    return tuple(name for name in AUTO if virtual.RUNTIMES.get(name) == machinetype.isolation)


async def _probe(runtime: Runtime) -> Probe:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await runtime.probe()
    except TimeoutError:
        return Probe(health=Health.UNHEALTHY, reason=f"no answer within {PROBE_SECONDS:g} s")


async def listed(names: Sequence[str], config: Config, places: Places) -> list[Answer]:
    """The machines of each runtime, all asked at the same time; one that cannot tell does not hinder the others."""
    return list(await asyncio.gather(*(_listed(name, config, places) for name in names)))


async def _listed(name: str, config: Config, places: Places) -> Answer:
    try:
        async with asyncio.timeout(LIST_SECONDS), opened(name, config, places) as runtime:
            return Answer(name, await runtime.machines())
    except (RuntimeFault, NoRuntime) as error:
        return Answer(name, problem=str(error))
    except TimeoutError:
        return Answer(name, problem=f"no answer within {LIST_SECONDS:g} s")


def here(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The runtimes that commands without a machinetype ask: all but the fake, unless the environment has LMD_FAKE."""
    return tuple(name for name in sorted(registry.locations()) if name != "fake" or environment.get("LMD_FAKE"))


def counted_on(name: str, config: Config) -> bool:
    """Whether the configuration speaks of a runtime: a table of its own, or a machinetype that names it."""
    return name in config.runtimes or any(one.runtime == name for one in config.machinetypes.values())
