"""The Containerfile: an image of lmd itself, built and run by Podman on a base that was made here."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from images.cache import ensure
from images.recipe import load

Run = Callable[..., str]
EPOCH = 1_700_000_000
PROJECT = Path(__file__).parents[2]
IMPORTS = "import cvmfs, images, lmd, runtimes, sys; print(sys.prefix, lmd.__file__)"


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of lmd and all that it needs, for this Python."""
    folder = tmp_path_factory.mktemp("context") / "build" / "wheelhouse"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", f"--wheel-dir={folder}", str(PROJECT)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="module")
def base() -> Path:
    """Debian with Python, as an OCI archive; kept between runs, since making it takes half a minute."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return ensure(home / "lmd-tests" / "images", load(Path(__file__).parent / "python"), EPOCH).path


@pytest.mark.slow
def test_the_wheel_holds_the_recipes_and_no_tests(wheelhouse: Path) -> None:
    (wheel,) = wheelhouse.glob("lmd-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"images/base/recipe.toml", "images/busybox/recipe.toml", "images/payload/lm-payload"} <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"cvmfs", "images", "lmd", "runtimes", f"lmd-{version('lmd')}.dist-info"}


@pytest.mark.slow
@pytest.mark.timeout(170)
def test_lmd_is_installed_in_its_own_image_from_the_wheelhouse_alone(
    wheelhouse: Path, base: Path, podman_command: Run
) -> None:
    context = wheelhouse.parents[1]
    for name in ("Containerfile", ".containerignore"):
        shutil.copy(PROJECT / name, context)
    (context / "not-for-the-image").write_text("secret")
    podman_command("load", "--quiet", "--input", base)
    # chroot isolation needs no OCI runtime and knows no network but the host's; pip is told to use none.
    options = ["--isolation=chroot", "--network=host", "--pull=never", "--build-arg=BASE=localhost/lmd/python:latest"]
    podman_command("build", "--quiet", *options, "--tag=localhost/lmd:test", ".", cwd=context)

    run = ["run", "--rm", "--network=none"]
    assert podman_command(*run, "localhost/lmd:test", "--version") == f"lm {version('lmd')}\n"
    assert "image" in podman_command(*run, "localhost/lmd:test", "--help")
    assert "busybox" in podman_command(*run, "localhost/lmd:test", "image", "list")
    python = [*run, "--entrypoint=/opt/lmd/bin/python", "localhost/lmd:test"]
    prefix, module = podman_command(*python, "-c", IMPORTS).split()
    assert (prefix, module) == ("/opt/lmd", "/opt/lmd/lib/python3.11/site-packages/lmd/__init__.py")
    left = podman_command(*run, "--entrypoint=find", "localhost/lmd:test", "/", "-xdev", "-name", "not-for-the-image")
    assert left == ""
