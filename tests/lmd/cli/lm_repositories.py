"""Small CernVM-FS repositories for machines, published and served on loopback by the tests."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "cvmfs"))

from cvmfs_publisher import Item, Publisher, directory, file, link
from cvmfs_served import Web

NAME = "test.example.org"


def executable(text: str) -> Item:
    made = file(text.encode())
    made.mode |= 0o111
    return made


def published(root: Path, revision: int = 1) -> Publisher:
    made = Publisher(root, NAME)
    made.publish(
        {
            "/hello": file(f"hello of revision {revision}\n".encode()),
            "/bin": directory(),
            "/bin/program": executable("#!/bin/sh\necho a program of the repository\n"),
            "/current": link(b"hello"),
        }
    )
    return made


@contextmanager
def served(root: Path) -> Iterator[str]:
    web = Web(root)
    try:
        yield web.url
    finally:
        web.stop()
