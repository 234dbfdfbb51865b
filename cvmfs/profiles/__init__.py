"""Configuration for the public domains that sites mount, in the conventional form, and where their keys belong."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def profile(domain: str) -> str | None:
    """The text of the profile for a domain such as `cern.ch`, or None."""
    if domain not in domains():
        return None
    return (_FOLDER / f"{domain}.conf").read_text(encoding="utf-8")


def domains() -> tuple[str, ...]:
    """The domains that have a profile."""
    return tuple(sorted(file.name.removesuffix(".conf") for file in _FOLDER.glob("*.conf")))
