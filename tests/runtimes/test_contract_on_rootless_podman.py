"""The contract's conformance suite on rootless Podman: the tests' root starts it as a user without rights.

Run as a program, this file is that user's process: one line of JSON for each check.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from images.archive import ImageConfig, write_oci_archive
from runtimes import cgroups
from runtimes.conformance.check import Check, Outcome
from runtimes.conformance.checks import CHECKS
from runtimes.conformance.for_podman import podman_context
from runtimes.conformance.runner import run
from runtimes.contract import Image, ImageKind, Settings

NEVER = frozenset({"signal-is-told-as-killed", "user-ids-are-the-machines-own"})
NOT_ON_V1 = frozenset(
    {
        "idle-machines-yield",
        "limits-are-told",
        "memory-limit-is-hard",
        "oom-is-told",
        "pids-limit-holds",
        "processors-limit-holds",
        "usage-grows",
    }
)
"""Control groups of version 1 are not for ordinary users."""


ROWS = 2
"""How many checks are made at the same time: most of their time is waiting."""


async def tell_all(image: Image) -> None:
    """The suite in this user's own Podman, told line by line."""
    home = Path.home() / "suite"
    options = {"oci_runtime": "crun"}
    settings = Settings(state_dir=home / "state", run_dir=home / "lmd", cache_dir=home / "cache", options=options)

    async def row(number: int) -> None:
        directory = home / f"bench{number}"
        directory.mkdir(parents=True)
        async for result in run(podman_context(settings, directory, image), CHECKS[number::ROWS]):
            words = {"check": result.check.name, "outcome": result.outcome, "reason": result.reason}
            print(json.dumps(words), flush=True)

    await asyncio.gather(*(row(number) for number in range(ROWS)))


@pytest.fixture(scope="module")
def told(ordinary_user, busybox_root: Path) -> Iterator[Callable[[str], dict[str, str]]]:
    """Ask for a check by name; waits until it has been made."""
    image = ordinary_user.directory / "image.tar"
    write_oci_archive(busybox_root, image, ImageConfig())
    with ordinary_user.suite(__file__, image) as ask:
        yield ask


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_rootless_podman_keeps_the_contract(check: Check, told) -> None:
    result = told(check.name)
    if result["outcome"] == Outcome.NOT_APPLICABLE:
        assert check.name in (NEVER | NOT_ON_V1 if cgroups.mounts().v1 else NEVER), result["reason"]
    else:
        assert result["outcome"] == Outcome.PASSED, result["reason"]


if __name__ == "__main__":
    asyncio.run(tell_all(Image(kind=ImageKind.OCI_ARCHIVE, location=sys.argv[1])))
