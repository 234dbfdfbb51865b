"""Configuration for the public domains that sites mount, in the conventional form, and where their keys belong."""

from __future__ import annotations

from importlib import resources


def profile(domain: str) -> str | None:
    """The text of the profile for a domain such as `cern.ch`, or None."""
    if domain not in domains():
        return None
    return (resources.files(__name__) / f"{domain}.conf").read_text(encoding="utf-8")


def domains() -> tuple[str, ...]:
    """The domains that have a profile."""
    names = (item.name for item in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".conf") for name in names if name.endswith(".conf")))
