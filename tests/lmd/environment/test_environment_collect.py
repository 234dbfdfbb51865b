"""Outputs brought home: what is copied, what is left out, and that nothing is written elsewhere."""

import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmd.environment.collect import Collected, CollectError, collect, stays

MANY = 10**12


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder for the outputs; it does not exist yet."""
    return tmp_path / "home"


def copied(outputs: Path, home: Path, most_bytes: int = MANY, most_files: int = 10_000) -> Collected:
    return collect(outputs, home, most_bytes=most_bytes, most_files=most_files)


def test_files_and_directories_come_home(outputs: Path, home: Path) -> None:
    (outputs / "sub" / "empty").mkdir(parents=True)
    (outputs / "sub" / "result").write_bytes(b"42\n")
    os.utime(outputs / "sub" / "result", (1_600_000_000, 1_600_000_000))
    report = copied(outputs, home)
    assert (report.files, report.directories, report.bytes, report.left_out) == (1, 2, 3, ())
    assert (home / "sub" / "result").read_bytes() == b"42\n"
    assert (home / "sub" / "result").stat().st_mtime == 1_600_000_000
    assert (home / "sub" / "empty").is_dir()


def test_outputs_that_are_not_there_leave_an_empty_folder(outputs: Path, home: Path) -> None:
    assert copied(outputs / "none", home) == Collected()
    assert list(home.iterdir()) == []


def test_an_empty_folder_is_used_and_any_other_is_refused_untouched(outputs: Path, home: Path) -> None:
    (outputs / "result").write_bytes(b"new")
    home.mkdir()
    copied(outputs, home)
    with pytest.raises(CollectError, match="is not empty"):
        copied(outputs, home)
    (home / "result").unlink()
    home.rmdir()
    home.write_text("a file")
    with pytest.raises(CollectError, match="home"):
        copied(outputs, home)
    assert home.read_text() == "a file"


def test_names_keep_every_byte_and_are_told_in_print(outputs: Path, home: Path) -> None:
    names = {"\udcff\udcfe", "new\nline", "\x1b[2J", " ", "-rf", "\\"}
    for name in names:
        (outputs / name).touch()
    os.mkfifo(outputs / "fifo\n\x1b\udcff")
    report = copied(outputs, home)
    assert {path.name for path in home.iterdir()} == names
    assert report.left_out == ("fifo\\n\\x1b\\xff: a fifo",)


@pytest.mark.usefixtures("special_files")
def test_what_is_no_file_stays_and_is_named(outputs: Path, home: Path) -> None:
    report = copied(outputs, home)
    assert {line.split(":")[0] for line in report.left_out} >= {"fifo", "socket", "link", "directory_link"}
    assert report.left_out_count == len(report.left_out)
    assert [path.name for path in home.iterdir()] == ["dangling"]
    if os.geteuid() == 0:
        assert "device: a device" in report.left_out


@pytest.mark.parametrize(
    ("text", "depth", "harmless"),
    [
        ("file", 0, True),
        ("../file", 1, True),
        ("../../a/b", 2, True),
        ("..", 1, True),
        ("...", 0, True),
        ("..", 0, False),
        ("../../x", 1, False),
        ("/etc/shadow", 5, False),
        ("a/../b", 5, False),  # `a` may be a link, and then `..` is wherever that leads
        ("./../..", 5, False),
        ("a//b", 5, False),
        ("", 5, False),
    ],
)
def test_a_link_is_harmless_if_it_steps_up_only_in_front_and_not_above_the_top(
    text: str, depth: int, harmless: bool
) -> None:
    assert stays(text, depth) is harmless


@example(links={"a": ".", "b": "a/a/../.."})
@given(
    links=st.dictionaries(
        st.sampled_from(["a", "b", "d/a", "d/e/b"]),
        st.lists(st.sampled_from(["..", ".", "a", "b", "d", "e", "d/e"]), min_size=1, max_size=6).map("/".join),
    )
)
def test_no_set_of_copied_links_leads_out_of_the_folder(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, str]
) -> None:
    top = tmp_path_factory.mktemp("links")
    source, home = top / "source", top / "inner" / "home"
    (source / "d" / "e").mkdir(parents=True)
    for name, text in links.items():
        (source / name).symlink_to(text)
    copied(source, home)
    for name in links:
        if (home / name).is_symlink():
            try:
                resolved = (home / name).resolve(strict=True)
            except (OSError, RuntimeError):
                continue  # leads nowhere, or in a circle
            assert resolved.is_relative_to(home.resolve())


def test_links_within_the_outputs_are_kept(outputs: Path, home: Path) -> None:
    (outputs / "sub").mkdir()
    (outputs / "result").write_text("x")
    (outputs / "sub" / "latest").symlink_to("../result")
    report = copied(outputs, home)
    assert report.links == 1
    assert (home / "sub" / "latest").readlink() == Path("../result")


def test_copies_belong_to_the_caller_and_nobody_else_may_write_them(outputs: Path, home: Path) -> None:
    before = os.umask(0)
    try:
        for name, mode in (("setuid", 0o6777), ("read_only", 0o444), ("plain", 0o644)):
            (outputs / name).touch()
            (outputs / name).chmod(mode)
        (outputs / "folder").mkdir()
        (outputs / "folder").chmod(0o3777)
        if os.geteuid() == 0:
            os.chown(outputs / "plain", 200_000, 200_000)
        copied(outputs, home)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()}
    assert modes == {"setuid": 0o755, "read_only": 0o644, "plain": 0o644, "folder": 0o755}
    assert {path.stat().st_uid for path in home.iterdir()} == {os.geteuid()}


def test_a_sparse_file_of_ten_gigabytes_comes_home_sparse(outputs: Path, home: Path) -> None:
    with (outputs / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(10**10)
        file.write(b"end")
    report = copied(outputs, home, most_bytes=10**6)
    found = (home / "sparse").stat()
    assert (found.st_size, report.files) == (10**10 + 3, 1)
    assert found.st_blocks * 512 < 10**5 and report.bytes < 10**5
    with (home / "sparse").open("rb") as file:
        assert file.read(5) == b"begin"
        file.seek(10**10)
        assert file.read() == b"end"


def test_a_file_that_ends_in_a_hole_keeps_its_length(outputs: Path, home: Path) -> None:
    (outputs / "hole").write_bytes(b"x")
    os.truncate(outputs / "hole", 1_000_001)
    copied(outputs, home)
    assert (home / "hole").read_bytes() == b"x" + bytes(1_000_000)


def test_what_does_not_fit_is_left_out_whole_and_smaller_files_still_come(outputs: Path, home: Path) -> None:
    (outputs / "a").write_bytes(b"a" * 40_000)
    (outputs / "b").write_bytes(b"b" * 80_000)
    (outputs / "c").write_bytes(b"c" * 40_000)
    report = copied(outputs, home, most_bytes=100_000)
    assert report.left_out == ("b: a file that does not fit into the limit on bytes",)
    assert sorted(path.name for path in home.iterdir()) == ["a", "c"]
    assert report.bytes == 80_000


def test_no_more_entries_are_looked_at_than_the_limit_says(outputs: Path, home: Path) -> None:
    for number in range(300):
        (outputs / str(number)).touch()
    report = copied(outputs, home, most_files=100)
    assert report.files == 100
    assert report.left_out == ("…: too many files: these were not looked at",)


def test_a_file_of_many_names_is_copied_once(outputs: Path, home: Path) -> None:
    (outputs / "one").write_bytes(b"x" * 60_000)
    (outputs / "sub").mkdir()
    for number in range(50):
        (outputs / "sub" / str(number)).hardlink_to(outputs / "one")
    report = copied(outputs, home, most_bytes=100_000)
    assert (report.files, report.bytes, report.left_out) == (51, 60_000, ())
    assert (home / "sub" / "49").stat().st_ino == (home / "one").stat().st_ino


def test_thousands_of_levels_are_copied_as_deep_as_is_sensible(
    outputs: Path, home: Path, nest: Callable[[int], None]
) -> None:
    nest(3000)
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    report = copied(outputs, home)
    assert report.directories == 255
    assert report.left_out_count == 1 and "deeper than 256" in report.left_out[0]
    assert len(report.left_out[0]) < 400
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_a_file_that_grows_all_the_time_is_read_to_where_it_began(outputs: Path, home: Path) -> None:
    (outputs / "log").write_bytes(b"x" * 1_000_000)
    stop = threading.Event()

    def grow() -> None:
        with (outputs / "log").open("ab") as file:
            while not stop.is_set() and file.tell() < 200_000_000:
                file.write(b"y" * 100_000)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        report = copied(outputs, home)
    finally:
        stop.set()
        writer.join()
    assert report.files == 1
    assert (home / "log").stat().st_size == report.bytes <= (outputs / "log").stat().st_size


def test_only_the_first_thousand_left_out_are_named(outputs: Path, home: Path) -> None:
    for number in range(1100):
        os.mkfifo(outputs / str(number))
    report = copied(outputs, home)
    assert (len(report.left_out), report.left_out_count) == (1000, 1100)


@pytest.mark.usefixtures("swapper")
def test_no_race_of_the_writer_brings_a_foreign_file_home_or_writes_outside(
    outputs: Path, tmp_path: Path, secret: Path
) -> None:
    last, number, homes = time.monotonic() + 1.2, 0, tmp_path / "homes"
    names: set[str] = set()
    while time.monotonic() < last:
        number += 1
        home = homes / str(number)
        report = copied(outputs, home)
        names |= {line.rpartition(": ")[2].split(" to ")[0] for line in report.left_out}
        for path in home.rglob("*"):
            if path.is_symlink():
                assert path.readlink() == Path("target")
            elif path.is_file():
                assert path.read_text() in ("", "harmless")
    assert {"a fifo", "a link"} <= names and number > 5, "or the race was none"
    assert secret.read_text() == "root:secret"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["homes", "joboutputs", "secret"]


def test_a_folder_that_takes_no_more_is_reported(outputs: Path) -> None:
    (outputs / "big").write_bytes(b"x")
    with pytest.raises(CollectError, match="/proc"):
        copied(outputs, Path("/proc/lmd-home"))
