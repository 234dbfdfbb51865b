"""When a running machine has to end, and the spec that it is made from."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from lmd.config.models import MachineType
from lmd.environment.directory import Directory
from lmd.environment.features import Allocation
from lmd.environment.outcome import Why
from lmd.machine.known import NotOne, Phase, join, pick
from lmd.machine.rules import Observed, Terms, reason_to_end
from lmd.machine.spec import PLACES, Plan, spec, targets
from lmd.machine.start import Start
from lmd.machine.supervise import Clock, Heartbeat
from runtimes.contract import Image, ImageKind

TERMS = Terms(
    started=1000.0,
    shutdown_time=5000.0,
    fizzle_seconds=600,
    heartbeat_file="hb",
    heartbeat_seconds=60,
    outputs_bytes=100,
    outputs_files=10,
)
WELL = Observed(heartbeat_age=5, outputs_bytes=100, outputs_files=10)


@pytest.mark.parametrize(
    ("now", "seen", "why"),
    [
        (1700, WELL, None),
        (1700, replace(WELL, outputs_bytes=101), Why.QUOTA),
        (1001, replace(WELL, outputs_files=11), Why.QUOTA),
        (5000, WELL, Why.TIMED_OUT),
        (4999, WELL, None),
        (1599, replace(WELL, heartbeat_age=None), None),
        (1600, replace(WELL, heartbeat_age=None), Why.HEARTBEAT_MISSING),
        (1600, replace(WELL, heartbeat_age=60), None),
        (1600, replace(WELL, heartbeat_age=61), Why.HEARTBEAT_LOST),
        (1599, replace(WELL, heartbeat_age=61), None),
    ],
)
def test_a_machine_ends_when_a_rule_says_so(now: float, seen: Observed, why: Why | None) -> None:
    found = reason_to_end(TERMS, seen, now)
    assert (found[0] if found else None) == why


def test_heartbeat_seconds_of_0_ask_for_the_file_alone() -> None:
    assert reason_to_end(replace(TERMS, heartbeat_seconds=0), replace(WELL, heartbeat_age=1e6), 4000) is None


def test_a_clock_that_jumps_makes_no_heartbeat_old() -> None:
    heart = Heartbeat()
    assert heart.age(1.0, wall=10_000.0, now=50.0) == 0
    assert heart.age(11.0, wall=10_010.0, now=60.0) == 10
    assert heart.age(3615.0, wall=13_614.0, now=64.0) == 14  # the wall clock went an hour ahead, the file did not move
    assert heart.age(None, wall=13_700.0, now=65.0) is None


def test_the_clock_of_a_life_does_not_follow_the_wall() -> None:
    boot = iter([100.0, 100.0, 160.0])
    clock = Clock(1_000_000.0, boot=lambda: next(boot))
    assert clock() == 1_000_000.0
    assert clock() == 1_000_060.0


def plan(**changes: object) -> Plan:
    allocation = Allocation(
        job_id="j", processors=2, memory_bytes=2**30, started=1000.0, shutdown_time=4600.0, grace=30
    )
    image = Image(kind=ImageKind.REFERENCE, location="i")
    type_ = MachineType(name="t", root_image="i", **changes)
    return Plan(id="m-1", owner="run:0", space="s", machinetype=type_, image=image, allocation=allocation)


def test_user_data_is_the_command_of_root_unless_there_is_an_entrypoint() -> None:
    made = spec(plan(user_data="/u", args=["a"]), Directory(Path("/d")), PLACES, [])
    assert (made.entrypoint, made.args, made.user) == (("/user_data",), ("a",), "0:0")
    made = spec(plan(user_data="/u", entrypoint=["/bin/x"]), Directory(Path("/d")), PLACES, [])
    assert (made.entrypoint, made.user) == (("/bin/x",), None)
    assert PurePosixPath("/user_data") in [mount.target for mount in made.mounts]


def test_the_image_s_own_command_runs_where_the_type_names_none() -> None:
    made = spec(plan(), Directory(Path("/d")), PLACES, [])
    assert (made.entrypoint, made.args) == (None, None)


def test_the_engine_s_own_end_comes_after_shutdown_time_and_grace() -> None:
    made = spec(plan(), Directory(Path("/d")), PLACES, [])
    assert made.lifetime_seconds is not None
    assert made.lifetime_seconds > 3600 + 30


def test_secrets_are_mounted_for_the_machine_s_root_alone() -> None:
    made = spec(plan(secret_files={"/root/token": "/t"}), Directory(Path("/d")), PLACES, [Path("/d/secrets/0")])
    [mount] = [mount for mount in made.mounts if mount.target == PurePosixPath("/root/token")]
    assert (mount.source, mount.read_only, mount.owned_by_machine) == (Path("/d/secrets/0"), True, True)


def test_a_root_directory_without_mount_points_has_its_environment_aside() -> None:
    image = Image(kind=ImageKind.ROOT_DIRECTORY, location="/r")
    found = targets(replace(plan(), image=image), {PurePosixPath("/user_data"): True})
    assert found["user_data"] == PurePosixPath("/user_data")
    assert found["JOBOUTPUTS"] == PurePosixPath("/run/lmd/joboutputs")
    assert targets(plan(), {}) == PLACES
    assert targets(replace(plan(), image=image, start=Start()), {}) == PLACES, "a virtual machine makes mount points"


def test_a_silent_engine_s_machines_are_unknown_and_never_lost() -> None:
    from lmd.engines import Answer

    here = {"m-1": (Directory(Path("/d/m-1")), "damaged", False)}
    assert [m.phase for m in join([Answer("podman", problem="no answer")], here)] == [Phase.UNKNOWN]
    assert [m.phase for m in join([Answer("podman")], here)] == [Phase.LOST]


def test_part_of_an_id_is_enough_if_only_one_machine_has_it() -> None:
    from lmd.engines import Answer

    here = {name: (Directory(Path("/d") / name), "damaged", False) for name in ("wn-abc", "wn-abd", "x-abc")}
    machines = join([Answer("podman")], here)
    assert pick(machines, "abd").id == "wn-abd"
    assert pick(machines, "x-abc").id == "x-abc"
    for wanted in ("abc", "wn", "none", ""):
        with pytest.raises(NotOne):
            pick(machines, wanted)
