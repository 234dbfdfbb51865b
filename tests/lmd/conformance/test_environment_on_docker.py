"""The environment's suite on real Docker, as it comes and with mapped user ids."""

import asyncio

import pytest

from lmd.config.models import Config
from lmd.conformance import CHECKS, Check, Ground, Outcome, prepare, run_one
from lmd.places import Places
from runtimes.contract import Image

NOT_UNMAPPED = frozenset({"nested-containers-see-the-environment"})


def ground_on(engine, image: Image) -> Ground:
    """The suite's ground on a private Docker."""
    home = engine.directory / "lm"
    places = Places(home / "state", home / "run", home / "cache").make()
    directory = places.run / "conformance"
    directory.mkdir(mode=0o711, exist_ok=True)
    return asyncio.run(prepare("docker", Config(runtimes={"docker": engine.options}), places, image, directory))


@pytest.fixture(scope="module")
def docker_ground(docker, lm_image: Image) -> Ground:
    return ground_on(docker, lm_image)


@pytest.fixture(scope="module")
def remapped_ground(remapped_docker, lm_image: Image) -> Ground:
    return ground_on(remapped_docker, lm_image)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
async def test_docker_gives_the_environment(check: Check, docker_ground: Ground) -> None:
    result = await run_one(check, docker_ground)
    if result.outcome is Outcome.NOT_APPLICABLE:
        assert check.name in NOT_UNMAPPED, result.reason
    else:
        assert result.outcome is Outcome.PASSED, result.reason


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
async def test_remapped_docker_gives_the_environment(check: Check, remapped_ground: Ground) -> None:
    result = await run_one(check, remapped_ground)
    assert result.outcome is Outcome.PASSED, result.reason
