"""Virtual machines: what of a type, and of what its image says, becomes their spec."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from images.described import Described
from lmd.config.models import MachineType
from lmd.environment.directory import Directory
from lmd.environment.features import Allocation
from lmd.machine.spec import PLACES, Plan, spec
from lmd.machine.start import NoCommand, Start
from runtimes.contract import Boot, Image, ImageKind, Spec

BOOT = Boot(kernel=Path("/k"), initramfs=Path("/i"))
SAID = Described(
    image_id="sha256:" + "a" * 64,
    architecture="amd64",
    diff_ids=(),
    entrypoint=("/entry", "point"),
    command=("of", "the image"),
    environment={"PATH": "/opt/bin", "FROM": "image"},
    user="nobody:users",
    working_directory="/work",
)


def made(start: Start, kind: ImageKind = ImageKind.ROOT_DIRECTORY, **keys: object) -> Spec:
    allocation = Allocation(
        job_id="3f6c", processors=2, memory_bytes=2**30, started=1000.0, shutdown_time=4600.0, grace=30
    )
    type_ = MachineType(**{"name": "t", "root_image": "lmd:busybox", "isolation": "vm", **keys})
    image = Image(kind=kind, location="/r")
    plan = Plan(id="m-1", owner="run:0", space="s", machinetype=type_, image=image, allocation=allocation, start=start)
    return spec(plan, Directory(Path("/d")), PLACES, [])


@pytest.mark.parametrize(
    ("keys", "said", "runs"),
    [
        ({}, SAID, (("/entry", "point"), ("of", "the image"))),
        ({"args": ["other"]}, SAID, (("/entry", "point"), ("other",))),
        ({"args": []}, SAID, (("/entry", "point"), ())),
        ({"entrypoint": ["/mine"]}, SAID, (("/mine",), ())),
        ({"user_data": "/u", "args": ["x"]}, SAID, (("/user_data",), ("x",))),
        ({}, replace(SAID, entrypoint=()), (("of", "the image"), ())),
        ({"entrypoint": ["/mine"], "args": ["x"]}, None, (("/mine",), ("x",))),
    ],
)
def test_it_runs_what_a_container_of_the_image_would(
    keys: dict[str, object], said: Described | None, runs: tuple[object, object]
) -> None:
    found = made(Start(boot=BOOT, described=said), **keys)
    assert (found.entrypoint, found.args) == runs


def test_what_an_image_says_of_variables_user_and_folder_holds_unless_the_type_says_more() -> None:
    found = made(Start(boot=BOOT, described=SAID), environment={"FROM": "type"})
    assert (found.environment["PATH"], found.environment["FROM"]) == ("/opt/bin", "type")
    assert found.environment["MACHINEFEATURES"] == "/etc/machinefeatures"
    assert (found.user, found.working_directory) == ("nobody:users", PurePosixPath("/work"))
    assert made(Start(boot=BOOT, described=SAID), user_data="/u").user == "0:0"
    assert made(Start(boot=BOOT, described=SAID), entrypoint=["/x"], user="1:2").user == "1:2"


def test_it_has_the_environment_in_the_same_places_and_a_disk_as_large_as_the_type_says() -> None:
    found = made(Start(boot=BOOT, described=SAID), user_data="/u", disk_gb_per_processor=3, kernel_arguments="")
    assert {str(mount.target) for mount in found.mounts} >= {"/etc/machinefeatures", "/user_data"}
    assert (found.boot, found.disk_bytes, found.uuid) == (BOOT, 6 * 10**9, "3f6c")
    assert made(Start(boot=BOOT, described=SAID)).disk_bytes is None


def test_directories_on_disk_have_a_quota_although_the_type_says_none() -> None:
    assert made(Start(boot=BOOT, described=SAID), tmp_binds=["/scratch"]).disk_bytes == 2 * 40 * 10**9
    assert (
        made(Start(boot=BOOT, described=SAID), tmp_binds=["/scratch"], disk_gb_per_processor=1).disk_bytes == 2 * 10**9
    )


def test_an_image_that_names_no_command_needs_one() -> None:
    with pytest.raises(NoCommand, match="give user_data or an entrypoint"):
        made(Start(boot=BOOT))
    with pytest.raises(NoCommand):
        made(Start(boot=BOOT, described=replace(SAID, entrypoint=(), command=())))


def test_a_system_of_its_own_is_given_nothing_that_it_would_not_see() -> None:
    found = made(Start(), ImageKind.DISK_QCOW2, machine_model="vm-raw", root_image="/i", user_data="/u")
    assert (found.entrypoint, found.args, found.mounts, found.environment) == (None, None, (), {})
    assert found.boot is None
    assert found.disk_bytes is None
    assert (found.limits.processors, found.limits.memory_bytes, found.limits.pids) == (2, 2**30, None)


def test_a_cernvm_has_the_disk_that_vac_gave_it() -> None:
    found = made(Start(), ImageKind.BOOT_ISO, machine_model="cernvm4", root_image="/i", user_data="/u")
    assert found.disk_bytes == 2 * 40 * 10**9
