"""How the end of a machine is judged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmd.environment.outcome import CLASSES, TEXT_LIMIT, WORDS, Decided, Exit, Message, Why, judge, mapped, parse
from runtimes.contract import End, EndReason

CLEAN = End(reason=EndReason.CLEAN, exit_code=0)
MESSAGES = st.builds(lambda code, text: f"{code} {text}".encode(), st.integers(100, 799), st.text(max_size=30))
ENDS = st.none() | st.builds(
    End,
    reason=st.sampled_from(EndReason),
    exit_code=st.none() | st.integers(0, 255),
    detail=st.text(max_size=20),
)
ENDED_BY = st.none() | st.tuples(st.sampled_from(Why), st.text(max_size=10))


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        (b"200 Success\n", 200, "Success"),
        (b"300 No work", 300, "No work"),
        (b"\n\n  700   Two  blanks \n", 700, "Two blanks"),
        (b"200 Success\r\nand more", 200, "Success"),
        (b"200\tTabbed", 200, "Tabbed"),
        (b"799", 799, ""),
        (b"500 \xff\xfe broken", 500, "\ufffd\ufffd broken"),
        (b"400 \x1b[31mred\x1b[0m \x1b]0;title\x07\x00", 400, "red"),
    ],
)
def test_a_message_is_the_first_line_cleaned(content: bytes, code: int, text: str) -> None:
    assert parse(content) == Message(code, text)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"\n",
        b"done",
        b"99 low",
        b"800 high",
        b"2000 long",
        b"20 short",
        b"200ok",
        b"\xd9\xa2\xd9\xa0\xd9\xa0 x",
    ],
)
def test_what_has_no_code_of_100_to_799_is_no_message(content: bytes | None) -> None:
    assert parse(content) is None


def test_a_message_of_20_kilobytes_is_cut() -> None:
    message = parse(b"300 " + b"x" * 20_000)
    assert message is not None
    assert len(message.text) <= TEXT_LIMIT and message.text.endswith("…")


@given(st.binary(max_size=300))
def test_no_content_of_the_file_is_trusted(content: bytes) -> None:
    message = parse(content)
    if message is not None:
        assert 100 <= message.code <= 799
        assert "\n" not in str(message) and all(c.isprintable() or ord(c) > 0xA0 for c in message.text)


@given(MESSAGES, ENDS, ENDED_BY, st.floats(0, 1e6), st.floats(0, 1e4))
def test_the_words_of_the_payload_stand_whatever_else_happened(
    payload: bytes, end: End | None, ended_by: tuple[Why, str] | None, lifetime: float, fizzle: float
) -> None:
    codes = dict.fromkeys(range(256), "600 never this")
    outcome = judge(payload, end, codes, ended_by, lifetime=lifetime, fizzle=fizzle)
    assert outcome.message == parse(payload)
    assert outcome.decided is Decided.PAYLOAD


@given(st.none() | MESSAGES, ENDS, ENDED_BY, st.floats(0, 1e6), st.floats(0, 1e4))
def test_success_is_said_only_of_messages_of_100_to_299_and_of_clean_ends(
    payload: bytes | None, end: End | None, ended_by: tuple[Why, str] | None, lifetime: float, fizzle: float
) -> None:
    outcome = judge(payload, end, {3: "200 fine"}, ended_by, lifetime=lifetime, fizzle=fizzle)
    assert outcome.exit in Exit and outcome.meaning is not None
    if outcome.exit is Exit.SUCCESS:
        assert ended_by is None
        assert outcome.message.code < 300 if outcome.message else end is not None and end.reason is EndReason.CLEAN
    if outcome.message and outcome.message.code >= 300:
        assert outcome.exit is not Exit.SUCCESS


@pytest.mark.parametrize(
    ("why", "message", "exit_code"),
    [
        (Why.TIMED_OUT, "700 Passed shutdowntime", 12),
        (Why.HEARTBEAT_MISSING, "700 Heartbeat file not created", 13),
        (Why.HEARTBEAT_LOST, "700 Heartbeat file not updated", 13),
        (Why.QUOTA, "700 Joboutputs quota exceeded", 14),
        (Why.STOPPED, "100 Stopped by the operator", 15),
        (Why.INTERRUPTED, "100 lm run was interrupted", 15),
    ],
)
def test_a_machine_ended_from_outside_that_said_nothing_gets_a_message_and_an_exit_code(
    why: Why, message: str, exit_code: int
) -> None:
    outcome = judge(None, End(reason=EndReason.KILLED, exit_code=137), {}, (why, "detail"), lifetime=5, fizzle=0)
    assert (str(outcome.message), int(outcome.exit), outcome.decided) == (message, exit_code, Decided.SUPERVISOR)
    assert set(WORDS) == set(Why)


@pytest.mark.parametrize(
    ("payload", "exit_code"),
    [(b"100 Asked to end", 0), (b"200 Done", 0), (b"300 Nothing", 10), (b"400 Banned", 11), (b"799 x", 11)],
)
def test_the_class_of_the_message_decides_the_exit_code(payload: bytes, exit_code: int) -> None:
    assert judge(payload, CLEAN, {}, None, lifetime=5, fizzle=600).exit == exit_code


def test_what_ended_a_machine_shows_in_the_exit_code_even_where_its_payload_was_content() -> None:
    assert judge(b"200 Done", CLEAN, {}, (Why.QUOTA, "x"), lifetime=5, fizzle=0).exit is Exit.QUOTA
    assert judge(b"100 Asked", CLEAN, {}, (Why.INTERRUPTED, "x"), lifetime=5, fizzle=0).exit is Exit.STOPPED


def test_an_exit_code_means_what_the_type_says() -> None:
    end = End(reason=EndReason.FAILED, exit_code=75)
    outcome = judge(None, end, {75: "300 no work"}, None, lifetime=5, fizzle=600)
    assert (str(outcome.message), outcome.decided, outcome.exit) == ("300 no work", Decided.EXIT_CODE, Exit.NO_WORK)
    assert judge(None, CLEAN, {0: "300 no work"}, None, lifetime=5, fizzle=0).exit is Exit.NO_WORK


def test_the_exit_code_of_a_machine_that_ran_out_of_memory_is_not_its_payloads_word() -> None:
    end = End(reason=EndReason.OOM, exit_code=137)
    assert mapped({137: "300 no work"}, end) is None
    assert judge(None, end, {137: "300 no work"}, None, lifetime=5, fizzle=0).exit is Exit.FAILED


@pytest.mark.parametrize("reason", [r for r in EndReason if r is not EndReason.CLEAN])
def test_an_end_that_is_not_clean_is_a_failure_that_says_why(reason: EndReason) -> None:
    end = End(reason=reason, exit_code=3, detail="from the\x1b[2J engine\nmore")
    outcome = judge(None, end, {}, None, lifetime=5000, fizzle=600)
    assert outcome.message is not None
    assert (outcome.message.code, outcome.exit, outcome.decided) == (700, Exit.FAILED, Decided.ENGINE)
    assert "from the engine" in outcome.message.text and "\n" not in outcome.message.text


def test_a_failure_within_fizzle_seconds_names_the_age() -> None:
    outcome = judge(None, End(reason=EndReason.FAILED, exit_code=1), {}, None, lifetime=4.2, fizzle=600)
    assert str(outcome.message) == "700 exit code 1, 4 s after its start"


def test_a_clean_end_without_a_message_is_a_success_that_needs_none() -> None:
    outcome = judge(None, CLEAN, {}, None, lifetime=5, fizzle=600)
    assert (outcome.message, outcome.exit) == (None, Exit.SUCCESS)


@pytest.mark.parametrize(("lifetime", "message", "code"), [(5, "700 {}, 5 s after its start", 11), (900, "None", 0)])
def test_a_guest_that_went_off_without_a_word_is_told_as_that(lifetime: float, message: str, code: int) -> None:
    """Nobody knows an exit code; soon after its start it is a fault, however clean it looks."""
    words = "the guest switched itself off or rebooted"
    outcome = judge(None, End(reason=EndReason.CLEAN, detail=words), {}, None, lifetime=lifetime, fizzle=600)
    assert (str(outcome.message), int(outcome.exit)) == (message.format(words), code)
    assert outcome.detail == words


def test_exit_codes_stay_clear_of_those_of_shells_and_each_class_has_a_meaning() -> None:
    codes = [int(code) for code in Exit]
    assert len(set(codes)) == len(codes)
    assert not set(codes) & {1, 2, *range(64, 79), *range(126, 256)}
    assert set(CLASSES) == set(range(1, 8))
