"""All that the factory knows, in memory, and its way to the database: what cannot be written now is written later."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from lmd.factory.events import Events
from lmd.factory.rows import ROW, Clocks, Event, Phase, Row
from lmd.factory.store import Content, Statement, Store, StoreFault, noted, put, saved
from lmd.factory.warnings import Kind, Warnings

DAY = 86_400.0
PAGE_BYTES = 4096


class Ledger:
    """Rows by id, events, warnings, the operators' intents. One object a factory."""

    def __init__(self, store: Store, clocks: Clocks, log: Callable[[Event], None]) -> None:
        self.store, self._clocks, self._log = store, clocks, log
        self.fault: StoreFault | None = None
        self._dirty: set[str] = set()
        self._dirty_keys: set[tuple[str, str]] = set()
        self._mending = asyncio.Lock()
        self.load(Content())

    def load(self, content: Content) -> None:
        """Begin with what is in the database."""
        self.rows: dict[str, Row] = dict(content.rows)
        self.intents: dict[str, dict[str, Any]] = dict(content.intents)
        self.backoffs: dict[str, dict[str, Any]] = dict(content.backoffs)
        self.events = Events(content.seq, self._clocks.wall, self._log)
        self.warnings = Warnings(content.warnings, self._clocks.wall, self.events.add)
        self._unsettled = content.copied
        if content.damage:
            self.warnings.raised(Kind.STORE, "", "; ".join(content.damage))
        if content.damage or content.copied:
            self._soil()

    @property
    def writable(self) -> bool:
        """Whether what is decided now would outlive this process."""
        return self.fault is None

    def live(self) -> list[Row]:
        """The machines that have not finished."""
        return [row for row in self.rows.values() if row.live]

    def set(self, row: Row) -> Row:
        """Take a row; the next `flush` writes it. One that has finished never becomes anything else."""
        known = self.rows.get(row.id)
        if known is not None and not known.live and row.live:
            return known
        if known is None or known.phase is not row.phase:
            self.events.add(f"machine-{row.phase}", row.id, **_told(row))
        self.rows[row.id] = row
        self._dirty.add(row.id)
        return row

    def change(self, name: str, **values: Any) -> Row | None:
        """The row with these values; None if there is none any more."""
        row = self.rows.get(name)
        return None if row is None else self.set(replace(row, **values))

    def forget(self, name: str) -> None:
        """Drop a row from memory; the database keeps it as history."""
        if name not in self._dirty:
            self.rows.pop(name, None)

    def drop(self, name: str) -> None:
        """Take back a row that could not be written and of which nothing was made."""
        self.rows.pop(name, None)
        self._dirty.discard(name)

    def intend(self, key: str, body: Mapping[str, Any] | None) -> None:
        """Set, or with None take back, an operator's intent."""
        if body is None:
            self.intents.pop(key, None)
        else:
            self.intents[key] = dict(body)
        self._dirty_keys.add(("intent", key))

    def back_off(self, machinetype: str, body: Mapping[str, Any] | None) -> None:
        """Set, or with None end, a wait before machines of a type are started again."""
        if body is None:
            if self.backoffs.pop(machinetype, None) is None:
                return
        else:
            self.backoffs[machinetype] = dict(body)
        self._dirty_keys.add(("backoff", machinetype))

    async def flush(self) -> bool:
        """Write all that is not written; False, with a warning, if that cannot be done now."""
        rows, keys, changed = self._dirty, self._dirty_keys, self.warnings.changed
        events = list(self.events.unsaved)
        if not (rows or keys or changed or events):
            return self.fault is None
        self._dirty, self._dirty_keys, self.warnings.changed = set(), set(), set()
        self.events.unsaved.clear()
        statements = [saved(self.rows[name]) for name in rows if name in self.rows]
        statements += [noted(event) for event in events]
        statements += [put(table, key, self._table(table).get(key)) for table, key in keys]
        statements += [self._warning(key) for key in changed]
        try:
            await self.store.write(statements)
        except BaseException as error:  # also of one who was cancelled while he waited
            self._dirty |= rows
            self._dirty_keys |= keys
            self.warnings.changed |= changed
            self.events.unsaved.extendleft(reversed(events))
            if not isinstance(error, StoreFault):
                raise
            self.fault = error
            self.warnings.raised(Kind.STORE, "", f"{error}; nothing new is started until it can be written")
            return False
        return self.fault is None

    async def mend(self) -> None:
        """After a fault, or when the file has gone: open it anew and write everything into it."""
        async with self._mending:
            if self.fault is None and await self.store.intact():
                if not self.store.in_place and await self.store.home():
                    self._soil()
                    self._unsettled = True
                if self._unsettled and await self.flush() and self.store.in_place:
                    await self.store.settled()
                    self._unsettled = False
                    self.warnings.resolved(Kind.STORE)
                return
            if self.fault is None:
                self.warnings.raised(Kind.STORE, "", f"{self.store.path}: was removed or replaced; it is written anew")
            try:
                await self.store.again()
            except StoreFault as fault:
                self.fault = fault
                return
            finally:  # also of one who was cancelled: the file is made anew all the same
                self._soil()
            self.fault = None
            if await self.flush() and self.store.in_place:
                self.warnings.resolved(Kind.STORE)

    def _soil(self) -> None:
        """All has to be written."""
        self._dirty |= set(self.rows)
        self._dirty_keys |= {("intent", key) for key in self.intents}
        self._dirty_keys |= {("backoff", key) for key in self.backoffs}
        self.warnings.changed |= {warning.key for warning in self.warnings.all()}

    async def find(self, name: str) -> Row | None:
        """A machine's row, also one that is history only. Raises `StoreFault`."""
        if name in self.rows:
            return self.rows[name]
        for (body,) in await self.store.read("SELECT body FROM machine WHERE id = ?", (name,)):
            with suppress(ValidationError):
                return ROW.validate_json(body)
        return None

    async def prune(self, days: float, most_bytes: int) -> None:
        """Forget history older than `days`, and the oldest of it while it takes more than `most_bytes`."""
        before = self._clocks.wall() - days * DAY
        self.warnings.prune(before)
        with suppress(StoreFault):
            await self.store.write(
                [
                    ("DELETE FROM machine WHERE ended < ? AND json_extract(body, '$.cleaned')", (before,)),
                    ("DELETE FROM event WHERE at < ?", (before,)),
                ]
            )
            for _ in range(20):
                pages = (await self.store.read("PRAGMA page_count"))[0][0]
                free = (await self.store.read("PRAGMA freelist_count"))[0][0]
                if (pages - free) * PAGE_BYTES <= most_bytes:
                    break
                await self.store.write(OLDEST)

    def _table(self, name: str) -> Mapping[str, Mapping[str, Any]]:
        return self.intents if name == "intent" else self.backoffs

    def _warning(self, key: str) -> Statement:
        known = self.warnings.get(key)
        return put("warning", key, known.plain() if known else None)


OLDEST: tuple[Statement, ...] = (
    (
        "DELETE FROM event WHERE seq <= (SELECT min(seq) + (max(seq) - min(seq)) / 10 FROM event)",
        (),
    ),
    (
        "DELETE FROM machine WHERE id IN (SELECT id FROM machine WHERE ended IS NOT NULL AND"
        " json_extract(body, '$.cleaned') ORDER BY ended LIMIT (SELECT count(*) / 10 FROM machine))",
        (),
    ),
)
"""A tenth of the history, the oldest."""


def _told(row: Row) -> dict[str, Any]:
    """What an event says of a machine."""
    told: dict[str, Any] = {"machinetype": row.machinetype, "runtime": row.runtime, "processors": row.processors}
    if row.phase is Phase.PREPARING and row.because:
        told["because"] = row.because
    if row.why:
        told["why"] = ": ".join(row.why)
    if row.outcome:
        told["outcome"] = row.outcome.get("message") or row.outcome.get("detail")
    return told
