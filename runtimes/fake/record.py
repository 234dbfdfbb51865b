"""A machine as the fake engine keeps it, and the state that follows from that and the time."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runtimes.contract import End, EndReason, State
from runtimes.fake import script


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A machine as the engine keeps it. `labels` are the stamps: empty for a machine that is not ours.

    `mounts` holds (source, target, read-only); `asked`, `started`, `created` and `cut.at` are Unix seconds.
    """

    name: str
    labels: dict[str, str]
    words: tuple[str, ...]
    created: float
    image_digest: str = ""
    environment: dict[str, str]
    mounts: tuple[tuple[str, str, bool], ...] = ()
    scratch: tuple[str, ...] = ()
    processors: float | None = None
    memory_bytes: int | None = None
    console_bytes: int = 1_000_000
    lifetime_seconds: int | None = None
    started: float | None = None
    asked: float | None = None
    cut: End | None = None
    effects_done: int = 0

    def history(self) -> script.History:
        """What the machine has done and will do if nobody interferes; only for one that was started."""
        if self.started is None:
            return script.History((), (), (), self.cut)
        cut = self.cut
        over = None if self.lifetime_seconds is None else self.started + self.lifetime_seconds
        if over is not None and (cut is None or cut.at is None or cut.at > over):
            cut = End(reason=EndReason.KILLED, exit_code=script.SIGKILL_CODE, at=over, detail="lifetime is over")
        return script.history(script.parse(self.words), self.started, self.asked, cut, self.memory_bytes)

    def state(self, now: float) -> tuple[State, End | None]:
        """The phase at that time, and the end if there was one."""
        return Life.of(self).state(now)

    def dump(self) -> str:
        """The record as JSON, for `load`."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(values | {"cut": self.cut and asdict(self.cut)})

    @classmethod
    def load(cls, text: str) -> "Record":
        """The record of `dump`."""
        values: dict[str, Any] = json.loads(text)
        cut = values["cut"]
        values["cut"] = cut and End(**(cut | {"reason": EndReason(cut["reason"])}))
        for name in ("words", "scratch"):
            values[name] = tuple(values[name])
        values["mounts"] = tuple((source, target, read_only) for source, target, read_only in values["mounts"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Life:
    """A machine with its history, which is worked out once."""

    record: Record
    history: script.History

    @classmethod
    def of(cls, record: Record) -> "Life":
        """That of a record."""
        return cls(record, record.history())

    def due(self, now: float) -> bool:
        """Whether its script should have shown something by then that it has not."""
        done, effects = self.record.effects_done, self.history.effects
        return len(effects) > done and effects[done].at <= now

    def state(self, now: float) -> tuple[State, End | None]:
        """The phase at that time, and the end if there was one."""
        end = self.history.end
        if end is not None and (end.at is None or end.at <= now):
            return State.EXITED, end
        return (State.CREATED if self.record.started is None else State.RUNNING), None


def words_of(entrypoint: Sequence[str] | None, args: Sequence[str] | None) -> tuple[str, ...]:
    """A spec's command as one script; nothing at all runs until it is stopped."""
    return (*(entrypoint or ()), *(args or ())) or ("forever",)
