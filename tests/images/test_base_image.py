"""The image to start from, built for real by mmdebstrap, twice at once, and run."""

import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from images.builder import build
from images.recipe import find_recipe
from runtimes import archives
from runtimes.contract import ImageKind

Run = Callable[..., str]
SIZE_LIMIT = 90_000_000
SCRIPT = """
set -e
curl --version | head -n 1
test -s /etc/ssl/certs/ca-certificates.crt
lm-payload heartbeat
lm-payload output /etc/os-release
lm-payload done 200 Success
cat /var/spool/joboutputs/shutdown_message
ls /var/spool/joboutputs
"""


@pytest.fixture
def places() -> Iterator[list[Path]]:
    """Two directories: one that every user can reach, apt's own among them, and one that is its owner's alone."""
    with tempfile.TemporaryDirectory(prefix="lmd-i.") as folder:
        for name, mode in (("", 0o755), ("open", 0o755), ("closed", 0o700)):
            Path(folder, name).mkdir(exist_ok=True)
            Path(folder, name).chmod(mode)
        yield [Path(folder, "open"), Path(folder, "closed")]


@pytest.mark.slow
@pytest.mark.timeout(170)
def test_the_base_image_is_small_the_same_each_time_and_serves_a_payload(
    places: list[Path], epoch: int, podman_command: Run
) -> None:
    recipe = find_recipe("base")
    steps: list[str] = []
    files = [place / "base.tar" for place in places]
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(build, recipe, path, epoch, progress=steps.append) for path in files]
        one, two = (each.result() for each in asked)

    assert one.packages == two.packages
    assert files[0].read_bytes() == files[1].read_bytes()
    assert archives.describe(ImageKind.OCI_ARCHIVE, one.path).image_id == one.image_id
    assert one.size_bytes < SIZE_LIMIT
    assert {"curl", "ca-certificates", "dash", "libc6"} <= {package.name for package in one.packages}
    assert steps.count("downloading packages") == 2

    podman_command("load", "--quiet", "--input", one.path)
    (shown,) = json.loads(podman_command("image", "inspect", "localhost/lmd/base:latest"))
    assert f"sha256:{shown['Id']}" == one.image_id
    listing = [line.split("\t") for line in Path(f"{one.path}.packages").read_text().splitlines()]
    assert [f"{name}={number}" for name, number, _ in listing] == shown["Labels"]["lmd.packages"].split()
    printed = podman_command("run", "--rm", "--network=none", "localhost/lmd/base", "sh", "-c", SCRIPT).splitlines()
    assert printed[0].startswith("curl 7.")
    assert printed[1:] == ["200 Success", "heartbeat", "os-release", "shutdown_message"]
