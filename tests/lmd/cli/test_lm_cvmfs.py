"""`lm run` with types that name CernVM-FS repositories, on a host that has no CernVM-FS installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests of this folder share

from lm_repositories import NAME, published, served

WHERE = ["factory", "machine"]


@pytest.fixture(scope="session")
def repository(short_tmp: Path) -> Iterator[tuple[str, Path]]:
    """A published repository: its server's URL and its key."""
    publisher = published(short_tmp / "repository")
    with served(publisher.root) as url:
        yield url, publisher.key_file


@pytest.fixture
def host(lm, repository: tuple[str, Path]):
    url, key = repository
    text = f'\n[cvmfs]\nprovider = "embedded"\nserver_url = ["{url}"]\npublic_key = ["{key}"]\nidle_seconds = 1\n'
    with (lm.home / "config/lmd.toml").open("a") as file:
        file.write(text)
    return lm


@pytest.mark.parametrize("where", WHERE)
def test_a_program_out_of_a_repository_runs(host, where: str) -> None:
    file = host.machinetype(
        "reads",
        "/cvmfs/test.example.org/bin/program; cat /cvmfs/test.example.org/hello; ls /cvmfs",
        cvmfs_repositories=[NAME],
        cvmfs={"where": where},
    )
    done = host("run", file)
    assert "200" not in done.stderr.partition("outputs:")[0].partition("machine ")[0], done.stderr
    assert done.stdout.splitlines() == ["a program of the repository", "hello of revision 1", NAME], done.stderr
