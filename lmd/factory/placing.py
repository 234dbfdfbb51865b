"""Where a machine of a type can be made now, and of which image; or why not."""

from lmd import engines
from lmd.choosing import offer
from lmd.config.models import MachineType
from lmd.factory import drains
from lmd.factory.host import Premises
from lmd.factory.ready import Ready
from lmd.machine.material import Material
from lmd.machine.spec import needed
from lmd.repositories.keeping import Keeping
from runtimes.contract import Spec

Placed = tuple[str, Material]
"""The runtime's name, and what the machine is made of."""


class Placing:
    """Places machinetypes on the engines of one factory."""

    def __init__(self, here: Premises, ready: Ready, repositories: Keeping) -> None:
        self._here, self._ready, self._repositories = here, ready, repositories
        self._needs: dict[str, tuple[MachineType, Spec | None]] = {}

    def all(self) -> tuple[dict[str, str], dict[str, Placed]]:
        """Why types cannot be started now; and for the others, on which runtime and of which image."""
        unusable: dict[str, str] = {}
        chosen: dict[str, Placed] = {}
        for name, type_ in self._here.config.machinetypes.items():
            if not type_.target_share:
                continue
            found = self.placed(type_)
            if isinstance(found, str):
                unusable[name] = found
            else:
                chosen[name] = found
        return unusable, chosen

    def placed(self, type_: MachineType) -> Placed | str:
        """The runtime and the image for a machine of this type, or why it cannot be started now."""
        here = self._here
        if drained := drains.type_draining(here, type_.name):
            return drained
        backoff = here.ledger.backoffs.get(type_.name)
        if backoff and 0 < backoff["until"] - here.clocks.wall() <= backoff["seconds"]:
            return f"machines of it cannot be started: {backoff['reason']}"
        names = engines.fitting(type_)
        wanted = self._needed(type_)
        problems = {name: self._unfit(name, type_, wanted) for name in names}
        usable = [name for name in names if not problems[name]]
        if not usable:
            return f"no runtime for it is available: {'; '.join(f'{n}: {problems[n]}' for n in names)}"
        if broken := self._repositories.problem(type_):
            return broken
        image = self._ready.image(type_, here.engines[usable[0]].runtime)
        return image if isinstance(image, str) else (usable[0], image)

    def _needed(self, type_: MachineType) -> Spec | None:
        """What a type asks of a runtime, found out once for each configuration."""
        kept = self._needs.get(type_.name)
        if kept is None or kept[0] is not type_:
            kept = self._needs[type_.name] = (type_, needed(type_))
        return kept[1]

    def _unfit(self, name: str, type_: MachineType, wanted: Spec | None) -> str:
        """Why a runtime cannot be asked for a machine of this type now; "" if it can."""
        engine = self._here.engines.get(name)
        if engine is None:
            return self._here.missing.get(name, "is not installed")
        if not engine.usable or engine.probe is None:
            return engine.problem
        return "; ".join(offer(name, engine.probe, wanted, type_.isolation).lacking)
