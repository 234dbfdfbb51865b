"""What an administrator should know of until it is mended: typed, raised once, acknowledged, resolved."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

MOST_ABOUT = 500


class Kind(StrEnum):
    """What a warning is about; stable, for programs."""

    STORE = "store"  # the database is damaged, full or out of reach
    CONFIGURATION = "configuration"  # a reload was refused
    MACHINETYPE = "machinetype"  # a type cannot be used
    RUNTIME = "runtime"  # an engine does not answer
    START = "start"  # machines of a type cannot be started
    WILL_NOT_DIE = "will-not-die"  # a machine that does not end, or cannot be removed
    DIRECTORY = "directory"  # a machine's directory cannot be written or removed
    PROCESSORS = "processors"  # total_processors cannot be read
    PINNING = "pinning"  # machines are to be bound to more processors than there are
    DOUBLED = "doubled"  # an engine shows a machine that should not be there
    API = "api"  # the socket cannot be made
    CLOCK = "clock"  # the wall clock has jumped
    IMAGES = "images"  # images cannot be held to their budget
    NETWORK = "network"  # the machines' network is broken
    REPOSITORY = "repository"  # a CernVM-FS repository that types need does not answer
    CHORE = "chore"  # something that is done now and then fails, or hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class Warning:
    """One warning; `about` what it concerns. Times in Unix seconds, None: not yet."""

    kind: Kind
    about: str
    text: str
    raised: float
    last: float
    count: int = 1
    acknowledged: float | None = None
    by: str = ""
    resolved: float | None = None

    @property
    def key(self) -> str:
        """Names it: `kind:about`."""
        return f"{self.kind}:{self.about}"

    def plain(self) -> dict[str, Any]:
        """For JSON and the database."""
        return {"key": self.key, **asdict(self)}


class Warnings:
    """All warnings. `changed` holds the keys that the database has not got yet."""

    def __init__(
        self, stored: Mapping[str, Mapping[str, Any]], wall: Callable[[], float], tell: Callable[..., object]
    ) -> None:
        self._wall, self._tell = wall, tell
        self._all: dict[str, Warning] = {}
        self.changed: set[str] = set()
        for key, body in stored.items():
            try:
                values = {name: value for name, value in body.items() if name in Warning.__slots__}
                self._all[key] = Warning(**(values | {"kind": Kind(body["kind"])}))
            except (KeyError, ValueError, TypeError):
                self.changed.add(key)

    def all(self) -> list[Warning]:
        """Newest first."""
        return sorted(self._all.values(), key=lambda warning: (-warning.last, warning.key))

    def open(self) -> list[Warning]:
        """Those that are neither resolved nor acknowledged."""
        return [warning for warning in self.all() if warning.resolved is None and warning.acknowledged is None]

    def get(self, key: str) -> Warning | None:
        """One by its key."""
        return self._all.get(key)

    def raised(self, kind: Kind, about: str, text: str) -> None:
        """Raise it, or note that it still holds; told when it is new, or says something new."""
        now, about = self._wall(), about[:MOST_ABOUT]
        known = self._all.get(f"{kind}:{about}")
        if known is None or known.resolved is not None:
            self._put(Warning(kind=kind, about=about, text=text, raised=now, last=now))
            self._tell("warning-raised", warning=f"{kind}:{about}", text=text)
        elif known.text != text:
            self._put(replace(known, text=text, last=now, count=known.count + 1))

    def resolved(self, kind: Kind, about: str = "") -> None:
        """It no longer holds; no news if it did not."""
        known = self._all.get(f"{kind}:{about[:MOST_ABOUT]}")
        if known is not None and known.resolved is None:
            self._put(replace(known, resolved=self._wall()))
            self._tell("warning-resolved", warning=known.key)

    def hold(self, kind: Kind, found: Mapping[str, str]) -> None:
        """Exactly these hold of this kind: what each is about, and its text."""
        for about, text in found.items():
            self.raised(kind, about, text)
        for warning in list(self._all.values()):
            if warning.kind is kind and warning.about not in {about[:MOST_ABOUT] for about in found}:
                self.resolved(kind, warning.about)

    def acknowledge(self, key: str, by: str) -> bool:
        """Somebody knows of it; False if there is no such warning."""
        known = self._all.get(key)
        if known is None:
            return False
        self._put(replace(known, acknowledged=self._wall(), by=by))
        self._tell("warning-acknowledged", warning=key, by=by)
        return True

    def prune(self, before: float) -> None:
        """Forget what was resolved before then."""
        for key in [key for key, warning in self._all.items() if (warning.resolved or before) < before]:
            del self._all[key]
            self.changed.add(key)

    def _put(self, warning: Warning) -> None:
        self._all[warning.key] = warning
        self.changed.add(warning.key)
