"""Whether each runtime of this host works: probed, and tried with a machine."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lmd import engines
from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, Level, note, ok, problem, warning
from lmd.doctor.traps import explained, remedy
from lmd.doctor.trial import Tried, tried
from runtimes.contract import Exec, Health, Images, Logs, Probe, Runtime
from runtimes.idranges import MACHINE_IDS

PROBE_SECONDS = 60.0
"""Long, since a hypervisor is probed by starting a guest; one that hangs has its own, shorter, deadlines."""
TRIAL_SECONDS = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One runtime. `wanted`: the configured machinetypes that name it; `tried` None where no machine was made.
    `optional`: the optional protocols of the contract that it has; `configured`: whether it has a table of options."""

    name: str
    probe: Probe
    optional: frozenset[str] = frozenset()
    tried: Tried | None = None
    wanted: Sequence[str] = ()
    configured: bool = False
    hung: bool = False

    @property
    def asked_for(self) -> bool:
        """Whether somebody counts on it: a table of the configuration, or a machinetype."""
        return self.configured or bool(self.wanted)

    @property
    def works(self) -> bool:
        """Healthy, and its machine ran if one was tried."""
        return self.probe.health is Health.HEALTHY and not (self.tried and self.tried.failed)


@dataclass(frozen=True, slots=True)
class Runtimes:
    """All of them. `any_wanted`: machinetypes that leave the choice to lmd."""

    found: Sequence[Found]
    any_wanted: Sequence[str] = ()

    @property
    def hung(self) -> bool:
        """Whether an engine still owes an answer."""
        return any(one.hung for one in self.found)


async def gather(asked: Asked) -> Runtimes:
    """Ask all at the same time; each has its own deadlines, so that one that hangs does not hide another."""
    wanted = _wanted(asked)
    found = await asyncio.gather(*(_found(name, asked, wanted.get(name, ())) for name in asked.runtimes))
    return Runtimes(found, wanted.get("auto", ()))


def _wanted(asked: Asked) -> Mapping[str, Sequence[str]]:
    wanted: dict[str, list[str]] = {}
    for machinetype in asked.config.machinetypes.values():
        wanted.setdefault(machinetype.runtime, []).append(machinetype.name)
    return wanted


async def _found(name: str, asked: Asked, wanted: Sequence[str]) -> Found:
    found = await _probed(name, asked)
    return replace(found, wanted=wanted, configured=engines.counted_on(name, asked.config))


async def _probed(name: str, asked: Asked) -> Found:
    try:
        async with engines.opened(name, asked.config, asked.places) as runtime:
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    probe = await runtime.probe()
            except TimeoutError:
                silent = Probe(health=Health.UNHEALTHY, reason=f"no answer within {PROBE_SECONDS:g} s")
                return Found(name=name, probe=silent, hung=True)
            if probe.health is not Health.HEALTHY or probe.capabilities is None or not asked.trial:
                return Found(name=name, probe=probe, optional=optional(runtime))
            try:
                async with asyncio.timeout(TRIAL_SECONDS):
                    made = await tried(runtime, probe.capabilities, asked)
            except TimeoutError:
                made = Tried(failed=f"no answer within {TRIAL_SECONDS:g} s to a machine that was to be made")
                return Found(name=name, probe=probe, tried=made, hung=True)
            return Found(name=name, probe=probe, optional=optional(runtime), tried=made)
    except engines.NoRuntime as error:
        return Found(name=name, probe=Probe(health=Health.MISSING, reason=str(error)))


def optional(runtime: Runtime) -> frozenset[str]:
    """The optional protocols of the contract that a runtime has."""
    protocols = (("logs", Logs), ("exec", Exec), ("images", Images))
    return frozenset(name for name, protocol in protocols if isinstance(runtime, protocol))


def rule(runtimes: Runtimes) -> Iterator[Finding]:
    """One that works is enough, unless a machinetype names another."""
    enough = any(one.works for one in runtimes.found)
    for one in runtimes.found:
        if one.works:
            yield from _working(one)
        elif one.tried and one.tried.failed and not one.tried.without_network and one.tried.without_network is not None:
            yield _told(one, Level.PROBLEM, f"machines run, but not in a network: {one.tried.failed}", one.probe.remedy)
        else:
            yield from _not_working(one, enough)
    if not enough:
        kinds = " or ".join(one.name for one in runtimes.found) or "none is known"
        wanted = f" ({', '.join(runtimes.any_wanted)} cannot start)" if runtimes.any_wanted else ""
        yield problem(
            f"no runtime works on this host: {kinds}{wanted}", "apt-get install podman crun uidmap slirp4netns"
        )


def _working(one: Found) -> Iterator[Finding]:
    can, made = one.probe.capabilities, one.tried
    named = f"{one.name} {one.probe.version}".strip()
    if one.probe.reason:
        yield Finding(
            Level.WARNING if one.asked_for else Level.NOTE, f"{one.name}: {one.probe.reason}", one.probe.remedy
        )
    if made and made.skipped:
        yield ok(f"{named} answers")
        yield note(f"{one.name} was not tried with a machine", made.skipped)
    elif made:
        yield ok(f"{named} works: a machine ran and was removed in {made.seconds:.1f} s")
        if made.ids == 1:
            yield warning(
                f"{one.name}: its machine had a single user id, root's; images with other users do not work",
                "podman system migrate, once /etc/subuid and /etc/subgid have lines for this user",
            )
        elif made.ids and made.ids < MACHINE_IDS:
            yield note(f"{one.name}: its machine had {made.ids} user ids; images expect {MACHINE_IDS}")
        if can and can.nested_containers and not made.nested:
            yield warning(
                f"{one.name}: nested_containers does not work: a payload could not make a user namespace",
                "see the findings of namespaces",
            )
    else:
        yield ok(f"{named} answers")
    for what, why in sorted(can.absent.items()) if can else ():
        yield note(f"{one.name} lacks {what.replace('_', ' ')}: {why}")


def _not_working(one: Found, enough: bool) -> Iterator[Finding]:
    reason = one.tried.failed if one.tried and one.tried.failed else one.probe.reason
    if one.probe.health is Health.MISSING:
        level = Level.PROBLEM if one.wanted else Level.NOTE
        yield _told(one, level, f"is not here: {reason}", one.probe.remedy)
        return
    level = Level.PROBLEM if one.asked_for or not enough else Level.WARNING if one.hung or one.tried else Level.NOTE
    yield _told(one, level, f"does not work: {reason}", one.probe.remedy)


def _told(one: Found, level: Level, sentence: str, otherwise: str) -> Finding:
    """With what the engine's words mean, and which machinetypes wait for it."""
    trap = explained(sentence)
    meaning = f" (that is: {trap.meaning})" if trap else ""
    wanted = f"; machinetypes {', '.join(one.wanted)} need it" if one.wanted else ""
    return Finding(level, f"{one.name} {sentence}{meaning}{wanted}", remedy(trap, one.name) if trap else otherwise)


CHECK = Check("runtimes", gather, rule, seconds=PROBE_SECONDS + TRIAL_SECONDS + 30)
