"""The environment's suite on rootless Podman: the tests' root starts it as a user without rights.

Run as a program, this file is that user's process: one line of JSON for each check.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmd.config.models import Config
from lmd.conformance import CHECKS, Check, Outcome, prepare, run_one
from lmd.places import Places
from runtimes import cgroups
from runtimes.contract import Image, ImageKind

ROWS = 3
"""How many checks are made at the same time: most of their time is waiting."""


async def tell_all(image: Image) -> None:
    """The suite in this user's own Podman, told line by line."""
    home = Path.home() / "environment"
    config = Config(runtimes={"podman": {"oci_runtime": "crun"}})

    async def row(number: int) -> None:
        places = Places(home / f"state{number}", home / "lmd", home / "cache").make()  # a suite removes all of its own
        directory = home / f"bench{number}"
        directory.mkdir(mode=0o711)
        ground = await prepare("podman", config, places, image, directory)
        for check in CHECKS[number::ROWS]:
            result = await run_one(check, ground)
            words = {"check": check.name, "outcome": result.outcome, "reason": result.reason}
            print(json.dumps(words), flush=True)

    await asyncio.gather(*(row(number) for number in range(ROWS)))


@pytest.fixture(scope="module")
def told(ordinary_user, lm_image: Image) -> Iterator[Callable[[str], dict[str, str]]]:
    """Ask for a check by name; waits until it has been made."""
    image = ordinary_user.directory / "environment.tar"
    image.write_bytes(Path(lm_image.location).read_bytes())
    with ordinary_user.suite(__file__, image) as ask:
        yield ask


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_rootless_podman_gives_the_environment(check: Check, told) -> None:
    result = told(check.name)
    if result["outcome"] == Outcome.NOT_APPLICABLE:
        assert check.name == "features-tell-the-limits-in-force", result["reason"]
        assert cgroups.mounts().v1, result["reason"]  # which give an ordinary user none
    else:
        assert result["outcome"] == Outcome.PASSED, result["reason"]


if __name__ == "__main__":
    asyncio.run(tell_all(Image(kind=ImageKind.OCI_ARCHIVE, location=sys.argv[1])))
