"""The contract's conformance suite on real Podman, with crun and with runc."""

from dataclasses import replace
from pathlib import Path

import pytest

from runtimes.conformance.check import Check, Outcome
from runtimes.conformance.checks import CHECKS
from runtimes.conformance.for_podman import podman_context
from runtimes.conformance.runner import run_one
from runtimes.contract import Image

NOT_FOR_CONTAINERS: frozenset[str] = frozenset({"signal-is-told-as-killed"})


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
async def test_podman_keeps_the_contract(
    check: Check, podman, podman_image: Image, short_tmp: Path, slower: float
) -> None:
    directory = podman.directory / "bench" / check.name
    directory.mkdir(parents=True)
    context = podman_context(podman.settings, directory, podman_image)
    result = await run_one(check, replace(context, deadline=context.deadline * slower))
    if result.outcome is Outcome.NOT_APPLICABLE:
        assert check.name in NOT_FOR_CONTAINERS, result.reason
    else:
        assert result.outcome is Outcome.PASSED, result.reason
