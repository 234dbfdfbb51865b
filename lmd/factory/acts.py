"""What is done to one machine: made, told to end, ended, judged, cleaned up. Each act begins with what is written down
and can be cut at any moment: the next observation finds what it left.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from lmd.config.models import Config
from lmd.environment import joboutputs
from lmd.environment.console import Console
from lmd.environment.directory import Directory, DirectoryError
from lmd.environment.outcome import MESSAGE_FILE, MESSAGE_LIMIT, Outcome, Why, judge
from lmd.environment.trees import Refused
from lmd.factory.ledger import Ledger
from lmd.factory.rows import Clocks, Phase, Row
from lmd.factory.warnings import Kind
from lmd.factory.watched import Watched
from lmd.machine import connection, saved
from lmd.machine.prepare import CannotPrepare, finish, prepare
from lmd.machine.spec import Plan
from lmd.places import Places
from lmd.repositories import handing
from lmd.repositories.provider import NoRepositories
from runtimes.contract import (
    Conflict,
    End,
    EndReason,
    Exec,
    Exhausted,
    Logs,
    Reclaims,
    Rejected,
    Runtime,
    RuntimeFault,
    Seen,
    Spec,
    State,
    Unavailable,
    unmet,
)

CREATE_SECONDS = 900.0
"""Deadline of a create, which may have to fetch an image."""
ACT_SECONDS = 60.0
SHORT_GRACE = 10.0
EXHAUSTED_SECONDS = 30.0
FIRST_BACKOFF = 10.0
LONGEST_BACKOFF = 3600.0


class NotWritten(RuntimeFault):
    """What was decided could not be written down, so it was not done."""


class Acts:
    """Acts on the machines of one factory."""

    def __init__(
        self,
        ledger: Ledger,
        engines: Mapping[str, Watched],
        places: Places,
        clocks: Clocks,
        config: Callable[[], Config],
    ) -> None:
        self.ledger, self.engines, self.places, self.clocks = ledger, engines, places, clocks
        self._config = config
        self.stopped: dict[str, float] = {}
        self._version = f"lmd {version('lmd')}"

    def directory(self, name: str) -> Directory:
        """Where a machine's files are, whether they are there or not."""
        return Directory(self.places.machines / name)

    async def start(self, plan: Plan, runtime: str) -> None:
        """Make a machine whose row is written as preparing."""
        engine, directory = self.engines[runtime], self.directory(plan.id)
        async with engine.creating:
            try:
                plan = await connection.joined(plan, directory, self.places, self._config())
                given = await handing.handed(plan.machinetype, plan.image, self._config(), self.places)
                plan = replace(plan, repositories=given)
                spec = await asyncio.to_thread(self._prepare, plan, directory, runtime)
                if engine.probe and engine.probe.capabilities and (lacking := unmet(spec, engine.probe.capabilities)):
                    raise Rejected(f"{runtime} on this host lacks {'; '.join(lacking)}")
            except (CannotPrepare, DirectoryError, Rejected, NoRepositories, connection.NetworkFault) as error:
                await self._never(plan.id, error)
                return
            row = self.ledger.rows.get(plan.id)
            if row is None or row.phase is not Phase.PREPARING:
                await asyncio.to_thread(directory.remove)
                await self._never(plan.id, NotWritten("it was stopped before it was made"))
                return
            self.ledger.change(plan.id, phase=Phase.STARTING, digest=spec.digest())
            if not await self.ledger.flush():
                await asyncio.to_thread(directory.remove)
                await self._never(plan.id, NotWritten("the intent could not be written to the database"))
                return
            await self._create(engine, spec)

    async def resume(self, row: Row) -> None:
        """Go on with a create that was cut off: the same spec, so the same machine."""
        engine = self.engines[row.runtime]
        async with engine.creating:
            try:
                spec = await asyncio.to_thread(saved.load, self.directory(row.id))
            except DirectoryError:
                await self.finish(row, None)
                return
            await self._create(engine, spec)

    async def _create(self, engine: Watched, spec: Spec) -> None:
        directory, config = self.directory(spec.id), self._config()
        spec = handing.with_step(spec, directory, config, self.places)
        try:
            async with asyncio.timeout(CREATE_SECONDS):
                seen = await engine.runtime.create(spec)
        except (Rejected, Conflict, Exhausted) as fault:
            await self._never(spec.id, fault)
            return
        except (Unavailable, TimeoutError) as fault:
            self.ledger.events.add("create-unsure", spec.id, problem=str(fault) or "no answer in time")
            engine.look()  # whether it is there, only a listing can tell
            return
        if wrong := await handing.keep(seen, directory, config, self.places):
            self.ledger.events.add("repository-unseen", spec.id, problem=wrong)
            self.ledger.warnings.raised(Kind.START, spec.machinetype, f"a machine {wrong}")
        else:
            self.ledger.warnings.resolved(Kind.START, spec.machinetype)
        self.note(seen)
        self.ledger.back_off(spec.machinetype, None)
        await self.ledger.flush()

    def note(self, seen: Seen) -> None:
        """Take what the engine shows of a living machine."""
        row = self.ledger.rows.get(seen.id)
        if row is None or not row.live:
            return
        phase = row.phase
        if phase in (Phase.PREPARING, Phase.STARTING):
            phase = Phase.STARTING if seen.state is State.EXITED else Phase.RUNNING
        self.ledger.change(
            seen.id,
            phase=phase,
            shown=True,
            state=seen.state,
            started=seen.started or row.started,
            image_digest=seen.image_digest or row.image_digest,
        )

    async def _never(self, name: str, fault: Exception) -> None:
        """A machine that was not made: written down, its type waits before the next one is tried."""
        row = self.ledger.rows.get(name)
        if row is None:
            return
        detail = str(fault)
        outcome = {"message": None, "decided": "factory", "detail": detail, "exit": 20, "exit_name": "cannot-start"}
        with suppress(DirectoryError):
            directory = self.directory(name)
            await asyncio.to_thread(lambda: finish(directory, directory.load(), _summary(row, outcome)))
        self.ledger.set(self._ended(row, outcome, cleaned=isinstance(fault, CannotPrepare | DirectoryError)))
        if not isinstance(fault, NotWritten):
            self._wait(row.machinetype, detail, exhausted=isinstance(fault, Exhausted))
        await self.ledger.flush()

    def _wait(self, machinetype: str, detail: str, *, exhausted: bool) -> None:
        known = self.ledger.backoffs.get(machinetype, {})
        last = float(known.get("seconds", FIRST_BACKOFF / 2))
        seconds = EXHAUSTED_SECONDS if exhausted else min(2 * last, LONGEST_BACKOFF)
        self.ledger.back_off(
            machinetype,
            {"until": self.clocks.wall() + seconds, "since": self.clocks.wall(), "seconds": seconds, "reason": detail},
        )
        self.ledger.warnings.raised(Kind.START, machinetype, detail)

    def condemn(self, row: Row, why: Why, detail: str, grace: float) -> Row | None:
        """Write down that a machine has to end, by force after `grace` seconds; never later than was said before."""
        kill = self.clocks.boot() + grace
        if row.kill is not None:
            kill = min(kill, row.kill)
        if not row.live or (row.why is not None and row.kill is not None and kill >= row.kill):
            return None
        reason = row.why if row.why is not None and why is not Why.QUOTA else (str(why), detail)
        return self.ledger.set(replace(row, why=reason, kill=kill, phase=Phase.STOPPING))

    async def tell(self, row: Row) -> None:
        """Tell a condemned machine when it ends: its features, and the command of its type."""
        await self.ledger.flush()
        left = max(0.0, (row.kill or 0.0) - self.clocks.boot())
        with suppress(DirectoryError):  # a full disk must not keep a machine alive
            await asyncio.to_thread(self.directory(row.id).move_shutdown_time, self.clocks.wall() + left)
        if isinstance(row.conditions.notice, tuple) and left > SHORT_GRACE and row.moved is None:
            await self._notify(self.engines[row.runtime].runtime, row, row.conditions.notice)
        self.ledger.change(row.id, told=self.clocks.boot())
        await self.ledger.flush()

    async def stop(self, row: Row) -> None:
        """End a condemned machine that knows of it: SIGTERM, and force when its grace is over."""
        left = max(0.0, (row.kill or 0.0) - self.clocks.boot())
        async with asyncio.timeout(left + ACT_SECONDS):
            await self.engines[row.runtime].runtime.stop(row.id, grace=left)
        self.stopped[row.id] = self.clocks.boot()
        self.engines[row.runtime].look()

    async def notify(self, row: Row) -> None:
        """Tell a running machine of an end that was moved earlier: its features, and the command of its type."""
        with suppress(DirectoryError):
            await asyncio.to_thread(self.directory(row.id).move_shutdown_time, row.shutdown_time)
        if isinstance(row.conditions.notice, tuple):
            await self._notify(self.engines[row.runtime].runtime, row, row.conditions.notice)
        self.ledger.change(row.id, noticed=row.shutdown_time)
        await self.ledger.flush()

    async def _notify(self, runtime: Runtime, row: Row, command: tuple[str, ...]) -> None:
        if not isinstance(runtime, Exec):
            return
        try:
            async with asyncio.timeout(ACT_SECONDS):
                done = await runtime.execute(row.id, command, limit=1000)
            self.ledger.events.add("notice-given", row.id, command=command[0], exit_code=done.exit_code)
        except (RuntimeFault, TimeoutError) as error:
            self.ledger.events.add("notice-failed", row.id, command=command[0], problem=str(error) or "no answer")

    async def finish(self, row: Row, seen: Seen | None, why: str = "") -> None:
        """Judge a machine that has ended or, because of `why`, is gone; write that down; let its engine forget it."""
        if not row.live:
            return
        directory, engine = self.directory(row.id), self.engines[row.runtime]
        if seen is not None:
            await self._bring_home(engine.runtime, row, directory)
        end = seen.end if seen else None
        if seen is not None and end is None:
            end = End(reason=EndReason.CRASHED, detail="it was made and never started")
        outcome = await asyncio.to_thread(_written, directory)
        if outcome is None:
            outcome = await self._judged(row, seen, end, directory)
            if seen is None and outcome["decided"] == "engine":
                outcome |= {"decided": "factory", "detail": why}
                if not row.shown:
                    outcome |= {"message": None, "code": None, "exit": 20, "exit_name": "cannot-start"}
        usage = engine.usage.get(row.id, row.usage)
        ended = replace(self._ended(row, outcome, cleaned=False), usage=usage)
        recorded = await self._record(directory, ended, outcome)
        if recorded and seen is not None:
            await asyncio.to_thread(_leave_message, directory, outcome)
        self.stopped.pop(row.id, None)
        self.ledger.set(replace(ended, started=(seen.started if seen else None) or row.started))
        if not await self.ledger.flush() and not recorded:
            raise DirectoryError(f"machine {row.id}: its outcome can be written nowhere; it is kept until it can")
        await self.clean(row.id, row.runtime)

    async def _bring_home(self, runtime: Runtime, row: Row, directory: Directory) -> None:
        """What the machine left: its outputs made ours, its console kept. What cannot be had is not waited for."""
        with suppress(RuntimeFault, TimeoutError, OSError):
            async with asyncio.timeout(ACT_SECONDS):
                if isinstance(runtime, Reclaims) and directory.joboutputs.exists():
                    await runtime.reclaim(directory.joboutputs)
                if isinstance(runtime, Logs) and directory.path.exists():
                    console = Console(directory.console, row.conditions.console_bytes)
                    try:
                        async for chunk in runtime.console(row.id, follow=False):
                            await asyncio.to_thread(console.append, chunk.data, chunk.skipped)
                    finally:
                        console.close()

    async def _judged(self, row: Row, seen: Seen | None, end: End | None, directory: Directory) -> dict[str, Any]:
        now = self.clocks.wall()
        began = (seen.started if seen else None) or row.started
        if end and end.at and began:
            lifetime = max(0.0, end.at - began)
        else:
            lifetime = self.clocks.boot() - row.created_boot if began else 0.0
        why = (Why(row.why[0]), row.why[1]) if row.why else None
        fizzle = row.conditions.fizzle_seconds

        def work() -> Outcome:
            try:
                payload = joboutputs.read_small(directory.joboutputs, MESSAGE_FILE, MESSAGE_LIMIT)
            except Refused:
                payload = None
            return judge(payload, end, row.conditions.outcome, why, lifetime=lifetime, fizzle=fizzle)

        outcome = await asyncio.to_thread(work)
        return {
            "message": str(outcome.message) if outcome.message else None,
            "code": outcome.message.code if outcome.message else None,
            "decided": str(outcome.decided),
            "detail": outcome.detail,
            "exit": int(outcome.exit),
            "exit_name": outcome.exit.name.lower().replace("_", "-"),
            "reason": str(end.reason) if end else None,
            "exit_code": end.exit_code if end else None,
            "seconds": lifetime,
            "at": (end.at if end else None) or now,
        }

    async def _record(self, directory: Directory, row: Row, outcome: Mapping[str, Any]) -> bool:
        try:
            await asyncio.to_thread(lambda: finish(directory, directory.load(), _summary(row, outcome)))
        except DirectoryError:
            return False
        return True

    def _ended(self, row: Row, outcome: Mapping[str, Any], *, cleaned: bool) -> Row:
        return replace(
            row,
            phase=Phase.FINISHED,
            outcome=dict(outcome),
            ended=self.clocks.wall(),
            ended_boot=self.clocks.boot(),
            cleaned=cleaned,
        )

    async def clean(self, name: str, runtime: str) -> None:
        """Let the engine forget a machine that is written down; nothing remains but its directory."""
        async with asyncio.timeout(ACT_SECONDS):
            await self.engines[runtime].runtime.destroy(name)
        await asyncio.to_thread(handing.end_clients, self.directory(name))
        self.ledger.warnings.resolved(Kind.WILL_NOT_DIE, name)
        row = self.ledger.rows.get(name)
        if row is not None and row.runtime == runtime and not row.live:
            self.ledger.change(name, cleaned=True)
            if row.destroy:
                await asyncio.to_thread(self.directory(name).remove)
        await self.ledger.flush()

    def _prepare(self, plan: Plan, directory: Directory, runtime: str) -> Spec:
        host = os.uname().nodename
        made = prepare(plan, directory, runtime=runtime, host=host, version=self._version, supervisor=None)
        handing.note(plan.repositories, directory)
        return made


def _written(directory: Directory) -> dict[str, Any] | None:
    """The outcome that was written down before a crash: it stands, and is not judged again."""
    try:
        told = (directory.load().outcome or {}).get("outcome")
    except DirectoryError:
        return None
    return dict(told) if isinstance(told, Mapping) else None


def _leave_message(directory: Directory, outcome: Mapping[str, Any]) -> None:
    """Put our message where the payload's would be; only after the outcome is written, so that it is never taken for
    the payload's own."""
    if outcome["message"] and outcome["decided"] != "payload" and directory.joboutputs.is_dir():
        with suppress(OSError):
            joboutputs.leave(directory.joboutputs, MESSAGE_FILE, f"{outcome['message']}\n".encode())


def _summary(row: Row, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What the machine's own record keeps, in the shape that `lm run` gives it."""
    return {"id": row.id, "machinetype": row.machinetype, "runtime": row.runtime, "outcome": dict(outcome)}
