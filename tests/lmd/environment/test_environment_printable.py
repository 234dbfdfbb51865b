"""Text of machines made fit to be shown."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmd.environment import printable
from lmd.environment.printable import Stream


def harmless(text: str) -> bool:
    return all(character in "\n\t" or character.isprintable() or ord(character) > 0xA0 for character in text)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"plain \xc3\xa9 text\n", "plain é text\n"),
        (b"\x1b[31;1mred\x1b[0m", "red"),
        (b"\x1b]0;a title\x07after", "after"),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1bP+q544e\x1b\\x", "x"),
        (b"\x1b(Bx\x1bc", "x"),
        (b"half\rover", "half\nover"),
        (b"dos\r\n", "dos\n"),
        (b"bell\x07 back\x08 nul\x00", "bell back nul"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("evil\u202egpj.exe \u2066x".encode(), "evilgpj.exe x"),
        ("c1 \x9b31m csi".encode(), "c1  csi"),
        (b"tab\tkept", "tab\tkept"),
    ],
)
def test_nothing_that_drives_a_terminal_is_left(written: bytes, shown: str) -> None:
    assert printable.decoded(written) == shown


@given(st.binary(max_size=200))
def test_no_bytes_at_all_give_a_control_character(data: bytes) -> None:
    text = printable.decoded(data)
    assert harmless(text)
    assert "\x1b" not in text and "\r" not in text


PIECES = b"\x1b|[3|1m|a|\r|\n|\xc3|\xa9|]0;t|\x07|(B|\\|\xc2\x9b|\xc2\x9d|P| ".split(b"|")


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES)))
def test_pieces_of_a_stream_show_the_same_as_the_whole(pieces: list[bytes]) -> None:
    stream = Stream()
    shown = "".join(stream.feed(piece) for piece in pieces) + stream.feed(b"", final=True)
    assert shown == printable.decoded(b"".join(pieces))


def test_a_sequence_that_never_ends_does_not_hold_back_the_stream() -> None:
    stream = Stream()
    shown = stream.feed(b"\x1b]0;") + "".join(stream.feed(b"x" * 1000) for _ in range(10))
    assert len(shown) > 4000


def test_a_line_is_the_first_that_is_not_blank_with_single_blanks_and_cut() -> None:
    assert printable.line(b"\n \n  200\t all   done \r\nmore", 100) == "200 all done"
    assert printable.line(b"x" * 10_000_000, 10) == "x" * 9 + "…"
    assert printable.line(b"", 10) == ""
    assert printable.line(b"\x1b[2J\x1b[H", 10) == ""


def test_a_name_is_one_line_in_which_different_names_differ() -> None:
    assert printable.name(b"a\nb") == "a\\nb"
    assert printable.name(b"a\\nb") == "a\\\\nb"
    assert printable.name("caf\udcff") == "caf\\xff"
    assert printable.name("café\u202e") == "café\\u202e"


@given(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=20))
def test_names_that_differ_are_shown_differently_and_in_print(one: bytes, other: bytes) -> None:
    assert printable.name(one).isprintable()
    if one != other:
        assert printable.name(one) != printable.name(other)
