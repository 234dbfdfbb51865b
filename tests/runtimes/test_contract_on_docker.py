"""The contract's conformance suite on real Docker, as it comes and with mapped user ids."""

from dataclasses import replace

import pytest

from runtimes.conformance.check import Check, Outcome
from runtimes.conformance.checks import CHECKS
from runtimes.conformance.for_docker import docker_context
from runtimes.conformance.runner import run_one
from runtimes.contract import Image

NOT_ON_DOCKER = frozenset({"signal-is-told-as-killed", "lifetime-is-a-backstop", "user-ids-are-the-machines-own"})
"""What no container can, what Docker has not, and what Docker maps only for all machines together."""
NOT_UNMAPPED = frozenset({"nested-containers-work"})
NOT_REMAPPED = frozenset({"network-host-is-the-hosts"})


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
async def test_docker_keeps_the_contract(check: Check, docker, docker_image: Image, slower: float) -> None:
    await _kept(check, docker, docker_image, NOT_ON_DOCKER | NOT_UNMAPPED, slower)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
async def test_remapped_docker_keeps_the_contract(
    check: Check, remapped_docker, remapped_image: Image, slower: float
) -> None:
    await _kept(check, remapped_docker, remapped_image, NOT_ON_DOCKER | NOT_REMAPPED, slower)


async def _kept(check: Check, docker, image: Image, absent: frozenset[str], slower: float) -> None:
    directory = docker.directory / "bench" / check.name
    directory.mkdir(parents=True, exist_ok=True)
    context = docker_context(docker.settings, directory, image)
    result = await run_one(check, replace(context, deadline=context.deadline * slower))
    if result.outcome is Outcome.NOT_APPLICABLE:
        assert check.name in absent, result.reason
    else:
        assert result.outcome is Outcome.PASSED, result.reason
        assert check.name not in absent, "it can be done by now"
