"""(slice 4) Where settings come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cvmfs.settings import Settings, make_settings


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be opened, with what was given on the command line under conventional names."""

    repository: str
    given: Mapping[str, str]
    toml: Path | None = None
    etc: Path = Path("/etc/cvmfs")


def load_settings(request: Request) -> Settings:
    """Settings. Raises BadConfiguration."""
    return make_settings(request.repository, {"CVMFS_HTTP_PROXY": "DIRECT", **request.given})
