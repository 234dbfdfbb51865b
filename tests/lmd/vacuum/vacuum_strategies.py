"""Anything that the decision's arguments allow, sensible and not."""

import math

from hypothesis import strategies as st

from lmd.vacuum.facts import Factory, Machine, Phase, Rules, TypeRules
from lmd.vacuum.space import Report, Space, TypeReport, summarise

NOW = 1_800_000_000.0
NAMES = ["one", "two", "eight", "idle", "gone"]

odd_numbers = st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf, 1e300, 1e-300])
times = st.one_of(st.floats(NOW - 90_000, NOW + 90_000), st.sampled_from([0.0, NOW, NOW + 3e8, NOW - 3e8]))
maybe_times = st.none() | times | odd_numbers
wild_seconds = st.one_of(st.floats(0, 200_000), odd_numbers)


def machines() -> st.SearchStrategy[Machine]:
    """Machines with holes in their history."""
    return st.builds(
        Machine,
        id=st.uuids().map(str),
        machinetype=st.none() | st.sampled_from(NAMES),
        phase=st.sampled_from(Phase),
        processors=st.integers(-1, 20),
        created=times,
        started=st.none() | times,
        finished=st.none() | times,
        shutdown_time=maybe_times,
        told=st.none() | times,
        code=st.none() | st.integers(100, 799),
        excused=st.booleans(),
        idle=st.booleans(),
        memory_bytes=st.integers(-1, 10**12),
        disk_bytes=st.integers(-1, 10**12),
    )


def wild_kind(name: str) -> st.SearchStrategy[TypeRules]:
    """A machinetype whose rules need not make sense."""
    return st.builds(
        TypeRules,
        name=st.just(name),
        target_share=st.one_of(st.floats(0.01, 10), odd_numbers),
        machinegroup=st.none() | st.sampled_from(["a", "b"]),
        min_processors=st.integers(-1, 2000),
        max_processors=st.integers(-1, 2000),
        min_wallclock_seconds=wild_seconds,
        max_wallclock_seconds=wild_seconds,
        backoff_seconds=wild_seconds,
        fizzle_seconds=wild_seconds,
        grace_secs=wild_seconds,
        memory_bytes_per_processor=st.integers(-1, 10**11),
        disk_bytes=st.integers(-1, 10**11),
        interruptible=st.booleans(),
        idle=st.booleans(),
    )


def sane_kind(name: str) -> st.SearchStrategy[TypeRules]:
    """A machinetype as a checked configuration has them."""

    def made(share: float, low: int, more: int, least: int, longer: int, flags: tuple[bool, bool]) -> TypeRules:
        return TypeRules(
            name=name,
            target_share=share,
            min_processors=low,
            max_processors=low + more,
            min_wallclock_seconds=least,
            max_wallclock_seconds=least + longer,
            backoff_seconds=600,
            fizzle_seconds=600,
            memory_bytes_per_processor=2**31,
            interruptible=flags[0],
            idle=flags[1] and name == "idle",
        )

    flags = st.tuples(st.booleans(), st.booleans())
    return st.builds(
        made,
        st.floats(0.01, 10),
        st.sampled_from([1, 1, 2, 8]),
        st.integers(0, 8),
        st.sampled_from([600, 3600, 86400]),
        st.sampled_from([0, 3600, 86400]),
        flags,
    )


def factories(low: int = -1, high: int = 1100) -> st.SearchStrategy[Factory]:
    """Factories of any size."""
    return st.builds(
        Factory,
        name=st.just("wn1"),
        total_processors=st.integers(low, high),
        cpus=st.none() | st.integers(0, 2000),
        hs06_per_processor=st.none() | odd_numbers | st.floats(1, 30),
        memory_bytes=st.none() | st.integers(0, 2**42),
        free_memory_bytes=st.none() | st.integers(0, 2**42),
        free_disk_bytes=st.none() | st.integers(0, 2**44),
        load=st.none() | odd_numbers | st.floats(0, 100),
        draining=st.none() | st.sampled_from(["", "repairs"]),
        shutdown_time=maybe_times,
        unusable=st.dictionaries(st.sampled_from(NAMES), st.just("no such runtime"), max_size=2),
    )


type_reports = st.builds(
    TypeReport,
    machinetype=st.sampled_from(NAMES),
    running_hs06=st.one_of(st.floats(0, 1e5), odd_numbers),
    running_processors=st.one_of(st.floats(0, 1e5), odd_numbers),
    running_machines=st.integers(-1, 10**9),
    num_before_fizzle=st.integers(-1, 10**9),
    last_abort=maybe_times,
    proven=maybe_times,
)
reports = st.builds(
    Report,
    factory=st.sampled_from(["wn1", "wn2", "wn3"]),
    sent=times | odd_numbers,
    received=times | odd_numbers,
    free_processors=st.none() | st.floats(0, 100) | odd_numbers,
    types=st.lists(type_reports, max_size=6).map(tuple),
)
spaces = st.builds(
    lambda told, averages: summarise(NOW, told, this="wn1", averages=averages),
    st.lists(reports, max_size=5),
    st.dictionaries(st.sampled_from(NAMES), st.one_of(st.floats(0, 1e6), odd_numbers), max_size=4),
)
rules = st.builds(
    Rules,
    processors_per_superslot=st.integers(-1, 64),
    overload_per_processor=st.one_of(st.floats(0.1, 3), odd_numbers),
    share_by_hs06=st.booleans(),
    max_starting_machines=st.none() | st.integers(-1, 50),
)
wild_kinds = st.tuples(*(wild_kind(name) for name in NAMES[:4])).map(list)
sane_kinds = st.tuples(*(sane_kind(name) for name in NAMES[:4])).map(list)
no_space = st.just(Space())
