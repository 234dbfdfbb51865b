"""The contract's suite passes on the fake runtime, and is run as its users expect."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from runtimes.conformance import CHECKS, Check, Context, Outcome, run, run_one
from runtimes.conformance.check import check as make_check
from runtimes.contract import Unavailable
from runtimes.fake import Fake

SHELL_WORDS = ("no shell", "no processes")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
async def test_the_fake_keeps_the_contract(check: Check, make_fake_context: Callable[..., Context]) -> None:
    result = await run_one(check, make_fake_context())
    if result.outcome is Outcome.NOT_APPLICABLE:
        assert any(words in result.reason for words in SHELL_WORDS), result.reason
    else:
        assert result.outcome is Outcome.PASSED, result.reason


async def test_results_come_one_by_one_and_each_machine_is_gone_before_its_result(
    make_fake_context: Callable[..., Context],
) -> None:
    context = make_fake_context()
    names = []
    async for result in run(context, CHECKS[:3]):
        names.append(result.check.name)
        assert await context.make().machines() == []
    assert names == [check.name for check in CHECKS[:3]]


async def test_a_clean_up_that_fails_turns_passed_into_failed(make_fake_context: Callable[..., Context]) -> None:
    class CannotDestroy(Fake):
        async def destroy(self, machine_id: str) -> None:
            raise Unavailable("gone fishing")

    (check,) = [check for check in CHECKS if check.name == "created-is-listed-with-stamps"]
    result = await run_one(check, make_fake_context(CannotDestroy))
    assert result.outcome is Outcome.FAILED
    assert "gone fishing" in result.reason


async def test_a_check_is_cut_off_at_its_deadline(make_fake_context: Callable[..., Context]) -> None:
    @make_check("this takes for ever")
    async def endless(bench: object) -> None:
        await asyncio.sleep(3600)

    result = await run_one(endless, replace(make_fake_context(), deadline=0.1))
    assert (result.outcome, result.reason) == (Outcome.FAILED, "no result within 0.1 s")


def test_names_are_unique_and_sentences_are_sentences() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(0 <= check.invariant <= 6 and len(check.sentence) > 20 for check in CHECKS)
