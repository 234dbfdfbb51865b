"""Repositories on web servers, opened, and cleaned up after."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests of this folder share

from cvmfs_served import FIXTURE, Open, Web, settings_for

from cvmfs.repository import Repository
from cvmfs.settings import open_repository


@pytest.fixture
def webs() -> Iterator[Callable[[Path], Web]]:
    """Makes web servers, and stops them."""
    made: list[Web] = []

    def make(root: Path) -> Web:
        made.append(Web(root))
        return made[-1]

    yield make
    for web in made:
        web.stop()


@pytest.fixture
def web(webs: Callable[[Path], Web]) -> Web:
    """The fixture's repository, served read-only."""
    return webs(FIXTURE / "repo")


@pytest.fixture
def copied_web(webs: Callable[[Path], Web], tmp_path: Path) -> Web:
    """A copy of the fixture's repository that a test may damage."""
    shutil.copytree(FIXTURE / "repo", tmp_path / "served")
    return webs(tmp_path / "served")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens repositories (the fixture's name and key, unless told otherwise), and closes them."""
    made: list[Repository] = []

    def open_(url: str, cache: str = "cache", **values: str) -> Repository:
        made.append(open_repository(settings_for(url, tmp_path / cache, **values)))
        return made[-1]

    yield open_
    for repository in made:
        repository.close()
