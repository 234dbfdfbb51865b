"""What the suites on virtual machines share."""

import shutil
from pathlib import Path

import pytest

from images.kit import Kit


def put(kit: Kit, cache: Path) -> None:
    """Have the kit in the cache of an `lm` of the tests: to build it there takes a quarter of a minute, and a busy host
    minutes."""
    built = kit.kernel.parent
    place = cache / "images" / built.parent.name / built.name
    if not place.exists():
        shutil.copytree(built, place)


def selected(request: pytest.FixtureRequest) -> list:
    """The checks of the module that asks which this run of the tests wants, in their order."""
    items = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    return [item.callspec.params["check"] for item in items if "check" in item.callspec.params]
