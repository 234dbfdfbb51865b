"""Processors that machines are to be bound to and that the host has not: told before anybody wonders."""

import os

import pytest
from factory_ground import Site, config, machinetype, running, until

from lmd.config.models import MachineType
from lmd.factory.budget import unbindable


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def pinned(name: str, **keys: object) -> MachineType:
    return machinetype(name, **({"runtime": "kvm", "isolation": "vm", "pinning": True} | keys))


@pytest.mark.parametrize(
    ("total", "types", "about"),
    [
        (2, [pinned("a")], []),
        (3, [pinned("a")], [""]),
        (3, [pinned("a"), machinetype("free")], []),
        (3, [pinned("a"), machinetype("free", target_share=0.0)], [""]),
        (3, [pinned("a", target_share=0.0)], []),
        (2, [pinned("a", min_processors=3), machinetype("free")], ["a"]),
        (2, [pinned("a", numa_node=1000), machinetype("free")], ["a"]),
        (9, [machinetype("free", min_processors=3)], []),
    ],
)
def test_what_bound_processors_make_impossible_is_found(total: int, types: list[MachineType], about: list[str]) -> None:
    found = unbindable(total, types)
    assert list(found) == about
    assert all("lower" in text and "pinning or numa_node" in text for text in found.values())


async def test_it_is_a_warning_until_it_is_mended(site: Site) -> None:
    def keys() -> set[str]:
        return {warning.key for warning in factory.ledger.warnings.open() if warning.kind == "pinning"}

    free = machinetype("work")
    async with site.running(config(free, total=3)) as factory:
        before = set(await running(factory, 3))
        factory.reconfigure(config(pinned("vm", min_processors=3), total=3))
        await until(lambda: keys() == {"pinning:", "pinning:vm"})
        assert "bound to 2 on this host" in factory.ledger.warnings.get("pinning:vm").text
        factory.reconfigure(config(pinned("vm"), free, total=3))
        await until(lambda: not keys())
        assert factory.ledger.warnings.get("pinning:").resolved
        assert before == set(factory.ledger.rows)
