"""The console file: what is kept of how much, and what a crash does to it."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmd.environment import console
from lmd.environment.console import Console, gap, read, tail

HEAD, CAP = 1000, 8000


def lines(first: int, last: int) -> bytes:
    return b"".join(b"%07d\n" % number for number in range(first, last))


def missing(content: bytes) -> int:
    """The bytes that the file says are missing."""
    return sum(int(found[1]) for found in console._GAP.finditer(content))


def without_gaps(content: bytes) -> bytes:
    return console._GAP.sub(b"", content)


def test_what_fits_is_kept_as_it_is(tmp_path: Path) -> None:
    file = Console(tmp_path / "console.log", CAP, head=HEAD)
    file.append(b"hello ")
    file.append(b"\xff\x1b[31m world\n")
    file.close()
    assert read(tmp_path / "console.log") == b"hello \xff\x1b[31m world\n"
    assert (tmp_path / "console.log").stat().st_mode & 0o777 == 0o600


def test_a_shouting_machine_leaves_its_beginning_its_end_and_one_line_between(tmp_path: Path) -> None:
    written = lines(0, 100_000)
    file = Console(tmp_path / "console.log", CAP, head=HEAD)
    for start in range(0, len(written), 777):
        file.append(written[start : start + 777])
        assert (tmp_path / "console.log").stat().st_size <= CAP
    file.close()
    content = read(tmp_path / "console.log")
    assert content.startswith(written[:HEAD] + b"\n[lmd: ")
    assert content.count(b"left out here") == 1
    kept = content[console._GAP.search(content).end() :]  # type: ignore[union-attr]
    assert len(kept) >= CAP // 2 and written.endswith(kept)
    assert kept[:8].endswith(b"\n"), "the kept end begins with a whole line"
    assert HEAD + missing(content) + len(kept) == len(written)


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.integers(0, 5000), st.sampled_from([0, 0, 0, 1, 12345])), max_size=40),
    newline=st.sampled_from([7, 100, 10**9]),
    reopen=st.sets(st.integers(0, 40)),
)
def test_no_byte_goes_uncounted(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, int]], newline: int, reopen: set[int]
) -> None:
    path = tmp_path_factory.mktemp("console") / "console.log"
    file, sent, lost = Console(path, CAP, head=HEAD), b"", 0
    for number, (length, skipped) in enumerate(pieces):
        data = bytes(
            10 if (len(sent) + i) % newline == newline - 1 else 97 + (len(sent) + i) % 26 for i in range(length)
        )
        file.append(data, skipped)
        sent, lost = sent + data, lost + skipped
        if number in reopen:
            file.close()
            file = Console(path, CAP, head=HEAD)
        assert path.stat().st_size <= CAP + CAP // 8 + 100
    file.close()
    content = read(path)
    assert len(without_gaps(content)) + missing(content) == len(sent) + lost
    assert content[:HEAD] == sent[:HEAD] or lost
    if not lost:
        assert content.endswith(sent[-CAP // 2 :])


def test_lost_output_is_marked_where_it_is_missing(tmp_path: Path) -> None:
    file = Console(tmp_path / "console.log", CAP, head=HEAD)
    file.append(b"before")
    file.append(b"after", skipped=321)
    file.close()
    assert read(tmp_path / "console.log") == b"before\n[lmd: 321 bytes of console output left out here]\nafter"


def test_another_process_goes_on_where_a_crash_left_off(tmp_path: Path) -> None:
    path, written = tmp_path / "console.log", lines(0, 5000)
    first = Console(path, CAP, head=HEAD)
    first.append(written[:20_001])
    first.close()
    (tmp_path / ".console.log.part").write_bytes(b"half a rewrite")
    second = Console(path, CAP, head=HEAD)
    for start in range(20_001, len(written), 1000):
        second.append(written[start : start + 1000])
    second.close()
    content = read(path)
    assert content.count(b"left out here") == 1
    assert len(without_gaps(content)) + missing(content) == len(written)
    assert [entry.name for entry in tmp_path.iterdir()] == ["console.log"]


def test_the_cost_of_a_byte_does_not_grow_with_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    actual = Console._write
    monkeypatch.setattr(
        Console, "_write", lambda self, file, data: (written.append(len(data)), actual(self, file, data))
    )
    file = Console(tmp_path / "console.log", 1_000_000)
    for _ in range(2000):
        file.append(b"x" * 10_000)
    file.close()
    assert sum(written) < 3 * 20_000_000


def test_the_smallest_cap_keeps_its_first_64_kilobytes_and_its_last_half(tmp_path: Path) -> None:
    path, written = tmp_path / "console.log", lines(0, 200_000)
    file = Console(path, 131_072)
    for start in range(0, len(written), 50_000):
        file.append(written[start : start + 50_000])
    file.close()
    content = read(path)
    assert content.startswith(written[:65_536]) and content.endswith(written[-65_536:])
    assert len(content) <= 65_536 + 131_072 * 3 // 4


def test_a_console_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "console.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        Console(tmp_path / "console.log", CAP)
    assert not (tmp_path / "elsewhere").exists()


def test_the_tail_is_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    assert tail(path, 3) == read(path) == b""
    path.write_bytes(b"one\ntwo\nthree\n")
    assert tail(path, 2) == b"two\nthree\n"
    assert tail(path, 9) == b"one\ntwo\nthree\n"
    assert tail(path, 0) == b""
    path.write_bytes(b"one\ntwo")
    assert tail(path, 1) == b"two"
    assert gap(3).count(b"\n") == 2
