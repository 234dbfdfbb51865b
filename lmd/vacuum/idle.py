"""`class = "idle"`: machines above the budget, in the lowest weight, which use what the others leave (LESSONS: none
pays for them). They are bounded by the processors of the factory and by memory, and give memory back when asked."""

from collections.abc import Iterable, Mapping

from lmd.vacuum.facts import Machine, Phase, TypeRules
from lmd.vacuum.room import Room
from lmd.vacuum.timeline import end_of


def spared(room: Room, kinds: Iterable[TypeRules]) -> int:
    """Bytes of memory that idle machines leave alone: what the free processors may still want."""
    wants = max((k.memory_bytes_per_processor for k in kinds if not k.idle), default=0)
    return max(room.free, 0) * max(wants, 0)


def give_back(now: float, lacking: int, alive: Iterable[Machine], kinds: Mapping[str, TypeRules]) -> list[Machine]:
    """Idle machines to tell, youngest first, so that `lacking` bytes come free; none if they cannot give as much.

    Those that have been told already count.
    """
    chosen: list[Machine] = []
    for machine in sorted((m for m in alive if m.idle), key=lambda m: (m.told is None, -m.created, m.id)):
        if lacking <= 0:
            break
        kind = kinds.get(machine.machinetype or "")
        if machine.memory_bytes <= 0 or kind is None:
            continue
        lacking -= machine.memory_bytes
        ends_soon = end_of(now, machine, kind) <= now + kind.grace_secs or machine.phase is Phase.STOPPING
        if machine.told is None and not ends_soon:
            chosen.append(machine)
    return chosen if lacking <= 0 else []
