"""The suite's checks of CernVM-FS, on each engine and by either provider."""

from dataclasses import replace
from pathlib import Path

import pytest
from lm_repositories import NAME, stand_in

from lmd.config.models import Config, Cvmfs, Policy
from lmd.conformance import WITH_REPOSITORY, Check, Ground, Outcome, prepare, run_one
from lmd.places import Places
from runtimes.contract import Image


def with_repository(ground: Ground, repository: tuple[str, Path], provider: str) -> Ground:
    url, key = repository
    options = Cvmfs(provider=provider, server_url=(url,), public_key=(str(key),), idle_seconds=1)
    config = replace(ground.config, policy=Policy(cvmfs_repositories=(NAME,)), cvmfs=options)
    return replace(ground, config=config, kept={})


@pytest.mark.parametrize("check", WITH_REPOSITORY, ids=lambda check: check.name)
async def test_podman_s_machines_see_what_their_types_name(
    check: Check, ground: Ground, repository: tuple[str, Path]
) -> None:
    result = await run_one(check, with_repository(ground, repository, "embedded"))
    assert result.outcome is Outcome.PASSED, result.reason


@pytest.mark.parametrize("name", ["docker", "remapped_docker"])
async def test_docker_s_machines_mount_them_inside(
    name: str, repository: tuple[str, Path], lm_image: Image, request: pytest.FixtureRequest
) -> None:
    ground = await ground_on(request.getfixturevalue(name), lm_image)
    (check,) = [check for check in WITH_REPOSITORY if check.name == "repositories-inside-are-seen"]
    result = await run_one(check, with_repository(ground, repository, "embedded"))
    assert result.outcome is Outcome.PASSED, result.reason


async def ground_on(engine, image: Image) -> Ground:
    home = engine.directory / "lm-cvmfs"
    places = Places(home / "state", home / "run", home / "cache").make()
    directory = places.run / "conformance"
    directory.mkdir(mode=0o711, exist_ok=True)
    return await prepare("docker", Config(runtimes={"docker": engine.options}), places, image, directory)


async def test_the_distributions_client_serves_inside_machines(
    ground: Ground, repository: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stand_in(tmp_path / "bin", *repository, tmp_path / "cache")
    monkeypatch.setenv("PATH", f"{path}:{Path('/usr/bin')}:/bin:/usr/sbin:/sbin")
    (check,) = [check for check in WITH_REPOSITORY if check.name == "repositories-inside-are-seen"]
    result = await run_one(check, with_repository(ground, repository, "system"))
    assert result.outcome is Outcome.PASSED, result.reason


async def test_without_a_repository_that_could_be_tried_the_checks_say_so(ground: Ground) -> None:
    results = [await run_one(check, ground) for check in WITH_REPOSITORY]
    assert {result.outcome for result in results} == {Outcome.NOT_APPLICABLE}
