"""`lm doctor TYPE`: what a machinetype needs, and what of it this host lacks."""

import asyncio
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from lmd import engines
from lmd.config import virtual
from lmd.config.chosen import Chosen
from lmd.config.files import check_files
from lmd.config.models import MachineType
from lmd.config.problems import Problem
from lmd.doctor.check import Asked, Check, apart
from lmd.doctor.checks import limits, memory, network
from lmd.doctor.finding import Finding, Level, note, ok, problem, warning
from lmd.doctor.fitness_image import Looked, look
from lmd.doctor.traps import explained, remedy
from lmd.environment.directory import Directory
from lmd.environment.features import Allocation
from lmd.machine.image import BUILT
from lmd.machine.spec import PLACES, Plan, spec
from runtimes.contract import (
    Health,
    Image,
    ImageKind,
    Images,
    Network,
    Nic,
    Probe,
    Rejected,
    Runtime,
    RuntimeFault,
    Spec,
    unmet,
)

_NIC = Nic(
    address="169.254.1.1", prefix=16, gateway="169.254.169.253", mac="52:54:00:00:00:01", port="lmd-0", bridge="lmd0"
)
"""A stand-in for a place in the factory's network, which machines get when they are made."""
PROBE_SECONDS = 60.0
IMAGE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A runtime, what it lacks for the type, what it cannot enforce, and what it knows of the image."""

    name: str
    probe: Probe
    lacking: Sequence[str] = ()
    soft: Sequence[str] = ()
    has_image: bool | None = None
    hung: bool = False

    @property
    def can(self) -> bool:
        """Whether it could run a machine of the type."""
        return self.probe.health is Health.HEALTHY and not self.lacking


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitness:
    """The type, and what was found for it. `fitting`: the runtimes that the type may get; the other candidates it
    would have to name. `image` has what was found while its image was looked at."""

    type: MachineType
    fitting: Sequence[str]
    candidates: Sequence[Candidate]
    files: Sequence[Problem]
    image: Sequence[Finding]
    memory: memory.Memory
    limits: limits.Limits
    network: network.Network
    free_bytes: int

    @property
    def hung(self) -> bool:
        """Whether an engine still owes an answer."""
        return any(one.hung for one in self.candidates)


def checks(chosen: Chosen) -> tuple[Check[Fitness]]:
    """The one check of a machinetype."""

    async def gather(asked: Asked) -> Fitness:
        return await _gathered(chosen, asked)

    return (Check(chosen.machinetype.name, gather, rule, seconds=PROBE_SECONDS + IMAGE_SECONDS + 10),)


async def _gathered(chosen: Chosen, asked: Asked) -> Fitness:
    type_ = chosen.machinetype
    asked = replace(asked, config=chosen.config)
    looked = await apart(lambda: look(type_, asked))
    names = engines.fitting(type_)
    if type_.runtime == "auto":
        others = (name for name in asked.runtimes if virtual.RUNTIMES.get(name, type_.isolation) == type_.isolation)
        names = tuple(dict.fromkeys([*names, *others]))
    wanted = _spec(type_, looked)
    there = asked.places.state if asked.places.state.exists() else Path("/")
    return Fitness(
        type=type_,
        fitting=engines.fitting(type_),
        candidates=await asyncio.gather(*(_candidate(name, asked, wanted, looked.named) for name in names)),
        files=[one for one in check_files(chosen.config, type_.name) if not _of_built_image(one, type_)],
        image=looked.findings,
        memory=await apart(lambda: memory.gather(asked)),
        limits=await apart(lambda: limits.gather(asked)),
        network=replace(await apart(lambda: network.gather(asked)), wanted=[type_.name]),
        free_bytes=os.statvfs(there).f_bavail * os.statvfs(there).f_frsize,
    )


def _of_built_image(found: Problem, type_: MachineType) -> bool:
    """Whether a file is missed for an image that is none: `lmd:NAME` has findings of its own."""
    return type_.root_image.startswith(BUILT) and found.key[-1:] == ("root_image",)


def _spec(type_: MachineType, looked: Looked) -> Spec:
    """What a runtime would be asked for the smallest machine of the type."""
    now = time.time()
    plan = Plan(
        id="lmx-fitness",
        owner=f"run:{os.geteuid()}",
        space="doctor.invalid",
        machinetype=type_,
        image=looked.given,
        allocation=Allocation(
            job_id=str(uuid.uuid4()),
            processors=type_.min_processors,
            memory_bytes=type_.mb_per_processor * type_.min_processors * memory.MEBIBYTE,
            started=now,
            shutdown_time=now + type_.max_wallclock_seconds,
            grace=0,
            hs06_per_processor=None,
            swap_bytes=0,
        ),
        command=None if looked.start is None or looked.start.boot is None else ("true",),  # what it is does not matter
        start=looked.start,
        nic=_NIC if type_.network is Network.LMD else None,
    )
    secrets = [Path("/nowhere")] * len(type_.secret_files)
    places: dict[str, PurePosixPath] = dict(PLACES)
    return spec(plan, Directory(Path("/nowhere")), places, secrets)


async def _candidate(name: str, asked: Asked, wanted: Spec, image: Image | None) -> Candidate:
    try:
        async with engines.opened(name, asked.config, asked.places) as runtime:
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    probe = await runtime.probe()
            except TimeoutError:
                silent = Probe(health=Health.UNHEALTHY, reason=f"no answer within {PROBE_SECONDS:g} s")
                return Candidate(name=name, probe=silent, hung=True)
            can = probe.capabilities
            if probe.health is not Health.HEALTHY or can is None:
                return Candidate(name=name, probe=probe)
            return Candidate(
                name=name,
                probe=probe,
                lacking=unmet(wanted, can),
                soft=sorted(wanted.limits.asked() - can.limits),
                has_image=await _has(runtime, image),
            )
    except engines.NoRuntime as error:
        return Candidate(name=name, probe=Probe(health=Health.MISSING, reason=str(error)))


async def _has(runtime: Runtime, image: Image | None) -> bool | None:
    """Whether the engine has an image that is asked for by a name; None where that cannot be told, or is no question.

    It then counts as used now, for the order in which images are removed.
    """
    if image is None or image.kind is not ImageKind.REFERENCE or not isinstance(runtime, Images):
        return None
    try:
        async with asyncio.timeout(IMAGE_SECONDS):
            await runtime.ensure(replace(image, pull="never"))
        return True
    except Rejected:
        return False
    except (RuntimeFault, TimeoutError):
        return None


def rule(fit: Fitness) -> Iterator[Finding]:
    """Files and image first, then each runtime, then what the host is too small for."""
    for found in fit.files:
        yield problem(str(found))
    yield from fit.image
    ready = not fit.files and not any(finding.level is Level.PROBLEM for finding in fit.image)
    able = [one for one in fit.candidates if one.can and one.name in fit.fitting]
    for one in fit.candidates:
        if one.name in fit.fitting:
            yield from _of(one, fit, alone=not able)
        elif one.can:
            yield note(f'{one.name} could run them, if the type says so: runtime = "{one.name}"')
    if able and ready:
        yield ok(f"machines of this type can run here, on {able[0].name}")
    elif not able:
        yield problem("no runtime of this host can run machines of this type", "lm doctor")
    if fit.type.network is Network.LMD and not fit.network.rootless:
        yield from network.factory_s_own(fit.network)
    yield from _size(fit)


def _of(one: Candidate, fit: Fitness, *, alone: bool) -> Iterator[Finding]:
    if one.probe.health is not Health.HEALTHY:
        trap = explained(one.probe.reason)
        sentence = f"{one.name} is {one.probe.health}: {one.probe.reason}"
        yield (problem if alone else note)(sentence, remedy(trap, one.name) if trap else one.probe.remedy)
        return
    for what in one.lacking:
        yield (problem if alone else note)(f"{one.name} lacks {what}")
    if one.lacking:
        return
    if one.soft:
        why = one.probe.capabilities.absent.get("limits", "") if one.probe.capabilities else ""
        yield warning(f"{one.name} does not enforce {', '.join(one.soft)}" + (f": {why}" if why else ""))
    if one.has_image is False:
        named = fit.type.root_image.removeprefix("docker://")
        if fit.type.pull == "never":
            yield problem(f"{one.name} does not have image {named}, and pull is never", f"lm image pull {named}")
        else:
            yield note(f"{one.name} does not have image {named}: it is fetched at first", f"lm image pull {named}")
    elif one.has_image:
        yield ok(f"{one.name} has the image")


def _size(fit: Fitness) -> Iterator[Finding]:
    type_, least = fit.type, fit.type.min_processors
    if least > fit.memory.processors:
        yield problem(f"needs {least} processors, this host has {fit.memory.processors}")
    elif type_.max_processors > fit.memory.processors:
        yield note(f"could use {type_.max_processors} processors, this host has {fit.memory.processors}")
    needed = least * type_.mb_per_processor * memory.MEBIBYTE
    if needed > fit.memory.total:
        yield problem(f"needs {needed / 1e9:.1f} GB of memory, this host has {fit.memory.total / 1e9:.1f}")
    elif needed > fit.memory.available:
        yield warning(f"needs {needed / 1e9:.1f} GB of memory, {fit.memory.available / 1e9:.1f} are free now")
    if type_.joboutputs_bytes > fit.free_bytes:
        yield warning(
            f"may leave {type_.joboutputs_bytes / 1e9:.1f} GB in joboutputs, {fit.free_bytes / 1e9:.1f} are free"
        )
    hard, asked = fit.limits.files, type_.open_files
    if hard is not None and asked is not None and asked > hard and not fit.limits.may_raise:
        yield warning(f"asks for {asked} open files, this host gives {hard}", "LimitNOFILE= in the engine's unit")
