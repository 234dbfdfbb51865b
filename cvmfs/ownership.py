"""Who owns what is shown: the stored owner, one that a table puts in its place, or always ourselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cvmfs.errors import BadConfiguration

_MAX_BYTES = 1 << 20
_LINE = re.compile(r"(\*|[0-9]{1,10})\s+([0-9]{1,10})", re.ASCII)
_MOST = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class Ids:
    """Ids to show in place of stored ones; `other` for all that are not in the table, None for as they are."""

    table: Mapping[int, int] = field(default_factory=dict)
    other: int | None = None

    def shown(self, stored: int) -> int:
        """What to show for this id."""
        found = self.table.get(stored)
        return found if found is not None else stored if self.other is None else self.other


@dataclass(frozen=True, slots=True)
class Ownership:
    """`claimed` (uid, gid) wins over the tables."""

    uids: Ids = Ids()
    gids: Ids = Ids()
    claimed: tuple[int, int] | None = None

    def shown(self, uid: int, gid: int) -> tuple[int, int]:
        """The owner to show."""
        return self.claimed or (self.uids.shown(uid), self.gids.shown(gid))


def read_ids(setting: str, file: str) -> Ids:
    """The table in a file: two numbers a line, `*` for all others, `#` for comments; empty name: no table.

    Raises BadConfiguration naming `setting`.
    """
    if not file:
        return Ids()
    try:
        with Path(file).open("rb") as stream:
            text = stream.read(_MAX_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        raise BadConfiguration(f"{setting} {file}: cannot be read ({error})") from error
    table: dict[int, int] = {}
    other: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None or int(match[2]) > _MOST:
            raise BadConfiguration(f"{setting} {file}: line {number} is not an id (or *) and an id")
        if match[1] == "*":
            other = int(match[2])
        else:
            table[int(match[1])] = int(match[2])
    return Ids(table, other)
