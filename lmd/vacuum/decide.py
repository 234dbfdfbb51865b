"""What this factory starts now, what it ends early, and why not more. The daemon and the simulator call this alike."""

from collections.abc import Iterable, Sequence

from lmd.vacuum.decision import Decision
from lmd.vacuum.facts import Factory, Machine, Rules, TypeRules
from lmd.vacuum.filling import Filling
from lmd.vacuum.space import Space


def decide(
    now: float,
    factory: Factory,
    machines: Sequence[Machine],
    space: Space,
    kinds: Iterable[TypeRules],
    rules: Rules,
    *,
    seed: int = 0,
) -> Decision:
    """One pass over this factory: fills its free processors. Pure, and the same for the same arguments.

    `machines`: all of this factory that are alive, and those that ended lately. `space`: the other factories, from
    `space.summarise`; `Space()` where there are none. `seed` settles ties, and should change from pass to pass.
    Never raises for anything that the arguments' types allow.
    """
    filling = Filling(now, factory, machines, space, {kind.name: kind for kind in kinds}, rules, seed)
    filling.judge()
    filling.fill()
    filling.fill_idle()
    filling.end_at_shutdown()
    return Decision(
        starts=tuple(filling.starts), endings=tuple(filling.endings.values()), refusals=tuple(filling.refusals())
    )
