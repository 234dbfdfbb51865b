"""The same payload on every kind of engine there is: what it saw and left, compared field by field."""

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from lmd.config.models import Config
from lmd.conformance import Report, compare
from lmd.conformance.alike import portrait
from lmd.places import Places
from runtimes.contract import Image

AS_USER = """
import asyncio, json, os, sys
from lmd.config.models import Config
from lmd.conformance.alike import portrait
from lmd.places import places
from runtimes.contract import Image, ImageKind
image = Image(kind=ImageKind.OCI_ARCHIVE, location=sys.argv[1])
found = places(os.geteuid(), os.environ).make()
print(json.dumps(dict(asyncio.run(portrait("podman", Config(), found, image)).lines)))
"""


def as_root(runtime: str, options: Mapping[str, str], home: Path, image: Image) -> Report:
    places = Places(home / "state", home / "run", home / "cache").make()
    return asyncio.run(portrait(runtime, Config(runtimes={runtime: options}), places, image))


def as_user(user, image: Image) -> Report:
    copied = user.home / "image.tar"
    shutil.copy(image.location, copied)
    copied.chmod(0o644)
    done = user.run(str(user.python), "-c", AS_USER, str(copied))
    assert done.returncode == 0, done.stderr[-1000:]
    return Report(json.loads(done.stdout.splitlines()[-1]))


def test_a_payload_sees_and_leaves_the_same_on_every_engine(request: pytest.FixtureRequest, lm_image: Image) -> None:
    podmans = request.getfixturevalue("podmans")
    engines = {
        "podman, crun": ("podman", podmans("crun")),
        "podman, runc": ("podman", podmans("runc")),
        "docker": ("docker", request.getfixturevalue("docker")),
        "docker, remapped": ("docker", request.getfixturevalue("remapped_docker")),
    }
    seen = {
        name: as_root(runtime, engine.options, engine.directory / "alike", lm_image)
        for name, (runtime, engine) in engines.items()
    }
    seen["podman, rootless"] = as_user(request.getfixturevalue("ordinary_user"), lm_image)
    first = seen.pop("podman, crun")
    differences = {name: compare(first, other) for name, other in seen.items()}
    assert differences == {name: [] for name in seen}
    assert len(first.fields()) > 100
