"""The KVM runtime: the contract's calls as requests to libvirt."""

import asyncio
import platform
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import libvirt

from runtimes import idranges
from runtimes.contract import (
    Capabilities,
    Conflict,
    ConsoleChunk,
    Health,
    Probe,
    Rejected,
    RuntimeFault,
    Seen,
    Settings,
    Spec,
    State,
    Unavailable,
    Usage,
    unmet,
)
from runtimes.kvm import acceleration, capabilities, domain, making, orphans, plan, statistics
from runtimes.kvm.console import Follower, kept
from runtimes.kvm.ends import began
from runtimes.kvm.engine import CALL_SECONDS, START_SECONDS, Engine, Gone
from runtimes.kvm.listing import Listed, found, listed, seen
from runtimes.kvm.place import Place, tail
from runtimes.locks import held

DEFAULT_URI = "qemu:///system"
DEFAULT_LOGS = "/var/log/libvirt/qemu"
PRESS_SECONDS = 1.5
POLL_SECONDS = 0.05
KILL_SECONDS = 30.0
FIRST_UID = idranges.DEFAULT_FIRST + idranges.DEFAULT_COUNT // 2
"""Containers take theirs from the pool's beginning."""


@dataclass(frozen=True, slots=True)
class Host:
    """What was found out about the host: capabilities, versions, and whether machines are accelerated."""

    can: Capabilities
    version: str
    acceleration: acceleration.Acceleration
    virtiofsd: Path | None


class Kvm:
    """Machines as libvirt domains; one object holds one connection, opened at the first call."""

    name: ClassVar[str] = "kvm"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.root = settings.state_dir / "kvm"
        self.logs = Path(settings.options.get("log_dir", DEFAULT_LOGS))
        self._heard: list[asyncio.Queue[str | None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine = Engine(
            settings.options.get("uri", DEFAULT_URI),
            heard=self._event,
            seconds=float(settings.options.get("call_seconds", CALL_SECONDS)),
        )
        self._engine.on_close(lambda: self._tell(None))
        self._host: Host | None = None

    async def probe(self) -> Probe:
        """Healthy, with a reason where machines are only emulated; missing, where nobody has started a libvirt;
        else unhealthy with what it said."""
        wanted = self.settings.options.get("acceleration", "auto")
        if wanted not in acceleration.CHOICES:
            return Probe(
                health=Health.UNHEALTHY,
                reason=f"acceleration is {wanted!r}",
                remedy=f"choose one of {', '.join(acceleration.CHOICES)} in [runtimes.kvm]",
            )
        try:
            self._host = None
            host = await self._known()
        except RuntimeFault as fault:
            uri = self._engine.uri
            if uri == DEFAULT_URI and (missing := making.missing()):
                return Probe(health=Health.MISSING, reason=missing, remedy=making.remedy(uri))
            return Probe(health=Health.UNHEALTHY, reason=str(fault), remedy=making.remedy(uri))
        slow = host.acceleration
        if wanted == "kvm" and not slow.works:
            return Probe(health=Health.UNHEALTHY, reason=slow.reason, remedy=slow.remedy, version=host.version)
        reason = f"machines are emulated, which is slow: {slow.reason}" if slow.reason else ""
        return Probe(
            health=Health.HEALTHY, reason=reason, remedy=slow.remedy, version=host.version, capabilities=host.can
        )

    async def machines(self) -> Sequence[Seen]:
        """Every domain with our stamp."""
        return await self._engine.call(lambda c: listed(c, self.root, self.logs), "list machines")

    async def create(self, spec: Spec) -> Seen:
        """As the contract says; a create that fails after the domain was defined removes it again."""
        host = await self._known()
        if lacking := unmet(spec, host.can):
            raise Rejected(f"machine {spec.id}: kvm here lacks {'; '.join(lacking)}")
        if self.settings.options.get("acceleration") == "kvm" and not host.acceleration.works:
            raise Rejected(f"machine {spec.id}: {host.acceleration.reason} ({host.acceleration.remedy})")
        async with held(self._locks, f"machine {spec.id}"):
            there = await self._find(spec.id)
            if there is not None and there.stamp.get("digest") != spec.digest():
                raise Conflict(f"machine {spec.id} exists already with another specification; destroy it first")
            if there is not None and seen(there).state is not State.CREATED:
                return seen(there)
            try:
                await self._make(spec, host, there)
            except (RuntimeFault, Gone, OSError) as error:
                fault = making.fault(spec.id, error)
                if not isinstance(fault, (Unavailable, Conflict)):
                    await self._remove(spec.id)
                raise fault from error
            made = await self._find(spec.id)
        if made is None:
            raise Unavailable(f"machine {spec.id} vanished while it was started")
        return seen(made)

    async def stop(self, machine_id: str, *, grace: float) -> None:
        """Press the power button until the guest heeds it, for `grace` seconds; then switch it off."""
        if await self._find(machine_id) is None:
            return
        deadline, pressed = time.monotonic() + grace, 0.0
        while grace > 0 and time.monotonic() < deadline:
            if not await self._runs(machine_id):
                return
            if time.monotonic() > pressed + PRESS_SECONDS:
                pressed = time.monotonic()
                await self._ask(machine_id, lambda d: d.shutdown(), "press the power button of")
            await asyncio.sleep(min(POLL_SECONDS * 2, max(0.0, deadline - time.monotonic())))
        await self._force(machine_id)

    async def destroy(self, machine_id: str) -> None:
        """Switch it off; remove its directory, its logs and its definition, in this order."""
        with suppress(ValueError):
            async with held(self._locks, f"machine {Place(self.root, machine_id).machine_id}"):
                await self._remove(machine_id)

    async def usage(self) -> Mapping[str, Usage]:
        """From one request for the statistics of all running domains; a hung guest delays nobody's."""
        return await self._engine.call(statistics.usage, "tell what machines use")

    async def watch(self) -> AsyncIterator[str]:
        """Ids from libvirt's events; ends when the connection is lost."""
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._heard.append(queue)
        try:
            await self._engine.call(lambda c: c.isAlive(), "register for events")
            while (name := await queue.get()) is not None:
                yield name
        except RuntimeFault:
            return
        finally:
            self._heard.remove(queue)

    async def console(self, machine_id: str, *, follow: bool) -> AsyncIterator[ConsoleChunk]:
        """From virtlogd's files; see `runtimes.kvm.console`."""
        there = await self._find(machine_id)
        if there is None:
            return
        place = Place(self.root, machine_id)
        path, ended = place.file("console.log"), False
        if not follow:
            await self._settled(there, path)
            for chunk in await asyncio.to_thread(kept, path, int(there.stamp.get("console", "1000000"))):
                if chunk.data or chunk.skipped:
                    yield chunk
            return
        follower = Follower(path)
        try:
            while True:
                if data := await asyncio.to_thread(follower.read):
                    yield ConsoleChunk(data=data)
                elif ended:
                    return
                else:
                    ended = not await self._runs(machine_id)
                    await asyncio.sleep(POLL_SECONDS * (6 if ended else 2))
        finally:
            follower.close()

    async def terminal(self, machine_id: str) -> Sequence[str]:
        """virsh at what the payload writes to, or at the first serial port of a guest that brings its own system."""
        there = await self._find(machine_id)
        if there is None or not there.active:
            raise Rejected(f"machine {machine_id} does not run")
        device = "console1" if there.stamp.get("direct") == "yes" else "serial0"
        return ["virsh", "--connect", self._engine.uri, "console", "--devname", device, "--domain", machine_id]

    async def aclose(self) -> None:
        """Close the connection; machines go on."""
        self._engine.close()

    @property
    def _locks(self) -> Path:
        return self.settings.run_dir / "locks"

    async def _known(self) -> Host:
        if self._host is None:
            version, virtiofsd, architectures = await self._engine.call(making.host, "tell its version")
            without = making.no_ids()
            self._host = Host(
                can=capabilities.capabilities(architectures, virtiofsd is not None and not without, without),
                version=version,
                acceleration=await self._accelerated(version),
                virtiofsd=virtiofsd,
            )
        return self._host

    async def _accelerated(self, version: str) -> acceleration.Acceleration:
        if self.settings.options.get("acceleration") == "emulated":
            return acceleration.Acceleration(False, "the configuration says so")
        path = self.root.parent / "kvm-acceleration.json"
        if answer := acceleration.kept(path, version):
            return answer
        async with held(self._locks, "kvm acceleration"):
            if answer := acceleration.kept(path, version):
                return answer
            folder, machine = self.settings.state_dir / "kvm-probe", platform.machine()
            answer = await self._engine.call(
                lambda c: acceleration.find(c, folder, machine), "start a test machine", START_SECONDS
            )
            acceleration.keep(path, version, answer)
        return answer

    async def _find(self, machine_id: str) -> Listed | None:
        """The domain of this id if it is there and carries our stamp."""
        with suppress(Gone, ValueError):
            place = Place(self.root, machine_id)
            return await self._engine.call(lambda c: found(c, place, self.logs), f"look for machine {machine_id}")
        return None

    async def _runs(self, machine_id: str) -> bool:
        there = await self._find(machine_id)
        return there is not None and there.active

    async def _make(self, spec: Spec, host: Host, there: Listed | None) -> None:
        """Define, prepare, start: whatever exists on the host is from its first moment explained by a domain."""
        place = Place(self.root, spec.id)
        await asyncio.to_thread(making.check, spec)
        if there is not None and not there.active:  # begun before, and then libvirt or we were gone
            await asyncio.to_thread(orphans.end, place.path)
        first = int(there.stamp["uid"]) if there else await self._define(spec, place, host)
        await asyncio.to_thread(making.prepare, spec, place, first, host.virtiofsd)
        at = time.time()
        await self._engine.call(lambda c: making.start(c, spec.id), f"start machine {spec.id}", START_SECONDS)
        await asyncio.to_thread(lambda: place.mark_started(began(tail(self.logs / f"{spec.id}.log")) or at))

    async def _define(self, spec: Spec, place: Place, host: Host) -> int:
        """Define the domain, with user ids that no other machine has; the first of them."""
        async with held(self._locks, "kvm user ids"):
            first = self._free(await self._engine.call(making.taken, "list machines"))
            xml = domain.xml(
                plan.domain(
                    spec,
                    place,
                    created=time.time(),
                    first_uid=first,
                    accelerated=host.acceleration.works,
                    architecture=platform.machine(),
                )
            )
            await self._engine.call(lambda c: making.define(c, place, self.logs, xml), f"define machine {spec.id}")
        return first

    def _free(self, uids: set[int]) -> int:
        options = self.settings.options
        available = idranges.pool(
            int(options.get("first_uid", FIRST_UID)), int(options.get("uid_count", idranges.DEFAULT_COUNT // 2))
        )
        return idranges.free_range(available, uids).first

    async def _ask(self, machine_id: str, act: making.Act, doing: str) -> None:
        """Ask something of a domain; one that is gone or off by now needs no asking."""
        with suppress(Gone):
            await self._engine.call(lambda c: making.asked(c, machine_id, act), f"{doing} machine {machine_id}")

    async def _force(self, machine_id: str) -> None:
        deadline = time.monotonic() + KILL_SECONDS
        while await self._runs(machine_id):
            if time.monotonic() > deadline:
                raise Unavailable(f"machine {machine_id} still runs {KILL_SECONDS:g} s after it was switched off")
            await self._ask(machine_id, lambda d: d.destroy(), "switch off")

    async def _remove(self, machine_id: str) -> None:
        place = Place(self.root, machine_id)
        if await self._engine.call(lambda c: making.foreign(c, machine_id), f"look for machine {machine_id}"):
            return
        await self._force(machine_id)
        try:
            await asyncio.to_thread(making.clear, place, self.logs)
        except OSError as error:
            raise Unavailable(f"machine {machine_id}: {error.filename}: {error.strerror}") from error
        await self._ask(machine_id, making.undefine, "forget")

    async def _settled(self, there: Listed, path: Path) -> None:
        """virtlogd may still be writing the last words of a machine that has just ended."""
        end = seen(there).end
        if end is None or (end.at or 0.0) < time.time() - 2:
            return
        before = -1
        while (size := path.stat().st_size if path.exists() else 0) != before:
            before = size
            await asyncio.sleep(POLL_SECONDS * 2)

    def _event(self, name: str, event: int, detail: int) -> None:
        """In libvirt's thread: have the end written down while libvirt knows it, and wake who watches."""
        self._tell(name)
        if event == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN:
            with suppress(ValueError):
                making.note_shutdown(Place(self.root, name), detail)
        if event in (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED):
            with suppress(ValueError):
                making.note_end(Place(self.root, name), event, detail)

    def _tell(self, name: str | None) -> None:
        if self._loop is not None and not self._loop.is_closed():
            for queue in list(self._heard):
                self._loop.call_soon_threadsafe(queue.put_nowait, name)
