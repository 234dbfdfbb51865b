"""What this factory's machines hold, gathered in one look at each of them."""

from collections.abc import Iterable, Sequence

from lmd.vacuum.facts import Machine, Phase

SETTLING = 300.0
"""Seconds after its start in which a machine is taken to have used none of its memory yet."""


class Held:
    """The machines by type, alive and ended, and sums over those that are alive.

    `processors` and `idle_processors` of machines within and above the budget, `memory` and `disk` booked (bytes),
    `unclaimed` memory of young machines, `starting` machines; `busy`: processors by type, without machines that have
    been told to end.
    """

    def __init__(self, now: float, machines: Sequence[Machine], kinds: Iterable[str]) -> None:  # noqa: C901
        self.alive: list[Machine] = []
        self.alive_of: dict[str, list[Machine]] = {name: [] for name in kinds}
        self.ended_of: dict[str, list[Machine]] = {name: [] for name in self.alive_of}
        self.busy: dict[str, int] = dict.fromkeys(self.alive_of, 0)
        finished, starting = Phase.FINISHED, Phase.STARTING
        settled = now - SETTLING
        alive, alive_of, ended_of, busy = self.alive, self.alive_of, self.ended_of, self.busy
        held = idle = memory = unclaimed = disk = begun = 0
        for machine in machines:  # the one loop whose length is that of the factory: no calls, no attributes in it
            name = machine.machinetype
            if machine.phase is finished:
                if name in ended_of:
                    ended_of[name].append(machine)
                continue
            alive.append(machine)
            processors = machine.processors if machine.processors > 0 else 0
            if name in alive_of:
                alive_of[name].append(machine)
                if machine.told is None:
                    busy[name] += processors
            if machine.idle:
                idle += processors
            else:
                held += processors
            if (booked := machine.memory_bytes) > 0:
                memory += booked
                if (machine.created if machine.started is None else machine.started) > settled:
                    unclaimed += booked
            if machine.disk_bytes > 0:
                disk += machine.disk_bytes
            if machine.phase is starting:
                begun += 1
        self.processors, self.idle_processors, self.starting = held, idle, begun
        self.memory, self.unclaimed, self.disk = memory, unclaimed, disk
