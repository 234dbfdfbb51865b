"""What can be asked of the daemon, and what it does then. Each handler is one endpoint of the table below."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import Field

from lmd.engines import Answer
from lmd.environment.directory import Record
from lmd.environment.directory import found as directory_found
from lmd.factory.api import shown
from lmd.factory.api.endpoints import Body, Caller, Endpoint, Problem
from lmd.factory.drains import DRAIN, HOST_SHUTDOWN, of_type
from lmd.factory.events import TooSlow
from lmd.factory.factory import Factory
from lmd.factory.orders import NotPossible, Orders
from lmd.factory.rows import Row
from lmd.machine import known
from runtimes.contract import ConsoleChunk, Exec, Logs, Runtime

EXEC_SECONDS = 600.0
WRITE_SECONDS = 10.0
"""How long a reader of a stream may take for what it is sent."""
STREAM_BYTES = 64 * 1024


class StopBody(Body):
    """`grace` None: that of the machine's type."""

    grace: float | None = Field(None, ge=0, le=1e6)


class DrainBody(Body):
    """`deadline`: seconds from now after which all machines are ended; `machinetype`: drain this type alone;
    `host_shutdown`: because the host goes down, until it is up again, whatever else is drained."""

    reason: str = Field("", max_length=1000)
    deadline: float | None = Field(None, ge=0, le=1e8)
    machinetype: str | None = Field(None, max_length=63)
    host_shutdown: bool = False


class RunBody(Body):
    """As `lm run` takes them: what to run (a type, `FILE.toml`, an image), `--set`s, from which directory."""

    target: str = Field(max_length=4096)
    sets: list[str] = Field(default_factory=list, max_length=1000)
    directory: str = Field("/", max_length=4096)
    processors: int | None = Field(None, ge=1, le=65536)
    seconds: int | None = Field(None, ge=1, le=10**9)


class ExecBody(Body):
    """A command, a word an element."""

    command: list[str] = Field(min_length=1, max_length=1000)


class AcknowledgeBody(Body):
    """The key of a warning."""

    key: str = Field(max_length=600)


class Asked:
    """The endpoints over one factory."""

    def __init__(self, factory: Factory, reload: Callable[[], Awaitable[list[str]]]) -> None:
        self._factory, self._reload = factory, reload
        self._orders = Orders(factory)
        self._streams: set[asyncio.Task[Any]] = set()

    def endpoints(self) -> list[Endpoint]:
        """All of them."""
        every = {"all": "1: also machines that have ended"}
        after = {"after": "the number of the last event that is known; without it: from now on"}
        return [
            Endpoint("GET", "/v1/factory", "The factory: what it has, uses and observes.", self.factory),
            Endpoint("GET", "/v1/machines", "The machines of this host.", self.machines, parameters=every),
            Endpoint("POST", "/v1/machines", "Run a machine that the daemon looks after.", self.run, RunBody),
            Endpoint("GET", "/v1/machines/{id}", "One machine, with its events.", self.machine),
            Endpoint("POST", "/v1/machines/{id}/stop", "Ask it to end.", self.stop, StopBody),
            Endpoint("POST", "/v1/machines/{id}/destroy", "End it, remove all of it.", self.destroy, Body),
            Endpoint(
                "GET",
                "/v1/machines/{id}/console",
                "Its console.",
                self.console,
                parameters={"follow": "1: until it ends"},
            ),
            Endpoint("POST", "/v1/machines/{id}/exec", "Run a command in it, to its end.", self.execute, ExecBody),
            Endpoint("POST", "/v1/machines/{id}/terminal", "A host command that joins it.", self.terminal, ExecBody),
            Endpoint("GET", "/v1/events", "Events as they happen, a line each.", self.events, parameters=after),
            Endpoint("GET", "/v1/warnings", "Warnings.", self.warnings, parameters={"all": "1: also those settled"}),
            Endpoint("POST", "/v1/warnings/acknowledge", "Somebody knows of it.", self.acknowledge, AcknowledgeBody),
            Endpoint("GET", "/v1/why", "Why no more machines of each type are started.", self.why),
            Endpoint("POST", "/v1/drain", "Start nothing more.", self.drain, DrainBody),
            Endpoint("POST", "/v1/undrain", "Start machines again.", self.undrain, DrainBody),
            Endpoint("POST", "/v1/reload", "Read the configuration again.", self.reload, Body),
        ]

    def close(self) -> None:
        """Cut the streams."""
        for task in self._streams:
            task.cancel()

    async def factory(self, request: web.Request, caller: Caller, body: Any) -> dict[str, Any]:
        factory = self._factory
        live = factory.ledger.live()
        return {
            "name": factory.name,
            "version": version("lmd"),
            "space": factory.config.settings.space,
            "boot_id": factory.boot_id,
            "total_processors": factory.total,
            "used_processors": sum(row.processors for row in live),
            "machines": len(live),
            "draining": factory.draining(),
            "shutdown_time": factory.shutdown_time(),
            "last_event": factory.ledger.events.last,
            "database": {"writable": factory.ledger.writable, "in_place": factory.store.in_place},
            "runtimes": {
                name: {"usable": one.usable, "problem": None if one.usable else one.problem, "listings": one.complete}
                for name, one in factory.engines.items()
            },
            "warnings": len(factory.ledger.warnings.open()),
        }

    async def machines(self, request: web.Request, caller: Caller, body: Any) -> list[dict[str, Any]]:
        rows = [row for row in self._factory.ledger.rows.values() if row.live or request.query.get("all")]
        found = [self._shown(row) for row in rows] + await asyncio.to_thread(self._others)
        return sorted(found, key=lambda one: (one["created"] or 0.0, one["id"]))

    async def machine(self, request: web.Request, caller: Caller, body: Any) -> dict[str, Any]:
        wanted = request.match_info["id"]
        for seen in self._factory.others():
            if seen.id == wanted:
                return shown.other(seen)
        row = await self._row(wanted)
        found = self._shown(row)
        events = await self._factory.store.read(
            "SELECT seq, at, kind, data FROM event WHERE machine = ? ORDER BY seq DESC LIMIT 100", (row.id,)
        )
        found["events"] = [
            {"seq": seq, "at": at, "kind": kind, **json.loads(data)} for seq, at, kind, data in reversed(events)
        ]
        found |= await asyncio.to_thread(_features, self._factory.acts.directory(row.id).path)
        return found

    async def run(self, request: web.Request, caller: Caller, body: RunBody) -> dict[str, Any]:
        try:
            row = await self._orders.run(
                body.target, body.sets, Path(body.directory), body.processors, body.seconds, caller.uid
            )
        except NotPossible as error:
            raise Problem(409, "not-possible", str(error)) from error
        return self._shown(row)

    async def stop(self, request: web.Request, caller: Caller, body: StopBody) -> dict[str, Any]:
        row = self._own(request.match_info["id"])
        await self._orders.stop(row, body.grace, f"lm stop by {caller}")
        return self._shown(self._factory.ledger.rows[row.id])

    async def destroy(self, request: web.Request, caller: Caller, body: Body) -> dict[str, Any]:
        row = await self._row(request.match_info["id"])
        await self._orders.destroy(row, f"lm destroy by {caller}")
        return {"id": row.id}

    async def console(self, request: web.Request, caller: Caller, body: Any) -> web.StreamResponse:
        row = await self._row(request.match_info["id"])
        kept = self._factory.acts.directory(row.id).console
        if not row.live:
            content = await asyncio.to_thread(_content, kept)
            return web.Response(body=content, content_type="application/octet-stream")
        runtime = self._runtime(row)
        if not isinstance(runtime, Logs):
            raise Problem(409, "no-console", f"runtime {row.runtime} keeps no console")
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        follow = bool(request.query.get("follow"))
        async with aclosing(runtime.console(row.id, follow=follow)) as chunks:  # type: ignore[type-var]
            await self._streamed(self._send_console(response, chunks))
        return response

    async def _send_console(self, response: web.StreamResponse, chunks: Any) -> None:
        chunk: ConsoleChunk
        async for chunk in chunks:
            if chunk.skipped:
                await response.write(f"\n[lmd: {chunk.skipped} bytes of console output left out here]\n".encode())
            for begin in range(0, len(chunk.data), STREAM_BYTES):
                async with asyncio.timeout(WRITE_SECONDS):
                    await response.write(chunk.data[begin : begin + STREAM_BYTES])

    async def execute(self, request: web.Request, caller: Caller, body: ExecBody) -> dict[str, Any]:
        row = self._own(request.match_info["id"])
        runtime = self._runtime(row)
        if not isinstance(runtime, Exec):
            raise Problem(409, "no-exec", f"runtime {row.runtime} cannot run commands in a machine")
        self._factory.ledger.events.add("exec", row.id, by=str(caller), command=body.command[0])
        async with asyncio.timeout(EXEC_SECONDS):
            done = await runtime.execute(row.id, body.command)
        return {
            "exit_code": done.exit_code,
            "output": done.output.decode(errors="replace"),
            "errors": done.errors.decode(errors="replace"),
        }

    async def terminal(self, request: web.Request, caller: Caller, body: ExecBody) -> dict[str, Any]:
        row = self._own(request.match_info["id"])
        runtime = self._runtime(row)
        if caller.uid != 0:
            raise Problem(403, "not-root", "a terminal is joined on the host, which only root may")
        if not isinstance(runtime, Exec):
            raise Problem(409, "no-exec", f"runtime {row.runtime} cannot run commands in a machine")
        terminal = bool(request.query.get("terminal"))
        self._factory.ledger.events.add("exec", row.id, by=str(caller), command=body.command[0])
        return {"command": list(await runtime.interactive(row.id, body.command, terminal=terminal))}

    async def events(self, request: web.Request, caller: Caller, body: Any) -> web.StreamResponse:
        events = self._factory.ledger.events
        try:
            last = int(request.query.get("after", events.last))
        except ValueError as error:
            raise Problem(400, "bad-request", "after: expected the number of an event") from error
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await self._streamed(self._send_events(response, last))
        return response

    async def _send_events(self, response: web.StreamResponse, last: int) -> None:
        """Events one by one; a reader that is too slow is told the last number that it has got, and cut."""
        events = self._factory.ledger.events
        try:
            if last + 1 < events.first_kept() and last < events.last:
                last = await self._send_stored(response, last, events.first_kept())
            async with aclosing(events.after(last)) as following:  # type: ignore[type-var]
                async for event in following:
                    async with asyncio.timeout(WRITE_SECONDS):
                        await response.write(json.dumps(event.plain(), default=str).encode() + b"\n")
                    last = event.seq
        except (TimeoutError, TooSlow):
            transport = response._req.transport if response._req else None
            if transport is not None:
                line = json.dumps({"kind": "cut", "last": last, "because": "the reader is too slow"})
                transport.write(_chunk(line.encode() + b"\n"))
                transport.close()

    async def _send_stored(self, response: web.StreamResponse, last: int, until: int) -> int:
        """What the database still has of the events before those in memory."""
        while last + 1 < until:
            found = await self._factory.store.read(
                "SELECT seq, at, kind, machine, data FROM event WHERE seq > ? AND seq < ? ORDER BY seq LIMIT 500",
                (last, until),
            )
            if not found:
                break
            for seq, at, kind, machine, data in found:
                line = {"seq": seq, "at": at, "kind": kind, "machine": machine or None, **json.loads(data)}
                async with asyncio.timeout(WRITE_SECONDS):
                    await response.write(json.dumps(line).encode() + b"\n")
                last = seq
        return until - 1

    async def warnings(self, request: web.Request, caller: Caller, body: Any) -> list[dict[str, Any]]:
        warnings = self._factory.ledger.warnings
        return [one.plain() for one in (warnings.all() if request.query.get("all") else warnings.open())]

    async def acknowledge(self, request: web.Request, caller: Caller, body: AcknowledgeBody) -> dict[str, Any]:
        if not self._factory.ledger.warnings.acknowledge(body.key, str(caller)):
            raise Problem(404, "no-such-warning", f"{body.key}: no such warning; see them with: lm warnings")
        await self._factory.ledger.flush()
        return {"key": body.key}

    async def why(self, request: web.Request, caller: Caller, body: Any) -> dict[str, Any]:
        factory = self._factory
        disabled = {name: [str(p) for p in problems] for name, problems in factory.config.disabled.items()}
        return {
            "refusals": [refusal.plain() for refusal in factory.decision.refusals],
            "disabled": disabled,
            "draining": factory.draining(),
            "total_processors": factory.total,
        }

    async def drain(self, request: web.Request, caller: Caller, body: DrainBody) -> dict[str, Any]:
        try:
            await self._orders.drain(_key(body), body.reason, body.deadline, body.machinetype, str(caller))
        except NotPossible as error:
            raise Problem(404, "not-possible", str(error)) from error
        return {"draining": self._factory.draining()}

    async def undrain(self, request: web.Request, caller: Caller, body: DrainBody) -> dict[str, Any]:
        await self._orders.undrain(_key(body), str(caller))
        return {"draining": self._factory.draining()}

    async def reload(self, request: web.Request, caller: Caller, body: Any) -> dict[str, Any]:
        problems = await self._reload()
        if problems:
            raise Problem(409, "bad-configuration", "\n".join(problems))
        return {"machinetypes": sorted(self._factory.config.machinetypes)}

    async def _streamed(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._streams.add(task)
        try:
            await task
        finally:
            task.cancel()
            self._streams.discard(task)

    def _shown(self, row: Row) -> dict[str, Any]:
        engine = self._factory.engines.get(row.runtime)
        silent = engine.observation.problem if engine and engine.observation else ""
        usage = engine.usage.get(row.id) if engine else None
        return shown.machine(row, self._factory.acts.directory(row.id), usage, silent=silent)

    def _others(self) -> list[dict[str, Any]]:
        """The machines of `lm run`s and of other factories, as `lm ps` shows them without a daemon; and what killed
        `lm run`s have left."""
        factory = self._factory
        answers = [Answer(name, [s for s in factory.others() if s.runtime == name]) for name in factory.engines]
        mine, directories = dict(factory.ledger.rows), {}
        for directory in directory_found(factory.places.machines):
            if directory.path.name not in mine:
                record, alive = known.read(directory)
                if not isinstance(record, Record) or record.owner != factory.owner:
                    directories[directory.path.name] = (directory, record, alive)
        return [one.plain() for one in known.join(answers, directories)]

    def _own(self, name: str) -> Row:
        row = self._factory.ledger.rows.get(name)
        if row is not None:
            return row
        if any(seen.id == name for seen in self._factory.others()):
            raise Problem(409, "not-ours", f"machine {name} is not the daemon's")
        raise Problem(404, "no-such-machine", f"{name}: no such machine; see them with: lm ps")

    async def _row(self, name: str) -> Row:
        """Also a machine that is only history."""
        found = await self._factory.ledger.find(name)
        return found if found is not None else self._own(name)

    def _runtime(self, row: Row) -> Runtime:
        engine = self._factory.engines.get(row.runtime)
        if engine is None:
            raise Problem(503, "unavailable", f"runtime {row.runtime} is not there")
        return engine.runtime


def _key(body: DrainBody) -> str:
    """The intent that a drain is kept as."""
    if body.host_shutdown:
        return HOST_SHUTDOWN
    return of_type(body.machinetype) if body.machinetype else DRAIN


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _features(path: Path) -> dict[str, dict[str, str]]:
    found = {}
    for part in ("machinefeatures", "jobfeatures"):
        try:
            found[part] = {
                one.name: one.read_text()[:200] for one in sorted((path / part).iterdir()) if one.name[0] != "."
            }
        except OSError:
            continue
    return found
