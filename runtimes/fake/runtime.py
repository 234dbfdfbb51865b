"""The fake runtime: the whole contract over an engine that can be told to fail."""

import hashlib
import math
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar

from runtimes import locks
from runtimes.contract import (
    CONTAINER_IMAGES,
    Capabilities,
    Conflict,
    ConsoleChunk,
    Delivery,
    EndReason,
    ExecResult,
    Exhausted,
    Health,
    Image,
    Limit,
    Network,
    Probe,
    Rejected,
    Seen,
    Settings,
    Spec,
    Started,
    State,
    Unavailable,
    Usage,
    unmet,
)
from runtimes.fake import script
from runtimes.fake.engine import Clock, FakeEngine, NameTaken
from runtimes.fake.faults import EXCHANGES, Crash, Faults, strikes
from runtimes.fake.record import Life, Record, words_of

T = TypeVar("T")
POLL_SECONDS = 0.02
QUIET_POLL_SECONDS = 0.1
"""The same after a while in which nothing happened."""
MISSING_IMAGE = "missing"
"""An image whose location ends so does not exist."""
LEAST_MEMORY = 1_000_000
LINUX_CAPABILITIES = frozenset({"CHOWN", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID", "SYS_ADMIN"})
CAPABILITIES = Capabilities(
    isolation="container",
    images=CONTAINER_IMAGES,
    delivery=frozenset({Delivery.BIND}),
    limits=frozenset(Limit),
    networks=frozenset(Network),
    user_namespace=True,
    nested_containers=True,
    read_only_root=True,
    scratch=True,
    devices=True,
    before_start=True,
    idle=True,
    architectures=frozenset({"amd64", "arm64"}),
    end_reasons=frozenset(EndReason),
)


class Fake:
    """Runs scripts (`runtimes.fake.script`) in an engine kept in `settings.state_dir`.

    Option `lacks` names boolean capabilities that this one is not to have, separated by blanks. Faults are set on
    `engine.faults` and strike every process that uses the engine.
    """

    name: ClassVar[str] = "fake"

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.engine = FakeEngine(settings.state_dir / "fake", clock)
        self._clock = self.engine.clock
        lacks: dict[str, Any] = dict.fromkeys(settings.options.get("lacks", "").split(), False)
        reasons = dict.fromkeys(lacks, "the fake runtime was told to lack it")
        self._can: Capabilities = replace(CAPABILITIES, absent=reasons, **lacks)

    async def probe(self) -> Probe:
        try:
            await self._ask("probe.ask", "", lambda: None)
        except Unavailable as error:
            return Probe(health=Health.UNHEALTHY, reason=str(error), remedy="lift the fault")
        return Probe(health=Health.HEALTHY, version="1", capabilities=self._can)

    async def machines(self) -> Sequence[Seen]:
        listing = await self._ask("machines.list", "", self.engine.listing)
        if not listing.complete:
            raise Unavailable("fake: the engine could not list all of its machines; ask again")
        return [self._seen(life) for life in listing.lives if _is_ours(life.record)]

    async def create(self, spec: Spec) -> Seen:
        words = self._check(spec)
        async with locks.held(self.engine.directory / "lock", spec.id):
            record = await self._ask("create.insert", spec.id, lambda: self._insert(spec, words))
            if record.state(self._clock.time())[0] is State.CREATED:
                await self._begin(spec)
            shown = await self._ask("create.show", spec.id, lambda: self.engine.get(spec.id))
        if shown is None:
            raise Unavailable(f"machine {spec.id} went away while it was created; list before trying again")
        return self._seen(Life.of(shown))

    async def stop(self, machine_id: str, *, grace: float) -> None:
        record = await self._ask("stop.ask", machine_id, lambda: self._ask_to_end(machine_id))
        until = self._clock.time() + grace
        while self._lives(record) and (rest := until - self._clock.time()) > 0:
            await self._clock.sleep(min(rest, POLL_SECONDS))
            record = await self._ask("stop.wait", machine_id, lambda: self._ours(machine_id))
        if self._lives(record):
            await self._ask("stop.force", machine_id, lambda: self._force(machine_id))

    async def destroy(self, machine_id: str) -> None:
        await self._ask("destroy.remove", machine_id, lambda: self._remove(machine_id))

    async def usage(self) -> Mapping[str, Usage]:
        listing = await self._ask("usage.read", "", self.engine.listing)
        if not listing.complete:
            raise Unavailable("fake: the engine could not look at all of its machines; ask again")
        now = self._clock.time()
        return {r.name: _usage(r, now) for r in listing.records if _is_ours(r) and self._lives(r)}

    async def watch(self) -> AsyncIterator[str]:
        known: dict[str, State] | None = None
        mark, due, pause = (-1, -1), -math.inf, POLL_SECONDS
        while True:
            if self.engine.mark() == mark and self._clock.time() < due:  # nobody did anything, nothing was to end
                await self._clock.sleep(min(pause, max(due - self._clock.time(), 0.0)))
                pause = min(pause * 1.1, QUIET_POLL_SECONDS)
                continue
            pause = POLL_SECONDS
            listing = await self._ask("watch.read", "", self.engine.listing, quiet=True)
            mark = self.engine.mark()
            faults, now = self.engine.faults, self._clock.time()
            if faults.end_events:
                return
            ours = [life for life in listing.lives if _is_ours(life.record)]
            states = {life.record.name: life.state(now)[0] for life in ours}
            due = min(
                (end.at for life in listing.lives if (end := life.history.end) and end.at and end.at > now),
                default=math.inf,
            )
            changed = sorted(name for name, state in states.items() if known is not None and known.get(name) != state)
            changed += sorted(set(known or ()) - set(states))
            known = states
            for name in [] if faults.lose_events else changed * (2 if faults.repeat_events else 1):
                yield name
            await self._clock.sleep(POLL_SECONDS)

    async def aclose(self) -> None:
        """Nothing is held."""

    async def ensure(self, image: Image) -> str:
        return await self._ask("ensure.ask", "", lambda: self._image(image))

    async def images(self) -> Mapping[str, int]:
        stored = await self._ask("images.list", "", self.engine.images)
        return dict.fromkeys((f"{name}:{digest[7:19]}" for name, digest in stored.items()), 1_000_000)

    async def remove_image(self, reference: str) -> None:
        await self._ask("images.remove", "", lambda: self.engine.remove_image(reference.rpartition(":")[0]))

    async def console(self, machine_id: str, *, follow: bool) -> AsyncIterator[ConsoleChunk]:
        told = 0
        while True:
            record = await self._ask("console.read", machine_id, lambda: self._ours(machine_id), quiet=follow)
            console = self.engine.console(machine_id) if record else None
            if record is None or console is None:
                return
            alive = self._lives(record)
            for start, data in ((0, console.head), (console.total - len(console.tail), console.tail)):
                fresh = data[max(0, told - start) :]
                if fresh:
                    begin = start + len(data) - len(fresh)
                    yield ConsoleChunk(data=fresh, skipped=begin - told)
                    told = start + len(data)
            if not follow or not alive:
                return
            await self._clock.sleep(POLL_SECONDS)

    async def execute(self, machine_id: str, command: Sequence[str], *, limit: int = 1_000_000) -> ExecResult:
        return await self._ask("execute.run", machine_id, lambda: self._execute(machine_id, command, limit))

    async def interactive(self, machine_id: str, command: Sequence[str], *, terminal: bool) -> Sequence[str]:
        if not self._lives(self._ours(machine_id)):
            raise Rejected(f"machine {machine_id} does not run")
        return [sys.executable, "-c", "import sys; print(*sys.argv[1:])", machine_id, *command]

    async def _ask(self, exchange: str, name: str, act: Callable[[], T], *, quiet: bool = False) -> T:
        """One exchange with the engine, in which every fault may strike; `quiet` ones are not noted."""
        if exchange not in EXCHANGES:
            raise LookupError(f"exchange {exchange} is not in EXCHANGES")
        _crash(self.engine.faults, f"{exchange}:before")
        while strikes(self.engine.faults.hang, exchange):
            await self._clock.sleep(POLL_SECONDS)
        faults = self.engine.faults
        await self._clock.sleep(faults.late_seconds)
        if strikes(faults.unavailable, exchange):
            raise Unavailable(f"fake: the engine does not answer {exchange}; lift the fault")
        if not quiet:
            self.engine.note(exchange, name)
        answer = act()
        _crash(faults, f"{exchange}:after")
        if strikes(faults.lose_reply, exchange):
            raise Unavailable(f"fake: the answer to {exchange} was lost; list before trying again")
        return answer

    def _check(self, spec: Spec) -> tuple[str, ...]:
        """The spec's script. Raises what the engine would refuse it with, before anything exists."""
        wrong = unmet(spec, self._can)
        wrong += [f"Linux capability {name}" for name in sorted(spec.capabilities - LINUX_CAPABILITIES)]
        wrong += [f"device {device}" for device in spec.devices if not Path(device).exists()]
        wrong += [f"file or directory {m.source} to mount" for m in spec.mounts if not m.source.exists()]
        if spec.limits.memory_bytes is not None and spec.limits.memory_bytes < LEAST_MEMORY:
            wrong.append(f"{spec.limits.memory_bytes} bytes of memory (at least {LEAST_MEMORY})")
        if wrong:
            raise Rejected(f"machine {spec.id}: the fake runtime has no {', no '.join(wrong)}")
        try:
            words = words_of(_program(spec), spec.args)
            script.parse(words)
        except (OSError, ValueError) as error:
            raise Rejected(f"machine {spec.id}: {error}") from error
        return words

    def _insert(self, spec: Spec, words: tuple[str, ...]) -> Record:
        faults = self.engine.faults
        if faults.reject is not None:
            raise Rejected(faults.reject)
        existing = self.engine.get(spec.id)
        if existing is None:
            self._have_room(faults)
            record = _record(spec, words, self._image(spec.image), self._clock.time())
            try:
                self.engine.insert(record)
            except NameTaken:
                raise Unavailable(f"machine {spec.id} came into being meanwhile; list before trying again") from None
            return record
        if existing.labels.get("digest") != spec.digest():
            whose = "with another spec" if _is_ours(existing) else "and is not ours"
            raise Conflict(f"machine {spec.id} exists already, {whose}; destroy it or choose another id")
        return existing

    def _have_room(self, faults: Faults) -> None:
        if faults.exhaust is not None:
            raise Exhausted(faults.exhaust)
        if faults.slots is not None and len(self.engine.listing().records) >= faults.slots:
            raise Exhausted(f"fake: all {faults.slots} slots are taken; wait for a machine to end")

    async def _begin(self, spec: Spec) -> None:
        if spec.before_start is not None:
            await self._ask("create.before_start", spec.id, lambda: None)
            try:
                await spec.before_start(Started(id=spec.id, pid=os.getpid()))
            except Exception:
                await self._ask("create.undo", spec.id, lambda: self._remove(spec.id))
                raise
        await self._ask("create.start", spec.id, lambda: self.engine.start(spec.id))

    def _ask_to_end(self, machine_id: str) -> Record | None:
        record = self._ours(machine_id)
        if record is not None and record.started is None:
            self.engine.cut(machine_id, EndReason.CRASHED)  # it never ran its payload and now never will
        elif record is not None:
            self.engine.ask(machine_id)
        return self._ours(machine_id)

    def _force(self, machine_id: str) -> None:
        if self._ours(machine_id) is not None:
            self.engine.cut(machine_id, EndReason.KILLED, script.SIGKILL_CODE)

    def _remove(self, machine_id: str) -> None:
        if self._ours(machine_id) is not None:
            self.engine.remove(machine_id)

    def _ours(self, machine_id: str) -> Record | None:
        record = self.engine.get(machine_id)
        return record if record is not None and _is_ours(record) else None

    def _lives(self, record: Record | None) -> bool:
        return record is not None and record.state(self._clock.time())[0] is State.RUNNING

    def _image(self, image: Image) -> str:
        if image.location.endswith(MISSING_IMAGE):
            raise Rejected(f"image {image.location}: the fake engine has no such image")
        digest = "sha256:" + hashlib.sha256(f"{image.kind} {image.location}".encode()).hexdigest()
        self.engine.add_image(image.location, digest)
        return digest

    def _execute(self, machine_id: str, command: Sequence[str], limit: int) -> ExecResult:
        record = self._ours(machine_id)
        if record is None or not self._lives(record):
            raise Rejected(f"machine {machine_id} does not run, so no command can")
        try:
            output, code = self.engine.perform(record, script.parse(command), limit)
        except ValueError as error:
            raise Rejected(f"machine {machine_id}: {error}") from error
        return ExecResult(exit_code=code, output=output, errors=b"")

    def _seen(self, life: Life) -> Seen:
        record = life.record
        state, end = life.state(self._clock.time())
        return Seen(
            id=record.name,
            runtime=self.name,
            owner=record.labels["owner"],
            space=record.labels["space"],
            machinetype=record.labels["machinetype"],
            digest=record.labels["digest"],
            state=state,
            created=record.created,
            started=record.started,
            end=end,
            image_digest=record.image_digest,
            processors=record.processors,
            memory_bytes=record.memory_bytes,
        )


def _crash(faults: Faults, point: str) -> None:
    if faults.crash_at != point:
        return
    if faults.crash_exits:
        os._exit(script.SIGKILL_CODE)
    raise Crash(point)


def _is_ours(record: Record) -> bool:
    return bool(record.labels)


def _program(spec: Spec) -> Sequence[str]:
    """The entrypoint; where it is a file bound into the machine, the words of its lines but for #! and comments."""
    if not spec.entrypoint or not spec.entrypoint[0].startswith("/"):
        return spec.entrypoint or ()
    target = PurePosixPath(spec.entrypoint[0])
    for mount in spec.mounts:
        if target.is_relative_to(mount.target):
            return shlex.split((mount.source / target.relative_to(mount.target)).read_text(), comments=True)
    raise FileNotFoundError(f"no such command: {target}")


def _record(spec: Spec, words: tuple[str, ...], image_digest: str, now: float) -> Record:
    stamps = {"owner": spec.owner, "space": spec.space, "machinetype": spec.machinetype, "digest": spec.digest()}
    return Record(
        name=spec.id,
        labels=stamps,
        words=words,
        created=now,
        image_digest=image_digest,
        environment=dict(spec.environment),
        mounts=tuple((str(m.source), str(m.target), m.read_only) for m in spec.mounts),
        scratch=tuple(str(target) for target in spec.scratch),
        processors=spec.limits.processors,
        memory_bytes=spec.limits.memory_bytes,
        console_bytes=spec.console_bytes,
        lifetime_seconds=spec.lifetime_seconds,
    )


def _usage(record: Record, now: float) -> Usage:
    runs = record.history()
    memory = [size for since, size in runs.memory if since <= now] or [0]
    spent = sum(min(until, now) - begin for begin, until in runs.spinning if begin < now)
    return Usage(cpu_seconds=spent, memory_bytes=memory[-1], memory_peak_bytes=max(memory))
