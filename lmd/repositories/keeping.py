"""Repositories of the types in use, kept alive under a daemon: mounted before a machine needs them, looked at again and
again, mounted anew when they are broken."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lmd.config.models import Config, MachineType
from lmd.config.virtual import SELF_STARTING
from lmd.places import Places
from lmd.repositories.handing import in_repository
from lmd.repositories.provider import ALL, NoRepositories, provider

if TYPE_CHECKING:
    from cvmfs.hosting import Provider

LOOK_SECONDS = 10.0
"""Between two looks at the repositories."""
SILENT_LOOKS = 3
DEAD = ("not connected", "connection abort")
"""In what the kernel says of a mount without a client, and to whom was waiting when it went."""
AT_ONCE = 8


def needed(type_: MachineType) -> tuple[str, ...]:
    """The repositories that have to be mounted on the host for machines of a type."""
    by_host = type_.cvmfs_where == "factory" and type_.machine_model not in SELF_STARTING
    named = type_.cvmfs_repositories if by_host else ()
    root, _ = in_repository(type_.root_image)
    return tuple(dict.fromkeys(name for name in (*named, root) if name and name != ALL))


@dataclass(slots=True)
class Keeping:
    """What is known of the repositories of this host.

    `states` are problems by name ("": it answers); `silent`: how often in a row each did not answer in time; `done`:
    kinds of events with a repository and why, until somebody takes them.
    """

    places: Places
    states: dict[str, str] = field(default_factory=dict)
    silent: dict[str, int] = field(default_factory=dict)
    done: list[tuple[str, str, str]] = field(default_factory=list)

    def problem(self, type_: MachineType) -> str:
        """Why no machine of this type may be started now; "" if one may. Looks at nothing."""
        states = {name: self.states.get(name, "") for name in needed(type_)}
        return "; ".join(f"CernVM-FS repository {name}: {why}" for name, why in states.items() if why)

    @property
    def problems(self) -> dict[str, str]:
        """Those that do not answer, with why."""
        return {name: why for name, why in self.states.items() if why}

    def look(self, config: Config) -> None:
        """Look at all repositories of types in use, and mend what is broken.

        It waits, so it is for a thread: for what hangs as long as `probe_seconds` says, for a mount as it takes.
        """
        names = sorted({name for type_ in in_use(config) for name in needed(type_)})
        if not names:
            self.states = {}
            return
        try:
            by = provider(config.cvmfs, self.places)
        except NoRepositories as error:
            self.states = dict.fromkeys(names, str(error))
            return
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="repository") as threads:
            found = threads.map(lambda name: self._one(by, name, float(config.cvmfs.probe_seconds)), names)
            self.states = dict(zip(names, found, strict=True))

    def _one(self, by: "Provider", name: str, seconds: float) -> str:
        """What is wrong with one; it is mounted if it is not, and anew if it is broken."""
        from cvmfs.errors import CvmfsError
        from cvmfs.hosting import probe

        broken = ""
        try:
            if not by.mounted(name):
                by.ensure(name, os.getpid())
                self.done.append(("repository-mounted", name, ""))
            elif not (broken := probe(by.root / name, seconds)):
                by.keep(name, os.getpid())
            elif self._hopeless(by, name, broken):
                by.remount(name, os.getpid())
                self.done.append(("repository-remounted", name, broken))
                broken = probe(by.root / name, seconds)
        except (CvmfsError, OSError) as error:
            return f"{broken}; {error}" if broken else str(error)
        if not broken:
            self.silent.pop(name, None)
        return broken

    def _hopeless(self, by: "Provider", name: str, broken: str) -> bool:
        """Whether a mount is dead, or our own reader has been silent for long. One that is slow is left to those that
        read from it, and the distribution's client is its administrator's."""
        if any(word in broken for word in DEAD):
            return True
        self.silent[name] = self.silent.get(name, 0) + 1
        return by.name == "embedded" and self.silent[name] >= SILENT_LOOKS


def in_use(config: Config) -> Iterable[MachineType]:
    """The types of which this factory starts machines by itself."""
    return [type_ for type_ in config.machinetypes.values() if type_.target_share]
