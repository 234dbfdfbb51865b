"""Machines as the decision is told of them: kept between passes, and never older than what is known."""

from dataclasses import replace

from factory_ground import Site, config, machinetype, running

from lmd.factory import facts
from lmd.vacuum.facts import Machine


async def test_what_is_kept_of_machines_is_what_would_be_worked_out_anew(site: Site) -> None:
    configured = config(machinetype("work"), total=2)
    async with site.running(configured) as factory:
        rows = dict(await running(factory, 2))
    boot_id, types = factory.boot_id, configured.machinetypes
    kept = facts.Machines(site.clocks, boot_id)

    def agree() -> list[Machine]:
        told = kept.machines(rows.values(), types)
        for one, row in zip(told, rows.values(), strict=True):
            new = facts.machine(row, site.clocks, boot_id, types)
            assert abs(one.shutdown_time - new.shutdown_time) < 1
            assert abs(one.created - new.created) < 1
            assert (one.phase, one.machinetype, one.processors) == (new.phase, new.machinetype, new.processors)
        return told

    first = agree()
    assert [one is again for one, again in zip(first, agree(), strict=True)] == [True, True]
    name = min(rows)
    rows[name] = replace(rows[name], deadline=rows[name].deadline - 3600)
    second = agree()
    assert [one is again for one, again in zip(first, second, strict=True)].count(True) == 1
    site.clocks.shift = 3600  # the wall clock is set
    agree()
    types = {}  # the type is configured no longer
    assert [one.machinetype for one in agree()] == [None, None]
    del rows[name]
    assert len(agree()) == 1
