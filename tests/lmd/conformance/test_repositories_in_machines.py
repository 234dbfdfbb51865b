"""The suite's checks of CernVM-FS, on each engine and by either provider."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from lm_repositories import NAME, stand_in

from lmd.config.models import Config, Cvmfs, Policy
from lmd.conformance import WITH_REPOSITORY, Check, Ground, Outcome, prepare, run_one
from lmd.conformance.check import Violation
from lmd.conformance.trial import Trial
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


def named(name: str) -> Check:
    (found,) = [check for check in WITH_REPOSITORY if check.name == name]
    return found


@pytest.mark.parametrize("where", ["repositories-of-the-host-are-seen", "repositories-inside-are-seen"])
@pytest.mark.parametrize("name", ["docker", "remapped_docker"])
async def test_docker_s_machines_see_what_their_types_name(
    name: str, where: str, repository: tuple[str, Path], lm_image: Image, request: pytest.FixtureRequest
) -> None:
    """The host's mounts where the daemon sees what is mounted after its start, as on a host with systemd."""
    engine = request.getfixturevalue(name)
    ground = await ground_on(engine, lm_image, engine.shared)
    result = await run_one(named(where), with_repository(ground, repository, "embedded"))
    assert result.outcome is Outcome.PASSED, result.reason


async def test_a_daemon_that_does_not_see_the_host_s_mounts_is_told_of(
    docker, repository: tuple[str, Path], lm_image: Image
) -> None:
    """No empty directory without a word: what is mounted elsewhere than in the shared place does not reach it."""
    ground = with_repository(await ground_on(docker, lm_image, docker.directory), repository, "embedded")
    trial = Trial(replace(ground, config=replace(ground.config, policy=Policy())))
    with pytest.raises(Violation, match=f"mnt/{NAME} later would not appear in it, as its mount is private: mount --b"):
        await trial.run("#!/bin/sh\n", cvmfs_repositories=[NAME])
    assert await trial.clear() == []


async def ground_on(engine, image: Image, below: Path) -> Ground:
    home = below / "lm-cvmfs"
    places = Places(home / "state", home / "run", home / "cache").make()
    directory = places.run / "conformance"
    directory.mkdir(mode=0o711, exist_ok=True)
    return await prepare("docker", Config(runtimes={"docker": engine.options}), places, image, directory)


@pytest.mark.parametrize("where", ["repositories-of-the-host-are-seen", "repositories-inside-are-seen"])
async def test_the_distribution_s_client_serves_docker_s_machines(
    where: str,
    docker,
    repository: tuple[str, Path],
    lm_image: Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By `mount -t cvmfs` on the host and by `cvmfs2 -f` inside: programs that take what the real ones take."""
    path = stand_in(tmp_path / "bin", *repository, tmp_path / "cache")
    mount_program(path, *repository, tmp_path / "mount-cache")
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
    root = docker.shared / "cvmfs"
    ground = with_repository(await ground_on(docker, lm_image, docker.shared), repository, "system")
    options = ground.config.cvmfs.model_copy(update={"settings": {"CVMFS_MOUNT_DIR": str(root)}})
    try:
        result = await run_one(named(where), replace(ground, config=replace(ground.config, cvmfs=options)))
        assert result.outcome is Outcome.PASSED, result.reason
    finally:
        subprocess.run(["umount", "-q", "-l", str(root / NAME)], check=False)


def mount_program(folder: Path, url: str, key: Path, cache: Path) -> None:
    """`mount`, for `-t cvmfs REPOSITORY WHERE`; anything else goes to the real one."""
    program = folder / "mount"
    program.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "-t cvmfs" ] || exec {shutil.which("mount")} "$@"\n[ $# = 4 ] || exit 1\n'
        f'exec {sys.executable} -m cvmfs mount "$3" "$4" --server {url} --key {key} --cache {cache} -o allow_other\n'
    )
    program.chmod(0o755)


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
