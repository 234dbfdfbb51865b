"""Where the suite runs: one healthy runtime of this host, its image, and directories of the suite's own."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lmd import engines
from lmd.config.models import Config, Settings
from lmd.places import Places
from runtimes.contract import Capabilities, Health, Image, ImageKind

if TYPE_CHECKING:
    from lmd.conformance.trial import Left

SPACE = "conformance.invalid"
RATING = 10.5
PROBE_SECONDS = 60.0
TIMES = {"container": (20.0, 5.0), "vm": (300.0, 120.0)}
"""Deadline and patience by isolation: an emulated machine on a busy host boots for a minute."""
_PREFIXES = {
    ImageKind.REFERENCE: "docker://",
    ImageKind.OCI_ARCHIVE: "oci-archive:",
    ImageKind.OCI_LAYOUT: "oci:",
    ImageKind.DOCKER_ARCHIVE: "docker-archive:",
    ImageKind.ROOT_DIRECTORY: "",
}


class NotAvailable(Exception):
    """The runtime cannot be tried on this host; one line that says why, and what to type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What each check is given. `deadline` in seconds is for one machine, `patience` for what its payload does first.

    `config` has the host's policy and runtime options, and settings of the suite's. `kept` holds what checks share.
    """

    runtime: str
    can: Capabilities
    config: Config
    places: Places
    image: Image
    directory: Path
    deadline: float = 20.0
    patience: float = 5.0
    kept: dict[str, "Left"] = field(default_factory=dict)

    @property
    def root_image(self) -> str:
        """The image as a machinetype names it."""
        return _PREFIXES[self.image.kind] + self.image.location


async def prepare(runtime: str, config: Config, places: Places, image: Image, directory: Path) -> Ground:
    """The ground for one runtime; `directory` is empty and the suite's alone. Raises `NotAvailable`."""
    can = await capabilities(runtime, config, places)
    deadline, patience = TIMES[can.isolation]
    return Ground(
        runtime=runtime,
        can=can,
        deadline=deadline,
        patience=patience,
        config=replace(config, settings=Settings(space=SPACE, hs06_per_processor=RATING), machinetypes={}, disabled={}),
        places=places,
        image=image,
        directory=directory,
    )


async def capabilities(runtime: str, config: Config, places: Places) -> Capabilities:
    """What a healthy runtime can do on this host. Raises `NotAvailable` if it is not healthy."""
    try:
        async with asyncio.timeout(PROBE_SECONDS), engines.opened(runtime, config, places) as made:
            probe = await made.probe()
    except engines.NoRuntime as error:
        raise NotAvailable(str(error)) from error
    except TimeoutError as error:
        raise NotAvailable(f"{runtime} is {Health.UNHEALTHY}: no answer within {PROBE_SECONDS:g} s") from error
    if probe.health is not Health.HEALTHY or probe.capabilities is None:
        why = probe.reason or "it tells no capabilities"
        raise NotAvailable(f"{runtime} is {probe.health}: {why}" + (f" ({probe.remedy})" if probe.remedy else ""))
    return probe.capabilities


@contextmanager
def working_directory(places: Places) -> Iterator[Path]:
    """An empty directory that goes at the end; machines of other users reach into it, and its path is short."""
    path = Path(tempfile.mkdtemp(prefix="conformance-", dir=places.run))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
