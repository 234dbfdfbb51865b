"""A machine's directory: modes, atomic changes, the record, removal."""

import json
import os
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lmd.environment import features
from lmd.environment.directory import Directory, DirectoryError, Record, found, process, supervised
from lmd.environment.features import Allocation
from lmd.environment.identity import boot_id

RECORD = Record(
    id="host-aaaaaaaaaaaaa",
    job_id="a-job",
    runtime="podman",
    owner="run:0",
    space="lm-run",
    machinetype="example",
    digest="0" * 64,
    processors=2,
    created=1_700_000_000.5,
    shutdown_time=1_700_000_600.0,
    boot_id="0c0ffee0-1111-2222-3333-444455556666",
    grace=30,
    supervisor=(12, 3456),
)
GIVEN = Allocation(
    job_id="a-job", processors=2, memory_bytes=2**31, started=1_700_000_000, shutdown_time=1_700_000_600, grace=30
)


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    made = Directory(tmp_path / "machines" / RECORD.id)
    made.make(features.machinefeatures(GIVEN), features.jobfeatures(GIVEN))
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_modes_are_ours_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    directory = Directory(tmp_path / "machine")
    before = os.umask(umask)
    try:
        directory.make({"total_cpu": "2"}, {"job_id": "x"})
        directory.put_user_data(b"#!/bin/sh\n")
        secret = directory.put_secret(0, b"token")
        directory.save(RECORD)
        directory.ask_to_stop("somebody")
    finally:
        os.umask(before)
    assert mode(directory.path) == 0o711
    assert mode(directory.machinefeatures) == mode(directory.jobfeatures) == 0o755
    assert mode(directory.machinefeatures / "total_cpu") == 0o644
    assert mode(directory.joboutputs) == 0o1777
    assert mode(directory.user_data) == 0o500
    assert (mode(directory.secrets), mode(secret)) == (0o711, 0o400)
    assert mode(directory.path / "machine.json") == mode(directory.path / "stop") == 0o600


def test_a_feature_is_a_file_with_the_plain_value(directory: Directory) -> None:
    assert (directory.machinefeatures / "total_cpu").read_bytes() == b"2"
    assert (directory.jobfeatures / "wall_limit_secs").read_bytes() == b"600"


def test_a_half_written_directory_is_completed(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "machine")
    directory.machinefeatures.mkdir(parents=True, mode=0o700)
    (directory.machinefeatures / ".total_cpu.part").write_text("2")
    (directory.machinefeatures / "total_cpu").write_text("")
    directory.make({"total_cpu": "2"}, {"job_id": "x"})
    assert [path.name for path in directory.machinefeatures.iterdir()] == ["total_cpu"]
    assert (directory.machinefeatures / "total_cpu").read_bytes() == b"2"
    assert mode(directory.machinefeatures) == 0o755


def test_user_data_and_secrets_can_be_written_again(directory: Directory) -> None:
    for content in (b"first", b"second"):
        directory.put_user_data(content)
        assert directory.put_secret(7, content).read_bytes() == content
    assert directory.user_data.read_bytes() == b"second"


def test_an_earlier_shutdown_time_is_seen_at_once_through_an_open_directory(directory: Directory) -> None:
    bound = os.open(directory.jobfeatures, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert directory.move_shutdown_time(1_700_000_300.9) == 1_700_000_300
        file = os.open("shutdowntime_job", os.O_RDONLY, dir_fd=bound)
        assert os.read(file, 100) == b"1700000300"
        os.close(file)
    finally:
        os.close(bound)
    assert directory.shutdown_time() == 1_700_000_300
    assert mode(directory.machinefeatures / "shutdowntime") == 0o644


def test_a_shutdown_time_never_moves_later(directory: Directory) -> None:
    assert directory.move_shutdown_time(1_900_000_000) == 1_700_000_600
    assert (directory.jobfeatures / "shutdowntime_job").read_text() == "1700000600"


def test_a_move_that_a_crash_cut_in_two_is_completed_by_the_next(directory: Directory) -> None:
    (directory.machinefeatures / "shutdowntime").write_text("1700000100")  # the job's file was not reached
    assert directory.move_shutdown_time(1_700_000_100) == 1_700_000_100
    assert (directory.jobfeatures / "shutdowntime_job").read_text() == "1700000100"


def test_an_unreadable_shutdown_time_is_replaced(directory: Directory) -> None:
    (directory.machinefeatures / "shutdowntime").write_text("soon")
    assert directory.shutdown_time() is None
    assert directory.move_shutdown_time(1_700_000_100) == 1_700_000_100
    assert directory.shutdown_time() == 1_700_000_100


def test_a_reader_never_sees_a_part_of_a_value(directory: Directory) -> None:
    path, seen, stop = directory.machinefeatures / "shutdowntime", set(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for second in range(200):
            directory.move_shutdown_time(1_700_000_600 - second)
    finally:
        stop.set()
        reader.join()
    assert seen and seen <= {str(1_700_000_600 - second).encode() for second in range(200)}


def test_a_record_comes_back_as_it_was_saved(directory: Directory) -> None:
    for record in (RECORD, replace(RECORD, supervisor=None, outcome={"outcome": {"message": "200 Done"}, "n": [1]})):
        directory.save(record)
        assert directory.load() == record


def test_a_field_that_a_later_lm_adds_does_no_harm(directory: Directory) -> None:
    directory.save(RECORD)
    path = directory.path / "machine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "blue"}))
    assert directory.load() == RECORD


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"\x00" * 100, "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[1, 2]", "damaged"),
        (b"{}", "no schema"),
        (b'{"schema": 1}', "id"),
        (b'{"schema": 99}', "version 99"),
        (b"[" * 100_000, "damaged"),
    ],
)
def test_a_damaged_record_is_reported_in_one_line(directory: Directory, content: bytes, said: str) -> None:
    (directory.path / "machine.json").write_bytes(content)
    with pytest.raises(DirectoryError, match=said) as caught:
        directory.load()
    assert "machine.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 5},
        {"created": "yesterday"},
        {"supervisor": [1]},
        {"supervisor": ["1", "2"]},
        {"outcome": "fine"},
        {"boot_id": None},
    ],
)
def test_a_field_of_the_wrong_type_is_named(directory: Directory, wrong: dict[str, object]) -> None:
    directory.save(RECORD)
    path = directory.path / "machine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(DirectoryError, match=next(iter(wrong))):
        directory.load()


def test_a_missing_record_is_reported(directory: Directory) -> None:
    with pytest.raises(DirectoryError, match=r"machine\.json: No such file"):
        directory.load()


def test_a_place_that_takes_no_files_is_reported() -> None:
    directory = Directory(Path("/proc/self"))
    with pytest.raises(DirectoryError, match="machine"):
        directory.save(RECORD)


def test_machines_are_found_by_their_directories(tmp_path: Path, directory: Directory) -> None:
    assert [machine.path.name for machine in found(tmp_path / "machines")] == [RECORD.id]
    assert found(tmp_path / "nowhere") == []


def test_whoever_stops_a_machine_is_remembered(directory: Directory) -> None:
    assert directory.asked_to_stop() is None
    directory.ask_to_stop("lm stop by root")
    assert directory.asked_to_stop() == "lm stop by root"


def test_a_removed_directory_is_gone_and_removing_it_again_is_success(directory: Directory) -> None:
    directory.put_user_data(b"x")
    directory.put_secret(0, b"x")
    directory.save(RECORD)
    directory.remove()
    assert not directory.path.exists()
    directory.remove()


def test_this_process_supervises_and_another_of_its_number_does_not() -> None:
    here = process(os.getpid())
    assert here is not None
    mine = replace(RECORD, boot_id=boot_id(), supervisor=here)
    assert supervised(mine)
    assert not supervised(replace(mine, supervisor=(here[0], here[1] + 1)))
    assert not supervised(replace(mine, boot_id="another"))
    assert not supervised(replace(mine, supervisor=None))


def test_a_dead_process_supervises_nothing_even_before_it_is_waited_for() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        alive = process(child.pid)
        assert alive is not None
        child.kill()
        last = time.monotonic() + 10
        while process(child.pid) is not None:
            assert time.monotonic() < last
            time.sleep(0.01)
        assert Path(f"/proc/{child.pid}").exists(), "it must still be a zombie for this test to say anything"
    finally:
        child.kill()
        child.communicate()
    assert process(child.pid) is None
