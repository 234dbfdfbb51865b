"""What this factory has left for machines during one pass: processors, memory, disk, starts."""

from lmd.vacuum.backoff import Hold
from lmd.vacuum.decision import Code
from lmd.vacuum.facts import Factory, Rules, TypeRules
from lmd.vacuum.held import Held


class Room:
    """Counts down as machines are decided on. Memory, disk and starts are None where there is no limit."""

    def __init__(self, factory: Factory, held: Held, rules: Rules) -> None:
        self.free = factory.total_processors - held.processors
        self.idle = factory.total_processors - held.idle_processors
        bounds = [factory.memory_bytes - held.memory] if factory.memory_bytes is not None else []
        if factory.free_memory_bytes is not None:
            bounds.append(factory.free_memory_bytes - held.unclaimed)
        self.memory: int | None = min(bounds, default=None)
        self.disk: int | None = None
        if factory.free_disk_bytes is not None:
            self.disk = factory.free_disk_bytes - rules.disk_reserve_bytes - held.disk
        self.starts: int | None = None
        if rules.max_starting_machines is not None:
            self.starts = rules.max_starting_machines - held.starting

    def most(self, kind: TypeRules, processors: int) -> int:
        """How many of `processors` the memory allows."""
        if self.memory is None or kind.memory_bytes_per_processor <= 0:
            return processors
        return min(processors, max(self.memory, 0) // kind.memory_bytes_per_processor)

    def lacks(self, kind: TypeRules) -> Hold | None:
        """What the smallest machine of the type has no room for, processors aside."""
        if self.starts is not None and self.starts <= 0:
            return Hold(Code.STARTING, "as many machines are starting as max_starting_machines allows", None)
        if self.disk is not None and max(kind.disk_bytes, 0) > self.disk:
            return Hold(Code.DISK, f"it may leave {_gib(kind.disk_bytes)}, {_gib(max(self.disk, 0))} are free", None)
        if self.most(kind, kind.min_processors) < kind.min_processors:
            needs = kind.min_processors * kind.memory_bytes_per_processor
            return Hold(
                Code.MEMORY, f"it needs {_gib(needs)} of memory, {_gib(max(self.memory or 0, 0))} are free", None
            )
        return None

    def take(self, kind: TypeRules, processors: int) -> None:
        """Book one machine."""
        if kind.idle:
            self.idle -= processors
        else:
            self.free -= processors
        if self.memory is not None:
            self.memory -= processors * max(kind.memory_bytes_per_processor, 0)
        if self.disk is not None:
            self.disk -= max(kind.disk_bytes, 0)
        if self.starts is not None:
            self.starts -= 1


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
