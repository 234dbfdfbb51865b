"""What is kept for a while and then goes: directories of ended machines, history."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lmd.config.models import Config
from lmd.environment.directory import RECORD, Directory, DirectoryError, found
from lmd.factory.ledger import DAY, Ledger
from lmd.factory.rows import Clocks, Row
from lmd.factory.warnings import Kind
from lmd.machine.conditions import CONDITIONS

MAKING_SECONDS = 300.0
"""A directory without a record that is older has been left by a kill in its making."""


async def tidy(ledger: Ledger, machines: Path, owner: str, clocks: Clocks, config: Config) -> None:
    """Remove what has been kept long enough. What cannot be removed is a warning."""
    settings = config.settings
    problems = await asyncio.to_thread(remove_old, machines, owner, dict(ledger.rows), clocks.wall())
    ledger.warnings.hold(Kind.DIRECTORY, problems)
    await ledger.prune(settings.history_days, settings.history_bytes)


def remove_old(machines: Path, owner: str, rows: Mapping[str, Row], wall: float) -> dict[str, str]:
    """Remove the directories of ended machines of this factory that are due, and what nobody can have any use for;
    returns what could not be removed, by machine."""
    problems: dict[str, str] = {}
    for directory in found(machines):
        name = directory.path.name
        row = rows.get(name)
        if (row is not None and row.live) or not _due(directory, owner, wall):
            continue
        try:
            directory.remove()
        except DirectoryError as error:
            problems[name] = str(error)
    return problems


def _due(directory: Directory, owner: str, wall: float) -> bool:
    try:
        record = directory.load()
    except DirectoryError:
        return not (directory.path / RECORD).exists() and directory.age() > MAKING_SECONDS
    if record.owner != owner or record.outcome is None:
        return False
    days = 3.0
    with suppress(ValueError):
        days = CONDITIONS.validate_python(record.conditions or {}).keep_days
    try:
        written = (directory.path / RECORD).stat().st_mtime
    except OSError:
        return False
    return wall - written > days * DAY and time.time() - written > days * DAY
