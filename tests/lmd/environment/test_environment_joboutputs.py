"""Joboutputs read as hostile input: sizes, small files, heartbeats, removal."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lmd.environment import trees
from lmd.environment.joboutputs import Refused, Size, age, leave, listing, measure, read_small

MANY = 10**12


def test_a_tree_is_measured_on_the_disk_and_by_length(outputs: Path) -> None:
    (outputs / "sub").mkdir()
    (outputs / "sub" / "file").write_bytes(b"x" * 10_000)
    size = measure(outputs, most_bytes=MANY, most_files=100)
    assert (size.files, size.apparent_bytes, size.complete, size.unreadable) == (2, 10_000, True, 0)
    assert 10_000 <= size.bytes <= 10_000 + 2 * 4096 + 512


def test_nothing_there_is_nothing(outputs: Path) -> None:
    assert measure(outputs, most_bytes=0, most_files=0) == measure(outputs / "no", most_bytes=0, most_files=0) == Size()


def test_a_sparse_file_costs_what_it_takes_on_the_disk(outputs: Path) -> None:
    with (outputs / "sparse").open("wb") as file:
        file.truncate(10**10)
    size = measure(outputs, most_bytes=10**6, most_files=10)
    assert size.apparent_bytes == 10**10
    assert size.bytes < 10**5 and size.complete


def test_a_file_of_two_names_takes_its_place_once(outputs: Path) -> None:
    (outputs / "one").write_bytes(b"x" * 100_000)
    (outputs / "two").hardlink_to(outputs / "one")
    size = measure(outputs, most_bytes=MANY, most_files=10)
    assert size.files == 2
    assert size.apparent_bytes == 100_000
    assert size.bytes < 200_000


def test_counting_stops_as_soon_as_a_limit_is_passed(outputs: Path) -> None:
    for number in range(1500):
        (outputs / str(number)).touch()
    size = measure(outputs, most_bytes=MANY, most_files=500)
    assert (size.files, size.complete) == (501, False)
    (outputs / "a").write_bytes(b"x" * 100_000)
    assert not measure(outputs, most_bytes=50_000, most_files=2000).complete


def test_two_thousand_files_are_counted_in_a_fraction_of_a_second(outputs: Path) -> None:
    for number in range(2000):
        (outputs / str(number)).touch()
    began = time.process_time()
    measure(outputs, most_bytes=MANY, most_files=2000)
    assert time.process_time() - began < 0.2


def test_links_are_counted_and_never_followed(outputs: Path) -> None:
    (outputs / "loop").symlink_to(".")
    (outputs / "root").symlink_to("/")
    size = measure(outputs, most_bytes=MANY, most_files=100)
    assert (size.files, size.apparent_bytes) == (2, 0)


def test_thousands_of_levels_count_as_more_files_than_any_limit(outputs: Path, nest: Callable[[int], None]) -> None:
    nest(3000)
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    size = measure(outputs, most_bytes=MANY, most_files=10**6)
    assert size.files > 10**6 and not size.complete
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_a_hundred_levels_are_counted_exactly(outputs: Path, nest: Callable[[int], None]) -> None:
    nest(100)
    assert measure(outputs, most_bytes=MANY, most_files=10**6).files == 101


def test_names_may_hold_any_byte(outputs: Path) -> None:
    names = {"\udcff\udcfe", "new\nline", "\x1b[2J", " ", "-rf", "\\"}
    for name in names:
        (outputs / name).touch()
    assert measure(outputs, most_bytes=MANY, most_files=100).files == 6
    assert {entry.path for entry in listing(outputs, most_files=100)} == names


@pytest.mark.usefixtures("special_files")
def test_a_listing_says_what_each_entry_is_and_ends_at_its_limit(outputs: Path) -> None:
    (outputs / "sub").mkdir()
    (outputs / "sub" / "file").write_bytes(b"12345")
    found = {entry.path: (entry.kind, entry.bytes) for entry in listing(outputs, most_files=100)}
    assert found["sub/file"] == ("a file", 5)
    assert {found[name][0] for name in ("fifo", "socket", "link", "sub")} == {
        "a fifo",
        "a socket",
        "a link",
        "a directory",
    }
    assert len(listing(outputs, most_files=3)) == 3


def test_a_directory_that_shuts_its_owner_out_is_told(outputs: Path) -> None:
    (outputs / "shut").mkdir(mode=0)
    size = measure(outputs, most_bytes=MANY, most_files=100)
    assert size.unreadable == (0 if os.geteuid() == 0 else 1)


def test_a_small_file_is_read_whole(outputs: Path) -> None:
    (outputs / "shutdown_message").write_bytes(b"200 Done\n")
    assert read_small(outputs, "shutdown_message", 9) == b"200 Done\n"
    assert read_small(outputs, "other", 9) is None
    assert read_small(outputs / "nowhere", "other", 9) is None


def test_a_file_beyond_the_limit_is_refused(outputs: Path) -> None:
    with (outputs / "shutdown_message").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(Refused, match="shutdown_message is larger than 65536 bytes"):
        read_small(outputs, "shutdown_message", 65_536)


@pytest.mark.usefixtures("special_files")
@pytest.mark.parametrize("name", ["fifo", "socket", "link", "directory_link", "dangling", "device", "sub"])
def test_what_is_no_file_is_refused_at_once(outputs: Path, name: str) -> None:
    (outputs / "sub").mkdir()
    if name == "device" and os.geteuid() != 0:
        name = "fifo"  # only root can have a device made
    with pytest.raises(Refused, match=f"{name} is a"):
        read_small(outputs, name, 100)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../secret", "a\0b"])
def test_only_the_name_of_one_entry_is_taken(outputs: Path, name: str) -> None:
    for call in (
        lambda: read_small(outputs, name, 1),
        lambda: age(outputs, name, 0),
        lambda: leave(outputs, name, b""),
    ):
        with pytest.raises(ValueError, match="not the name of one file"):
            call()


def test_joboutputs_that_are_a_link_are_not_read(outputs: Path, tmp_path: Path, secret: Path) -> None:
    (tmp_path / "linked").symlink_to(secret.parent)
    with pytest.raises(Refused):
        read_small(tmp_path / "linked", "secret", 100)
    assert measure(tmp_path / "linked", most_bytes=MANY, most_files=100) == Size(unreadable=1)


@pytest.mark.usefixtures("swapper")
def test_no_race_of_the_writer_makes_a_link_or_a_fifo_be_read(outputs: Path) -> None:
    read, refused = 0, 0
    last = time.monotonic() + 1
    while time.monotonic() < last:
        try:
            content = read_small(outputs, "shutdown_message", 100)
        except Refused:
            refused += 1
            continue
        assert content in (None, b"", b"harmless")
        read += content == b"harmless"
    assert read and refused, "both must have happened, or the race was none"


@pytest.mark.usefixtures("swapper")
def test_a_tree_that_changes_is_measured_within_its_bounds(outputs: Path) -> None:
    last = time.monotonic() + 1
    while time.monotonic() < last:
        assert measure(outputs, most_bytes=MANY, most_files=1000).files < 30


def test_the_age_of_a_heartbeat_is_that_of_its_last_touch(outputs: Path) -> None:
    (outputs / "heartbeat").touch()
    now = time.time()
    found = age(outputs, "heartbeat", now + 100)
    assert found is not None and 99 < found < 101
    assert age(outputs, "other", now) is None


def test_a_heartbeat_cannot_be_dated_into_the_future(outputs: Path) -> None:
    (outputs / "heartbeat").touch()
    os.utime(outputs / "heartbeat", (2**33, 2**33))
    found = age(outputs, "heartbeat", time.time() + 100)
    assert found is not None and found > 99


@pytest.mark.usefixtures("special_files")
def test_only_a_file_is_a_heartbeat(outputs: Path) -> None:
    assert [age(outputs, name, time.time()) for name in ("fifo", "link", "directory_link")] == [None] * 3


def test_a_message_is_left_only_where_there_is_none(outputs: Path, secret: Path) -> None:
    assert leave(outputs, "shutdown_message", b"700 Passed shutdowntime\n")
    assert not leave(outputs, "shutdown_message", b"200 Other\n")
    assert (outputs / "shutdown_message").read_bytes() == b"700 Passed shutdowntime\n"
    (outputs / "linked").symlink_to(secret.with_name("made"))
    assert not leave(outputs, "linked", b"x")
    assert not secret.with_name("made").exists()


def test_a_tree_of_any_depth_is_removed(outputs: Path, nest: Callable[[int], None]) -> None:
    nest(3000)
    trees.remove(outputs)
    assert not outputs.exists()


@pytest.mark.usefixtures("special_files")
def test_removing_follows_no_link_and_minds_no_kind_mode_or_name(outputs: Path, secret: Path) -> None:
    for name in ("shut", "shut/in", "other", "other/\udcff\n"):
        (outputs / name).mkdir()
    (outputs / "other" / "loop").symlink_to("..")
    (outputs / "shut" / "in" / "file").touch()
    (outputs / "shut" / "in").chmod(0)
    (outputs / "shut").chmod(0)
    trees.remove(outputs)
    assert not outputs.exists()
    assert secret.read_text() == "root:secret"


def test_a_directory_of_many_entries_below_another_is_removed(outputs: Path) -> None:
    (outputs / "many").mkdir()
    for number in range(1200):
        (outputs / "many" / str(number)).touch()
    trees.remove(outputs)
    assert not outputs.exists()
    trees.remove(outputs)


def test_removing_a_link_removes_the_link(outputs: Path, secret: Path) -> None:
    (outputs / "link").symlink_to(secret.parent)
    trees.remove(outputs / "link")
    assert secret.exists() and not (outputs / "link").is_symlink()


def test_a_link_in_the_place_of_a_directory_is_not_entered(outputs: Path, secret: Path) -> None:
    (outputs / "link").symlink_to(secret.parent)
    with trees.directory(outputs) as top, pytest.raises(NotADirectoryError):
        trees.open_directory("link", top)
