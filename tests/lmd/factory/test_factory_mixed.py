"""One factory of Podman, Docker and virtual machines, killed and upgraded on the way: history is what happened."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mixed
import pytest
import witnesses

from images.cache import default_directory

CHECKOUT = Path(__file__).parents[3]
SECONDS = float(os.environ.get("LMD_MIXED_SECONDS", "600"))
TOLERANCE, SHORT_TOLERANCE = 10.0, 20.0
"""Seconds: an engine on a busy host reports what happened when it comes to it. What was measured is in docs/."""


@pytest.fixture
def factory(make_lmd, podman, podman_image, docker, docker_image, libvirt_engine, micro_kit, busybox_root, short_tmp):
    """The factory, not started yet; at the end nothing of it is left."""
    options = {"podman": podman.options, "docker": docker.options, "kvm": libvirt_engine.options}
    images = {
        "podman": f"docker://{podman_image}",
        "docker": f"docker://{docker_image.location}",
        "kvm": str(busybox_root),
    }
    lmd = make_lmd(mixed.configuration(images, options, short_tmp / "mixed.sh"))
    (lmd.home / "cache").mkdir(exist_ok=True)
    (lmd.home / "cache/images").symlink_to(default_directory({}, os.geteuid()))  # the kit is built already
    return lmd


@pytest.fixture
def heard(podman, docker, libvirt_engine, tmp_path: Path) -> Iterator[Any]:
    """Ask for what the three engines have reported."""
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(witnesses.podman(podman.options, time.time())),
            stack.enter_context(witnesses.dockers(str(docker.socket))),
            stack.enter_context(witnesses.libvirt(libvirt_engine.options["uri"], tmp_path / "virsh")),
        ]
        yield lambda: {name: life for one in listeners for name, life in witnesses.settled(one).items()}


def check(factory: Any, heard: Any, tmp_path: Path, seconds: float, blows: int, tolerance: float) -> dict[str, Any]:
    """Its figures, when all agrees."""
    releases = mixed.Releases(tmp_path, CHECKOUT)
    factory.environment["PYTHONPATH"] = str(releases.install())
    factory.start()
    factory.until(lambda: {one["runtime"] for one in factory.machines() if one["phase"] == "running"} == RUNTIMES, 100)
    done = mixed.lived(factory, releases, seconds, blows)
    latest = releases.current.name.replace("release", "lmd 9.")
    factory.until(lambda: latest in made_by(factory), seconds=100)
    assert factory("drain", "--wait", "--deadline", "8", seconds=150).returncode == 0
    factory.until(lambda: all(one["cleaned"] for one in factory.machines(ended=True)), seconds=60)
    assert factory.end() == 0
    wrong, figures = mixed.disagreements(factory, heard(), tolerance)
    figures |= {"seconds": seconds, "blows": dict(done)}
    print(json.dumps(figures | {"wrong": wrong}, indent=1))
    assert not wrong, "\n".join(wrong)
    return figures


def made_by(factory: Any) -> set[str]:
    """The releases whose machines have begun."""
    return {path.read_text().strip() for path in (factory.home / "state/machines").glob("*/joboutputs/made-by")}


RUNTIMES = {"podman", "docker", "kvm"}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_history_is_what_the_engines_report(factory, heard, tmp_path: Path) -> None:
    figures = check(factory, heard, tmp_path, 10, 2, SHORT_TOLERANCE)
    assert figures["machines"].keys() == RUNTIMES


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 600)
def test_the_history_of_ten_minutes_is_what_the_engines_report(factory, heard, tmp_path: Path) -> None:
    figures = check(factory, heard, tmp_path, SECONDS, int(SECONDS // 55), TOLERANCE)
    assert min(figures["machines"].values()) > SECONDS / 30
