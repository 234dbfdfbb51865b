"""What a factory is given, and what all of its parts share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lmd import engines
from lmd.config.models import Config
from lmd.factory.actors import Act, Actors
from lmd.factory.ledger import Ledger
from lmd.factory.rows import Clocks, Event
from lmd.factory.watched import Watched
from lmd.places import Places
from runtimes import registry
from runtimes.contract import Runtime


@dataclass(frozen=True, slots=True)
class Host:
    """What a factory is given: its directories, clocks, how its configuration and its runtimes are made, its log."""

    places: Places
    clocks: Clocks
    environment: Mapping[str, str]
    load: Callable[[str, Config], Runtime]
    log: Callable[[Event], None]


def loaded(places: Places) -> Callable[[str, Config], Runtime]:
    """The runtimes of this host, as `Host.load` makes them."""
    return lambda name, config: registry.load(name, engines.settings(name, config, places))


@dataclass(slots=True, kw_only=True)
class Premises:
    """What the parts of one factory share: what is known, what is observed, who acts. `config` is the one in force;
    `total` the processors that machines may use now; `wake` begins a pass; `missing` says why runtimes are not among
    the engines."""

    host: Host
    config: Config
    name: str
    owner: str
    boot_id: str
    ledger: Ledger
    engines: dict[str, Watched]
    actors: Actors
    wake: Callable[[], None]
    total: int = 0
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def clocks(self) -> Clocks:
        """The host's."""
        return self.host.clocks

    @property
    def places(self) -> Places:
        """The host's."""
        return self.host.places

    def do(self, name: str, act: Act, *, instead: bool = False) -> None:
        """Begin an act on a machine, unless one is under way; with `instead`, in its place."""
        self.actors.do(name, act, instead=instead)

    def say(self, kind: str, machine: str = "", **data: Any) -> None:
        """An event."""
        self.ledger.events.add(kind, machine, **data)
