"""Each check of the contract's suite fails on a runtime that breaks what it holds: the suite can fail."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from runtimes.conformance import CHECKS, Check, Context, Outcome, run_one
from runtimes.contract import (
    ConsoleChunk,
    End,
    EndReason,
    ExecResult,
    Health,
    Image,
    Probe,
    Rejected,
    RuntimeFault,
    Seen,
    Spec,
    Started,
    State,
    Unavailable,
    Usage,
)
from runtimes.fake import Fake
from runtimes.fake.record import Life, Record
from runtimes.fake.runtime import _record

SHELL_WORDS = ("no shell", "no processes")


class ShowsAPartOfTheListing(Fake):
    async def machines(self) -> Sequence[Seen]:
        return [self._seen(Life.of(record)) for record in self.engine.listing().records if record.labels]


class ListsOneByOne(Fake):
    async def machines(self) -> Sequence[Seen]:
        names = [record.name for record in self.engine.listing().records]
        await asyncio.sleep(0.01)
        found = {name: self._ours(name) for name in names}
        if None in found.values():
            raise KeyError(f"one of {len(found)} machines went away meanwhile")
        return [self._seen(Life.of(record)) for record in found.values() if record is not None]


class TakesSilenceForEmptiness(Fake):
    async def machines(self) -> Sequence[Seen]:
        try:
            return await super().machines()
        except Unavailable:
            return []


class TakesSilenceForSuccess(Fake):
    async def destroy(self, machine_id: str) -> None:
        with suppress(Unavailable):
            await super().destroy(machine_id)


class StopsInSilence(Fake):
    async def stop(self, machine_id: str, *, grace: float) -> None:
        with suppress(Unavailable):
            await super().stop(machine_id, grace=grace)


class TellsNoVersion(Fake):
    async def probe(self) -> Probe:
        return replace(await super().probe(), version="")


class IsNotWell(Fake):
    async def probe(self) -> Probe:
        return Probe(health=Health.MISSING, reason="no engine", remedy="apt-get install engine")


class Relists(Fake):
    """Shows every machine through `shown`."""

    def shown(self, seen: Seen) -> Seen | None:
        return seen

    async def machines(self) -> Sequence[Seen]:
        return [new for seen in await super().machines() if (new := self.shown(seen)) is not None]


class LosesTheOwner(Relists):
    def shown(self, seen: Seen) -> Seen | None:
        return replace(seen, owner="")


class LosesTheDigest(Relists):
    def shown(self, seen: Seen) -> Seen | None:
        return replace(seen, digest="0" * 64)


class ForgetsTheEnded(Relists):
    def shown(self, seen: Seen) -> Seen | None:
        return None if seen.state is State.EXITED else seen


class CallsEverythingClean(Relists):
    def shown(self, seen: Seen) -> Seen | None:
        return seen if seen.end is None else replace(seen, end=End(reason=EndReason.CLEAN, exit_code=0))


class CallsEverythingFailed(Relists):
    def shown(self, seen: Seen) -> Seen | None:
        return seen if seen.end is None else replace(seen, end=replace(seen.end, reason=EndReason.FAILED))


class LosesExitCodes(Relists):
    def shown(self, seen: Seen) -> Seen | None:
        return seen if seen.end is None else replace(seen, end=replace(seen.end, exit_code=1))


class MovesTheEnd(Relists):
    def shown(self, seen: Seen) -> Seen | None:
        return seen if seen.end is None else replace(seen, end=replace(seen.end, at=self._clock.time()))


class TellsWrongLimits(Relists):
    def shown(self, seen: Seen) -> Seen | None:
        return replace(seen, memory_bytes=1)


class TellsAnotherImage(Fake):
    async def ensure(self, image: Image) -> str:
        return (await super().ensure(image))[:-4] + "beef"


class FindsEveryImage(Fake):
    async def ensure(self, image: Image) -> str:
        return await super().ensure(replace(image, location="localhost/conformance"))


class ListsForeignMachines(Fake):
    async def machines(self) -> Sequence[Seen]:
        stamps = dict.fromkeys(("owner", "space", "machinetype", "digest"), "")
        return [self._seen(Life.of(replace(r, labels=r.labels or stamps))) for r in self.engine.listing().records]


class TouchesForeignMachines(Fake):
    async def destroy(self, machine_id: str) -> None:
        self.engine.remove(machine_id)


class StopsForeignMachines(Fake):
    async def stop(self, machine_id: str, *, grace: float) -> None:
        self.engine.cut(machine_id, EndReason.KILLED, 137)


class KnowsOnlyItsOwn(Fake):
    async def create(self, spec: Spec) -> Seen:
        self.__dict__.setdefault("mine", set()).add(spec.id)
        return await super().create(spec)

    async def machines(self) -> Sequence[Seen]:
        return [seen for seen in await super().machines() if seen.id in self.__dict__.get("mine", ())]


class ReplacesMachines(Fake):
    async def create(self, spec: Spec) -> Seen:
        await self.destroy(spec.id)
        return await super().create(spec)


class RunsTheEndedAgain(Fake):
    async def create(self, spec: Spec) -> Seen:
        record = self._ours(spec.id)
        if record is not None and record.state(self._clock.time())[0] is State.EXITED:
            self.engine.remove(spec.id)
        return await super().create(spec)


class IgnoresTheDigest(Fake):
    async def create(self, spec: Spec) -> Seen:
        record = self._ours(spec.id)
        return await super().create(spec) if record is None else self._seen(Life.of(record))


class KeepsWhatItRefuses(Fake):
    async def create(self, spec: Spec) -> Seen:
        try:
            return await super().create(spec)
        except RuntimeFault:
            if self.engine.get(spec.id) is None:
                self.engine.insert(_record(spec, ("forever",), "", self._clock.time()))
            raise


class RefusesForNow(Fake):
    async def create(self, spec: Spec) -> Seen:
        try:
            return await super().create(spec)
        except Rejected as error:
            raise Unavailable(str(error)) from error


class TakesWhatItCannot(Fake):
    async def create(self, spec: Spec) -> Seen:
        return await super().create(replace(spec, architecture=None))


class MountsWhatIsNotThere(Fake):
    async def create(self, spec: Spec) -> Seen:
        for mount in spec.mounts:
            mount.source.mkdir(exist_ok=True)
        return await super().create(spec)


class StepsTooLate(Fake):
    async def create(self, spec: Spec) -> Seen:
        seen = await super().create(replace(spec, before_start=None))
        if spec.before_start is not None:
            await spec.before_start(Started(id=spec.id, pid=1))
        return seen


class StepsForEveryone(Fake):
    async def create(self, spec: Spec) -> Seen:
        if spec.before_start is not None:
            await spec.before_start(Started(id=spec.id, pid=1))
        return await super().create(replace(spec, before_start=None))


class IgnoresAFailedStep(Fake):
    async def create(self, spec: Spec) -> Seen:
        async def step(started: Started) -> None:
            with suppress(OSError):
                assert spec.before_start is not None
                await spec.before_start(started)

        return await super().create(replace(spec, before_start=step if spec.before_start else None))


class StopsOnlyTheRunning(Fake):
    async def stop(self, machine_id: str, *, grace: float) -> None:
        if not self._lives(self._ours(machine_id)):
            raise Rejected(f"machine {machine_id} does not run")
        await super().stop(machine_id, grace=grace)


class StopsOnlyOnce(Fake):
    def _ask_to_end(self, machine_id: str) -> Record | None:
        record = self._ours(machine_id)
        if record is not None and record.asked is not None:
            raise Rejected(f"machine {machine_id} is being stopped")
        return super()._ask_to_end(machine_id)


class StopsWithoutGrace(Fake):
    async def stop(self, machine_id: str, *, grace: float) -> None:
        await super().stop(machine_id, grace=0)


class NeverForces(Fake):
    def _force(self, machine_id: str) -> None:
        return None


class DestroysOnlyOnce(Fake):
    async def destroy(self, machine_id: str) -> None:
        if self._ours(machine_id) is None:
            raise Rejected(f"no machine {machine_id}")
        await super().destroy(machine_id)


class LeavesScratch(Fake):
    def _remove(self, machine_id: str) -> None:
        super()._remove(machine_id)
        self.engine.scratch(machine_id).mkdir(parents=True, exist_ok=True)


class DestroysNothing(Fake):
    async def destroy(self, machine_id: str) -> None:
        return None


class EndsWithItsMaker(Fake):
    async def aclose(self) -> None:
        for record in self.engine.listing().records:
            self.engine.cut(record.name, EndReason.KILLED, 137)


class EndsWhatItFinds(Fake):
    async def machines(self) -> Sequence[Seen]:
        for record in self.engine.listing().records:
            self.engine.cut(record.name, EndReason.KILLED, 137)
        return await super().machines()


class NeverAnswers(Fake):
    async def machines(self) -> Sequence[Seen]:
        await asyncio.sleep(3600)
        return []


class WatchFails(Fake):
    async def watch(self) -> AsyncIterator[str]:
        raise KeyError("events")
        yield ""


class WatchTellsNonsense(Fake):
    async def watch(self) -> AsyncIterator[str]:
        yield b"lm-1"  # type: ignore[misc]


class CountsNoProcessorTime(Fake):
    async def usage(self) -> Mapping[str, Usage]:
        return {name: replace(usage, cpu_seconds=0.0) for name, usage in (await super().usage()).items()}


class CountsOnlyOne(Fake):
    async def usage(self) -> Mapping[str, Usage]:
        return dict(list((await super().usage()).items())[:1])


class WritesNothing(Fake):
    async def create(self, spec: Spec) -> Seen:
        return await super().create(replace(spec, mounts=(), args=("exit", "0")))


class WritesEverywhere(Fake):
    async def create(self, spec: Spec) -> Seen:
        return await super().create(replace(spec, mounts=tuple(replace(m, read_only=False) for m in spec.mounts)))


class CutsConsoles(Fake):
    async def console(self, machine_id: str, *, follow: bool) -> AsyncIterator[ConsoleChunk]:
        async for chunk in super().console(machine_id, follow=follow):
            yield replace(chunk, data=chunk.data[:1000])


class HidesGaps(Fake):
    async def console(self, machine_id: str, *, follow: bool) -> AsyncIterator[ConsoleChunk]:
        async for chunk in super().console(machine_id, follow=follow):
            yield replace(chunk, skipped=0)


class FollowsAfterwards(Fake):
    async def console(self, machine_id: str, *, follow: bool) -> AsyncIterator[ConsoleChunk]:
        while self._lives(self._ours(machine_id)):
            await asyncio.sleep(0.05)
        async for chunk in super().console(machine_id, follow=False):
            yield chunk


class LosesExecCodes(Fake):
    async def execute(self, machine_id: str, command: Sequence[str], *, limit: int = 1_000_000) -> ExecResult:
        return replace(await super().execute(machine_id, command, limit=limit), exit_code=0)


class ExecsWithoutLimit(Fake):
    async def execute(self, machine_id: str, command: Sequence[str], *, limit: int = 1_000_000) -> ExecResult:
        return await super().execute(machine_id, command)


class ExecsAnything(Fake):
    async def execute(self, machine_id: str, command: Sequence[str], *, limit: int = 1_000_000) -> ExecResult:
        try:
            return await super().execute(machine_id, command, limit=limit)
        except Rejected:
            return ExecResult(exit_code=127, output=b"", errors=b"not found")


BROKEN: tuple[tuple[type[Fake], str], ...] = (
    (TellsNoVersion, "probe-tells-what-works"),
    (IsNotWell, "probe-tells-what-works"),
    (LosesTheOwner, "created-is-listed-with-stamps"),
    (LosesTheDigest, "created-is-listed-with-stamps"),
    (ForgetsTheEnded, "every-machine-is-listed"),
    (ListsOneByOne, "listing-is-complete-under-churn"),
    (ShowsAPartOfTheListing, "outage-is-never-an-empty-list"),
    (TakesSilenceForEmptiness, "outage-is-never-an-empty-list"),
    (TakesSilenceForSuccess, "outage-is-never-success"),
    (StopsInSilence, "outage-is-never-success"),
    (ListsForeignMachines, "foreign-machine-is-untouched"),
    (TouchesForeignMachines, "foreign-machine-is-untouched"),
    (StopsForeignMachines, "foreign-machine-is-untouched"),
    (ReplacesMachines, "create-twice-is-one-machine"),
    (RunsTheEndedAgain, "create-does-not-run-twice"),
    (IgnoresTheDigest, "other-digest-is-a-conflict"),
    (ReplacesMachines, "concurrent-creates-make-one"),
    (StepsForEveryone, "concurrent-creates-make-one"),
    (KeepsWhatItRefuses, "refused-create-leaves-nothing"),
    (RefusesForNow, "refused-create-leaves-nothing"),
    (TakesWhatItCannot, "lacking-capability-is-rejected"),
    (StepsTooLate, "before-start-comes-before-the-payload"),
    (IgnoresAFailedStep, "failing-before-start-leaves-nothing"),
    (StopsOnlyTheRunning, "stop-is-idempotent"),
    (StopsOnlyOnce, "stops-at-once-succeed"),
    (StopsWithoutGrace, "grace-lets-the-payload-finish"),
    (StopsWithoutGrace, "deaf-payload-is-killed"),
    (NeverForces, "deaf-payload-is-killed"),
    (DestroysOnlyOnce, "destroy-is-idempotent-and-complete"),
    (LeavesScratch, "destroy-is-idempotent-and-complete"),
    (DestroysOnlyOnce, "destroys-at-once-succeed"),
    (DestroysNothing, "id-is-free-after-destroy"),
    (ForgetsTheEnded, "ended-machine-stays-listed"),
    (MovesTheEnd, "ended-machine-stays-listed"),
    (LosesExitCodes, "clean-end-is-told"),
    (CallsEverythingClean, "failure-is-told-with-its-code"),
    (LosesExitCodes, "failure-is-told-with-its-code"),
    (CallsEverythingFailed, "oom-is-told"),
    (CallsEverythingFailed, "force-is-told-as-killed"),
    (CallsEverythingFailed, "signal-is-told-as-killed"),
    (WatchFails, "end-is-noticed"),
    (WatchTellsNonsense, "end-is-noticed"),
    (KnowsOnlyItsOwn, "second-instance-adopts"),
    (EndsWithItsMaker, "closing-leaves-machines-running"),
    (StopsOnlyTheRunning, "created-machine-can-be-destroyed"),
    (DestroysNothing, "created-machine-can-be-destroyed"),
    (DestroysNothing, "cancelled-create-leaves-what-is-explained"),
    (EndsWhatItFinds, "killed-creator-leaves-machines-running"),
    (DestroysNothing, "killed-at-random-leaves-what-is-explained"),
    (WritesNothing, "bound-directory-is-written"),
    (WritesEverywhere, "read-only-bind-is-not-written"),
    (MountsWhatIsNotThere, "missing-source-is-rejected"),
    (LeavesScratch, "scratch-goes-with-the-machine"),
    (TellsAnotherImage, "images-are-ensured"),
    (FindsEveryImage, "images-are-ensured"),
    (CutsConsoles, "console-is-whole"),
    (HidesGaps, "console-is-capped"),
    (CutsConsoles, "console-is-capped"),
    (FollowsAfterwards, "console-is-followed"),
    (LosesExecCodes, "command-runs-inside"),
    (ExecsWithoutLimit, "command-runs-inside"),
    (ExecsAnything, "hopeless-command-is-rejected"),
    (TellsWrongLimits, "limits-are-told"),
    (CountsNoProcessorTime, "usage-grows"),
    (CountsOnlyOne, "usage-grows"),
    (NeverAnswers, "created-is-listed-with-stamps"),
)
"""A runtime with one fault, and a check that has to find it."""

CANNOT_FAIL_BY_RUNTIME = {"id-is-a-dns-label", "lifetime-is-a-backstop"}
"""The first tries `Spec` itself; the second is not applicable, rather than failed, where there is no backstop."""


@pytest.mark.parametrize(("broken", "name"), BROKEN, ids=lambda v: v if isinstance(v, str) else v.__name__)
async def test_a_broken_runtime_fails(broken: type[Fake], name: str, make_fake_context: Callable[..., Context]) -> None:
    (check,) = [check for check in CHECKS if check.name == name]
    context = replace(make_fake_context(broken), deadline=1.0 if broken is NeverAnswers else 6.0)
    result = await run_one(check, context)
    assert result.outcome is Outcome.FAILED, result
    assert not result.reason.startswith("unexpected AttributeError"), result.reason


async def test_every_check_that_the_fake_can_take_fails_on_some_broken_runtime(
    make_fake_context: Callable[..., Context],
) -> None:
    shell_checks = {check.name for check in CHECKS if await _needs_a_shell(check, make_fake_context())}
    proven = {name for _, name in BROKEN} | CANNOT_FAIL_BY_RUNTIME
    assert {check.name for check in CHECKS} - shell_checks == proven


async def _needs_a_shell(check: Check, context: Context) -> bool:
    result = await run_one(check, replace(context, deadline=0.05))
    return result.outcome is Outcome.NOT_APPLICABLE and any(words in result.reason for words in SHELL_WORDS)
