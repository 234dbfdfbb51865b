import math

import pytest

from lmd.vacuum import why
from lmd.vacuum.accounting import advance
from lmd.vacuum.decision import Code, Refusal

NOW = 1_800_000_000.0
BACKOFF = Refusal(
    machinetype="atlas", code=Code.BACKOFF, sentence="waits 600 s after m1 ended with code 300", until=NOW + 180
)
MEMORY = Refusal(machinetype="lhcb", code=Code.MEMORY, sentence="it needs 4.0 GiB of memory, 1.0 GiB are free")


def test_a_reason_is_a_line_with_the_time_at_which_it_may_change() -> None:
    (line,) = why.lines(NOW, [BACKOFF, MEMORY], "atlas")
    assert line.startswith("atlas: back-off: waits 600 s after m1 ended with code 300; may change at 2027-01-15 ")
    assert line.endswith("(in 3 min)")
    assert list(why.lines(NOW, [MEMORY])) == ["lhcb: memory: it needs 4.0 GiB of memory, 1.0 GiB are free"]


@pytest.mark.parametrize("until", [math.nan, math.inf, -1e300, 1e300, NOW - 5])
def test_a_time_that_nobody_can_read_is_left_out_and_one_that_has_passed_is_any_moment(until: float) -> None:
    (line,) = why.lines(NOW, [Refusal(machinetype="a", code=Code.DISK, sentence="full", until=until)])
    assert line.startswith("a: disk: full")
    assert ("any moment" in line) == (until == NOW - 5)


def test_an_average_forgets_over_its_window() -> None:
    halves = advance({}, {"a": 10.0}, 3600 * math.log(2), 3600)
    assert halves["a"] == pytest.approx(5.0)
    assert advance(halves, {}, 3600 * math.log(2), 3600)["a"] == pytest.approx(2.5)


@pytest.mark.parametrize("seconds", [-5.0, 0.0, math.nan, math.inf, 1e300])
def test_a_clock_that_jumps_makes_no_nonsense_of_averages(seconds: float) -> None:
    found = advance({"a": 4.0}, {"a": math.inf, "b": 1.0}, seconds, 3600)
    assert all(0 <= value < 1e12 for value in found.values())
    assert advance({"a": 4.0}, {"a": 1.0}, seconds, 0) == {}
