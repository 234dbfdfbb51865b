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
TOLERANCE = 10.0
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


def check(factory: Any, heard: Any, tmp_path: Path, seconds: float, blows: int) -> dict[str, Any]:
    """Its figures, when all agrees."""
    releases = mixed.Releases(tmp_path, CHECKOUT)
    factory.environment["PYTHONPATH"] = str(releases.install())
    factory.start()
    factory.until(lambda: {one["runtime"] for one in factory.machines() if one["phase"] == "running"} == RUNTIMES, 100)
    done = mixed.lived(factory, releases, seconds, blows)
    assert factory("drain", "--wait", "--deadline", "8", seconds=150).returncode == 0
    factory.until(lambda: all(one["cleaned"] for one in factory.machines(ended=True)), seconds=60)
    assert factory.end() == 0
    wrong, figures = mixed.disagreements(factory, heard(), TOLERANCE)
    figures |= {"seconds": seconds, "blows": dict(done)}
    print(json.dumps(figures | {"wrong": wrong}, indent=1))
    assert not wrong, "\n".join(wrong)
    made_by = {path.read_text().strip() for path in (factory.home / "state/machines").glob("*/joboutputs/made-by")}
    assert len(made_by) > done["upgraded"], "no machine of a later release"
    return figures


RUNTIMES = {"podman", "docker", "kvm"}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_history_is_what_the_engines_report(factory, heard, tmp_path: Path) -> None:
    figures = check(factory, heard, tmp_path, 10, 2)
    assert figures["machines"].keys() == RUNTIMES


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 600)
def test_the_history_of_ten_minutes_is_what_the_engines_report(factory, heard, tmp_path: Path) -> None:
    figures = check(factory, heard, tmp_path, SECONDS, int(SECONDS // 55))
    assert min(figures["machines"].values()) > SECONDS / 30
