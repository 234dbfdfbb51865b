"""What an operator orders: written down first, and stronger than the loop."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lmd.config.chosen import choose
from lmd.config.files import check_files
from lmd.config.layers import host_files
from lmd.config.problems import ConfigError
from lmd.environment.directory import DirectoryError
from lmd.environment.outcome import Why
from lmd.factory.factory import Factory
from lmd.factory.rows import Row
from lmd.machine.image import BUILT
from lmd.vacuum.decision import Start, many

IMAGE_SECONDS = 3600.0


class NotPossible(Exception):
    """An order that cannot be carried out; one line, or one for each problem."""


class Orders:
    """Orders to one factory."""

    def __init__(self, factory: Factory) -> None:
        self._factory = factory

    async def stop(self, row: Row, grace: float | None, by: str) -> None:
        """End a machine after `grace` seconds (None: its type's); on the disk when this returns, or in memory."""
        self._factory.condemn(row, Why.STOPPED, by, row.conditions.grace if grace is None else grace)
        await self._factory.ledger.flush()

    async def destroy(self, row: Row, by: str) -> None:
        """End a machine at once and remove all of it, its directory too."""
        factory = self._factory
        row = factory.ledger.set(replace(factory.ledger.rows.get(row.id, row), destroy=True))
        if row.live:
            factory.condemn(row, Why.STOPPED, by, 0.0)
        elif row.cleaned:
            try:
                await asyncio.to_thread(factory.acts.directory(row.id).remove)
            except DirectoryError as error:
                raise NotPossible(str(error)) from error
        factory.wake()
        await factory.ledger.flush()

    async def drain(self, key: str, reason: str, deadline: float | None, machinetype: str | None, by: str) -> None:
        """Start nothing more, or nothing of one type; with a deadline in seconds, end what runs by then."""
        factory = self._factory
        if machinetype is not None and machinetype not in {*factory.config.machinetypes, *factory.config.disabled}:
            raise NotPossible(f"{machinetype}: no machinetype of this name; see them with: lm why")
        now = factory.clocks.wall()
        body = {
            "reason": f"drained by {by}" + (f": {reason}" if reason else ""),
            "since": now,
            "boot_id": factory.boot_id,
            "by_time": None if deadline is None else now + deadline,
        }
        factory.ledger.intend(key, body)
        factory.ledger.events.add("drained", key=key, by=by, reason=reason, deadline=deadline)
        if machinetype is not None and deadline is not None:
            factory.tending.end_type(machinetype, now + deadline, str(body["reason"]))
        factory.wake()
        await factory.ledger.flush()

    async def undrain(self, key: str, by: str) -> None:
        """Start machines again; ends that were moved earlier stay where they are."""
        self._factory.ledger.intend(key, None)
        self._factory.ledger.events.add("undrained", key=key, by=by)
        self._factory.wake()
        await self._factory.ledger.flush()

    async def run(
        self, target: str, sets: Sequence[str], directory: Path, processors: int | None, seconds: int | None, uid: int
    ) -> Row:
        """Start one machine that the daemon looks after. Files and images of their own only root may bring: a file says
        which of the host's files a machine gets."""
        factory = self._factory
        if uid != 0 and (sets or target not in factory.config.machinetypes):
            raise NotPossible("only root may run what is not a configured machinetype; see those with: lm why")
        try:
            host = host_files(os.geteuid(), factory.host.environment)
            chosen = await asyncio.to_thread(
                choose, target, sets, host=host, directory=directory, guarded=os.geteuid() == 0
            )
        except ConfigError as error:
            raise NotPossible(str(error)) from error
        type_ = chosen.machinetype
        problems = [] if type_.root_image.startswith(BUILT) else check_files(chosen.config, type_.name)
        if problems:
            raise NotPossible("\n".join(map(str, problems)))
        if processors is not None and not type_.min_processors <= processors <= type_.max_processors:
            least, most = type_.min_processors, type_.max_processors
            raise NotPossible(f"machinetype {type_.name}: works with {least} to {most} processors, not {processors}")
        count = processors or min(type_.max_processors, max(type_.min_processors, factory.filling.free()))
        if count > factory.filling.free():
            raise NotPossible(
                f"machinetype {type_.name}: needs {many(count, 'processor')}, {max(0, factory.filling.free())} free"
            )
        life = min(type_.max_wallclock_seconds, seconds or type_.max_wallclock_seconds)
        until = factory.clocks.wall() + life
        start = Start(machinetype=type_.name, processors=count, until=until, because=f"lm run by user {uid}")
        async with asyncio.timeout(IMAGE_SECONDS):
            while isinstance(placed := factory.placing.placed(type_), str):
                if not placed.endswith("being fetched"):
                    raise NotPossible(f"machinetype {type_.name}: {placed}")
                await asyncio.sleep(0.05)
        made = factory.filling.planned(type_, start, *placed, detached=True)
        if not await factory.filling.begin([made]):
            raise NotPossible("the machine cannot be written down: see lm warnings")
        return made[1]
