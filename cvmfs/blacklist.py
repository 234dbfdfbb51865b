"""Certificates and revisions that a site or the configuration repository has withdrawn (`/etc/cvmfs/blacklist`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cvmfs.errors import BadConfiguration
from cvmfs.hashes import ContentHash
from cvmfs.manifest import parse_fingerprint

_MAX_BYTES = 1 << 20
_REVISION = re.compile(r"<\s*(\S+)\s+([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Blacklist:
    """For one repository: fingerprints of certificates that may not sign, and the first revision that may be shown."""

    fingerprints: frozenset[ContentHash] = frozenset()
    first_revision: int = 0


def read_blacklist(files: Sequence[Path], repository: str) -> Blacklist:
    """What the files say; one that is not there says nothing. Raises BadConfiguration if one cannot be read."""
    lines: list[str] = []
    for file in files:
        try:
            with file.open("rb") as stream:
                lines += stream.read(_MAX_BYTES).decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BadConfiguration(f"blacklist {file}: cannot be read ({error.strerror})") from error
    return parse_blacklist(lines, repository)


def parse_blacklist(lines: Iterable[str], repository: str) -> Blacklist:
    """From lines: a fingerprint each, or `<name revision` for "nothing of this repository before this revision"."""
    found: set[ContentHash] = set()
    first = 0
    for line in lines:
        match = _REVISION.match(line)
        if match:
            first = max(first, int(match[2])) if match[1] == repository else first
        elif (fingerprint := parse_fingerprint(line)) is not None:
            found.add(fingerprint)
    return Blacklist(frozenset(found), first)
