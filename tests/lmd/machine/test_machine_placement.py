"""Virtual machines that are bound to processors of the host: each to its own."""

import os
from pathlib import Path

import pytest

from lmd.config.models import MachineType
from lmd.environment.directory import Directory
from lmd.environment.features import Allocation
from lmd.machine.placement import CannotPlace, choose, numbers
from lmd.machine.prepare import CannotPrepare, finish, prepare
from lmd.machine.spec import Plan
from lmd.machine.start import Start
from runtimes.contract import Boot, Image, ImageKind, Spec

HERE = sorted(os.sched_getaffinity(0))


def prepared(machines: Path, name: str, **keys: object) -> Spec:
    allocation = Allocation(
        job_id="j", processors=1, memory_bytes=2**30, started=1000.0, shutdown_time=4600.0, grace=30
    )
    type_ = MachineType(**{"name": "t", "root_image": "lmd:a", "isolation": "vm", "entrypoint": ["/x"], **keys})
    plan = Plan(
        id=name,
        owner="run:0",
        space="s",
        machinetype=type_,
        image=Image(kind=ImageKind.ROOT_DIRECTORY, location="/"),
        allocation=allocation,
        start=Start(boot=Boot(kernel=Path("/k"))),
    )
    return prepare(plan, Directory(machines / name), runtime="kvm", host="h", version="v", supervisor=os.getpid())


def test_machines_are_bound_to_processors_that_no_other_is_bound_to_until_it_has_ended(tmp_path: Path) -> None:
    for number, cpu in enumerate(HERE[:2]):
        placement = prepared(tmp_path, f"m-{number}", pinning=True).placement
        assert placement is not None
        assert placement.cpus == (cpu,)
    for number in range(2, len(HERE)):
        prepared(tmp_path, f"m-{number}", pinning=True)
    with pytest.raises(CannotPrepare, match="1 processors are to be bound, and 0 are bound to no other machine"):
        prepared(tmp_path, "m-more", pinning=True)
    assert not (tmp_path / "m-more").exists()
    first = Directory(tmp_path / "m-0")
    finish(first, first.load(), {"outcome": "success"})
    placement = prepared(tmp_path, "m-next", pinning=True).placement
    assert placement is not None
    assert placement.cpus == (HERE[0],)


def test_a_type_that_asks_for_nothing_is_placed_nowhere(tmp_path: Path) -> None:
    assert prepared(tmp_path, "m-0").placement is None


def test_huge_pages_have_the_size_that_the_kernel_has(tmp_path: Path) -> None:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Hugepagesize"))
    placement = prepared(tmp_path, "m-0", hugepages=True).placement
    assert placement is not None
    assert placement.hugepage_bytes == int(line.split()[1]) * 1024


def test_a_node_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotPrepare, match="numa_node is 1000, and this host has no such node"):
        prepared(tmp_path, "m-0", numa_node=1000)


def test_processors_are_read_as_the_kernel_lists_them() -> None:
    assert numbers("0-2,8\n") == [0, 1, 2, 8]
    assert numbers("\n") == []
    assert choose([3, 1, 2], [2], 2) == (1, 3)
    with pytest.raises(CannotPlace):
        choose([1], [], 2)
