"""Free processors filled: the decision asked, what it says written down, then done."""

from collections.abc import Mapping
from functools import partial

from lmd.config.models import MachineType
from lmd.factory import drains, facts, plans
from lmd.factory.acts import Acts
from lmd.factory.host import Premises
from lmd.factory.observing import Observing
from lmd.factory.placing import Placed, Placing
from lmd.factory.rows import Row
from lmd.machine.material import Material
from lmd.machine.spec import Plan
from lmd.vacuum.configured import kinds, rules
from lmd.vacuum.decide import decide
from lmd.vacuum.decision import Decision, Start
from lmd.vacuum.space import Space


class Filling:
    """Starts machines in one factory."""

    def __init__(self, here: Premises, observing: Observing, placing: Placing, acts: Acts) -> None:
        self._here, self._observing, self._placing, self._acts = here, observing, placing, acts
        self._told = facts.Machines(here.clocks, here.boot_id)

    def decide(self, seed: int) -> tuple[Decision, Mapping[str, Placed]]:
        """The decision for now, and where each type that can be started is made."""
        here = self._here
        unusable, chosen = self._placing.all()
        machines = self._told.machines(here.ledger.rows.values(), here.config.machinetypes)
        machines += [booked for seen in self._observing.others() if (booked := facts.other(seen)) is not None]
        decision = decide(
            here.clocks.wall(),
            facts.factory(
                here.name,
                here.config,
                total=here.total,
                machines=here.places.machines,
                draining=drains.draining(here),
                unusable=unusable,
                shutdown_time=drains.shutdown_time(here),
            ),
            machines,
            Space(),
            kinds(here.config),
            rules(here.config),
            seed=seed,
        )
        return decision, chosen

    def free(self) -> int:
        """Processors that no machine holds."""
        others = (facts.other(seen) for seen in self._observing.others())
        booked = sum(row.processors for row in self._here.ledger.live() if not row.idle)
        return self._here.total - booked - sum(one.processors for one in others if one is not None)

    async def start(self, starts: tuple[Start, ...], chosen: Mapping[str, Placed]) -> None:
        """All that was decided in one transaction, then all at the same time."""
        types = self._here.config.machinetypes
        made = [
            self.planned(types[start.machinetype], start, *chosen[start.machinetype], detached=False)
            for start in starts
            if start.machinetype in chosen
        ]
        if made:
            await self.begin(made)

    def planned(
        self, type_: MachineType, start: Start, runtime: str, material: Material, *, detached: bool
    ) -> tuple[Plan, Row]:
        """A machine on paper, and its row; also of a type that is not configured here."""
        here = self._here
        return plans.planned(
            type_,
            start,
            runtime,
            material,
            name=here.name,
            settings=here.config.settings,
            wall=here.clocks.wall(),
            boot=here.clocks.boot(),
            boot_id=here.boot_id,
            detached=detached,
        )

    async def begin(self, machines: list[tuple[Plan, Row]]) -> bool:
        """Write the machines down, then make them; False, and nothing is made, if they cannot be written."""
        ledger = self._here.ledger
        for _, row in machines:
            ledger.set(row)
        if not await ledger.flush():
            for _, row in machines:
                ledger.drop(row.id)
            return False
        for plan, row in machines:
            self._here.do(row.id, partial(self._acts.start, plan, row.runtime))
        return True
