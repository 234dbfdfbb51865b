"""The engines of this host under observation, and what follows from what they show."""

from functools import partial

from lmd import engines
from lmd.factory.host import Premises
from lmd.factory.join import Joined, join
from lmd.factory.warnings import Kind
from lmd.factory.watched import Watched
from runtimes.contract import Seen


class Observing:
    """Makes the engines, joins their last answers with the rows, remembers the machines that are not ours."""

    def __init__(self, here: Premises) -> None:
        self._here = here
        self._others: dict[str, tuple[Seen, ...]] = {}

    def begin(self) -> None:
        """Make the engines of this host that are not there yet, and begin to observe each."""
        here = self._here
        here.missing.clear()
        for name in engines.here(here.host.environment):
            if name in here.engines:
                continue
            try:
                runtime = here.host.load(name, here.config)
            except (ImportError, LookupError, ValueError) as error:
                here.missing[name] = str(error).removeprefix(f"runtime {name}: ")
                continue
            made = Watched(runtime, here.clocks, here.wake, here.actors.names, partial(self._wanted, name))
            here.engines[name] = made
            made.start()

    def catch_up(self) -> None:
        """Let each engine be looked at again that has shown something of a machine while it was acted on."""
        for engine in self._here.engines.values():
            engine.catch_up()

    def joined(self) -> Joined:
        """What has to be done, by the last answer of each engine; one that cannot tell is a warning."""
        here = self._here
        observations = [engine.observation for engine in here.engines.values() if engine.observation is not None]
        joined = join(
            here.ledger.rows,
            observations,
            owner=here.owner,
            boot_id=here.boot_id,
            acted=here.actors.acted,
            busy=here.actors.busy,
        )
        for one in observations:
            if one.machines is not None:
                self._others[one.runtime] = tuple(seen for seen in joined.others if seen.runtime == one.runtime)
        silent = {**here.missing, **joined.silent}
        troubled = {name: why for name, why in silent.items() if self._wanted(name) or self._configured(name)}
        here.ledger.warnings.hold(Kind.RUNTIME, troubled)
        return joined

    def others(self) -> list[Seen]:
        """The machines of this host that are not ours, as last seen."""
        return [seen for found in self._others.values() for seen in found]

    def all_answered(self) -> bool:
        """Whether each engine has answered once, be it that it cannot tell."""
        return all(engine.observation is not None for engine in self._here.engines.values())

    def _wanted(self, runtime: str) -> bool:
        return any(row.runtime == runtime and not row.cleaned for row in self._here.ledger.rows.values())

    def _configured(self, runtime: str) -> bool:
        return any(type_.runtime == runtime for type_ in self._here.config.machinetypes.values())
