"""Ranges of user ids: who gets which, and when there is none left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.contract import Exhausted
from runtimes.idranges import DEFAULT_FIRST, MACHINE_IDS, IdRange, free_range, parse_subordinate, pool


def test_the_first_machine_gets_the_beginning_of_the_pool() -> None:
    assert free_range(pool(), []) == IdRange(DEFAULT_FIRST, MACHINE_IDS)


def test_a_pool_of_sixteen_machines_has_no_room_for_a_seventeenth() -> None:
    available = pool(200_000, 16 * MACHINE_IDS)
    taken = [200_000 + number * MACHINE_IDS for number in range(16)]
    with pytest.raises(Exhausted, match="has room for 16"):
        free_range(available, taken)


def test_ranges_promised_to_users_are_passed_over() -> None:
    assert (
        free_range(pool(100_000, 10 * MACHINE_IDS), [], [IdRange(150_000, 65_536)]).first == 100_000 + 2 * MACHINE_IDS
    )


@pytest.mark.parametrize(("first", "count"), [(0, MACHINE_IDS), (MACHINE_IDS, 10), (2**32 - 100, MACHINE_IDS)])
def test_a_pool_that_holds_root_or_no_machine_is_refused(first: int, count: int) -> None:
    with pytest.raises(ValueError, match="user id pool"):
        pool(first, count)


@given(
    st.lists(st.integers(0, 40)), st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(1, 200_000)), max_size=5)
)
def test_a_range_that_is_given_is_nobody_else_s(numbers: list[int], reserved: list[tuple[int, int]]) -> None:
    available = pool(100_000, 40 * MACHINE_IDS)
    taken = [100_000 + number * MACHINE_IDS for number in numbers]
    others = [IdRange(*pair) for pair in reserved]
    try:
        found = free_range(available, taken, others)
    except Exhausted:
        return
    assert found.first not in taken
    assert not any(found.overlaps(other) for other in others)
    assert available.first <= found.first <= available.first + available.count - MACHINE_IDS


def test_lines_that_are_no_ranges_are_passed_over() -> None:
    text = "user:100000:65536\n# a comment\nbroken:x:1\nuser:300000:5\n\nother:1:2:3\n"
    assert parse_subordinate(text) == {"user": [IdRange(100000, 65536), IdRange(300000, 5)]}
