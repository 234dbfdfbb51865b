"""The ground for the environment's suite: a private Podman, directories of the tests' own, our own busybox image."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import cache, recipe
from lmd.config.models import Config
from lmd.conformance import Ground, prepare
from lmd.places import Places
from runtimes.contract import Image, ImageKind


@pytest.fixture(scope="session")
def lm_image(short_tmp: Path) -> Image:
    """The image that `lm conformance` builds."""
    built = cache.ensure(short_tmp / "lm-images", recipe.find_recipe("busybox"), 0)
    return Image(kind=ImageKind.OCI_ARCHIVE, location=str(built.path))


@pytest.fixture(scope="session")
def lm_places(podman, short_tmp: Path) -> Places:
    """Directories for one engine's machines."""
    home = podman.directory / "lm"
    return Places(home / "state", home / "run", home / "cache").make()


@pytest.fixture(scope="session")
def lm_config(podman) -> Config:
    """A configuration that knows the private engine."""
    return Config(runtimes={"podman": podman.options})


@pytest.fixture(scope="session")
def ground(lm_config: Config, lm_places: Places, lm_image: Image) -> Iterator[Ground]:
    directory = lm_places.run / "conformance"
    directory.mkdir(mode=0o711, exist_ok=True)  # made again when tests of one engine alternate with the other's
    yield asyncio.run(prepare("podman", lm_config, lm_places, lm_image, directory))
