"""User ids that machines get: lmd's own pool as root, the subordinate ids of /etc/subuid as an ordinary user."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, ok, problem, warning
from lmd.doctor.looking import program, text
from runtimes import idranges
from runtimes.idranges import MACHINE_IDS, IdRange

FIRST_SUBORDINATE = 100_000
"""Where useradd begins (login.defs, SUB_UID_MIN)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """`own` and `own_groups` are the lines of this user, `promised` those of all. `pool` is a runtime's, by name.

    `helpers`: what newuidmap and newgidmap lack to do their work, by name; nothing if all is well.
    """

    rootless: bool
    user: str
    own: Sequence[IdRange] = ()
    own_groups: Sequence[IdRange] = ()
    promised: Sequence[IdRange] = ()
    pools: Mapping[str, IdRange | str]
    helpers: Mapping[str, str]


def gather(asked: Asked) -> Ids:
    """From /etc/subuid, /etc/subgid, the configuration and the two setuid programs."""
    uids = idranges.parse_subordinate(text("/etc/subuid") or "")
    gids = idranges.parse_subordinate(text("/etc/subgid") or "")
    names = (asked.user, str(asked.uid))
    return Ids(
        rootless=asked.rootless,
        user=asked.user,
        own=[r for name in names for r in uids.get(name, ())],
        own_groups=[r for name in names for r in gids.get(name, ())],
        promised=[r for found in (uids, gids) for ranges in found.values() for r in ranges],
        pools={name: _pool(options) for name, options in _pooled(asked).items()},
        helpers={name: why for name in ("newuidmap", "newgidmap") if (why := _lacks(name))},
    )


def _pooled(asked: Asked) -> Mapping[str, Mapping[str, str]]:
    """The options of the runtimes that take ids from a pool of ours."""
    return {"podman": asked.config.runtimes.get("podman", {})} if "podman" in asked.runtimes else {}


def _pool(options: Mapping[str, str]) -> IdRange | str:
    try:
        return idranges.pool(
            int(options.get("first_uid", idranges.DEFAULT_FIRST)),
            int(options.get("uid_count", idranges.DEFAULT_COUNT)),
        )
    except ValueError as error:
        return str(error)


def _lacks(name: str) -> str:
    path = program(name)
    if path is None:
        return "is not installed"
    with suppress(OSError):
        if os.getxattr(path, "security.capability"):
            return ""
    with suppress(OSError):
        found = Path(path).stat()
        if found.st_uid == 0 and found.st_mode & stat.S_ISUID:
            return ""
    return "has neither the setuid bit nor capabilities"


def rule(ids: Ids) -> Iterator[Finding]:
    """How many machines fit, or the line that makes room for them."""
    if ids.rootless:
        yield from _subordinate(ids)
    else:
        for runtime, pool in ids.pools.items():
            yield _of_pool(runtime, pool, ids.promised)


def _of_pool(runtime: str, pool: IdRange | str, promised: Sequence[IdRange]) -> Finding:
    mend = f"set first_uid and uid_count in [runtimes.{runtime}] of the configuration"
    if isinstance(pool, str):
        return problem(f"{runtime}: {pool}", mend)
    room = [IdRange(pool.first + n * MACHINE_IDS, MACHINE_IDS) for n in range(pool.count // MACHINE_IDS)]
    fitting = sum(not any(one.overlaps(other) for other in promised) for one in room)
    where = f"user ids {pool.first} to {pool.first + pool.count - 1}"
    if not fitting:
        return problem(f"{runtime}: no machine fits into {where}: /etc/subuid promises them to others", mend)
    if fitting < len(room):
        taken = len(room) - fitting
        return warning(
            f"{runtime}: {fitting} machines fit into {where}; /etc/subuid promises the room of {taken} to others", mend
        )
    return ok(f"{runtime}: {fitting} machines at a time fit into {where}, {MACHINE_IDS} each")


def _subordinate(ids: Ids) -> Iterator[Finding]:
    for name, why in ids.helpers.items():
        yield problem(
            f"{name} {why}: an ordinary user's machines cannot have users",
            "apt-get install uidmap (dnf install shadow-utils)",
        )
    for file, ranges in (("/etc/subuid", ids.own), ("/etc/subgid", ids.own_groups)):
        count = sum(found.count for found in ranges)
        if not count:
            yield problem(f"{file} has no line for {ids.user}: a machine would have one user id, root's", _add(ids))
        elif count < MACHINE_IDS - 1:
            yield warning(f"{file} gives {ids.user} {count} ids; images expect {MACHINE_IDS}", _add(ids))
    if ids.own and ids.own_groups and not ids.helpers:
        count = sum(found.count for found in ids.own)
        yield ok(f"{ids.user} has {count} subordinate user ids, which all machines share: any number of machines fits")


def _add(ids: Ids) -> str:
    """The line to type; the range is free as far as /etc/subuid tells."""
    first = max([FIRST_SUBORDINATE, *(found.first + found.count for found in ids.promised)])
    span = f"{first}-{first + MACHINE_IDS - 1}"
    return f"sudo usermod --add-subuids {span} --add-subgids {span} {ids.user} && podman system migrate"


CHECK = Check("user-ids", gather, rule)
