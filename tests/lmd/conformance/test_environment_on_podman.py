"""The environment's suite on real Podman, with crun and with runc."""

import pytest

from lmd.conformance import CHECKS, Check, Ground, Outcome, run_one


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
async def test_podman_gives_the_environment(check: Check, ground: Ground) -> None:
    result = await run_one(check, ground)
    assert result.outcome is Outcome.PASSED, result.reason
