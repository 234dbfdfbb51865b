"""What the tests of several folders of `lmd` stand on."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "cli"))  # for what they share

from lm_repositories import published, served


@pytest.fixture(scope="module")
def repository(short_tmp: Path) -> Iterator[tuple[str, Path]]:
    """A published CernVM-FS repository: its server's URL and its key."""
    publisher = published(Path(tempfile.mkdtemp(prefix="repository.", dir=short_tmp)) / "root")
    with served(publisher.root) as url:
        yield url, publisher.key_file
