"""What the builder writes, as Podman loads and runs it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from images.archive import Format, opened
from images.builder import build
from images.recipe import Recipe

Run = Callable[..., str]


@pytest.mark.parametrize("form", [Format.OCI, Format.DOCKER])
def test_podman_loads_an_archive_under_its_name_with_our_id_and_runs_it(
    busybox: Recipe, tmp_path: Path, epoch: int, podman_command: Run, form: Format
) -> None:
    built = build(busybox, tmp_path / "image.tar", epoch)
    with opened(built.path) as image:
        image.write(tmp_path / "form", form)
    podman_command("load", "--quiet", "--input", tmp_path / "form")
    (shown,) = json.loads(podman_command("image", "inspect", "localhost/lmd/busybox:latest"))
    assert f"sha256:{shown['Id']}" == built.image_id
    script = "lm-payload done 200 Success && cat /var/spool/joboutputs/shutdown_message"
    run = ["run", "--rm", "--network=none", "localhost/lmd/busybox"]
    assert podman_command(*run, "sh", "-c", script) == "200 Success\n"


def test_podman_runs_the_unpacked_image_in_place_read_only(
    busybox: Recipe, tmp_path: Path, epoch: int, podman_command: Run
) -> None:
    built = build(busybox, tmp_path / "image.tar", epoch)
    with opened(built.path) as image:
        image.write(tmp_path / "root", Format.DIRECTORY)
    before = sorted(tmp_path.joinpath("root").rglob("*"))
    for name in ("features", "outputs"):
        (tmp_path / name).mkdir()
    places = [
        f"--volume={tmp_path}/features:/etc/machinefeatures:ro",
        f"--volume={tmp_path}/features:/etc/jobfeatures:ro",
        f"--volume={tmp_path}/outputs:/var/spool/joboutputs",
    ]
    run = ["run", "--rm", "--network=none", "--read-only", *places, "--rootfs", str(tmp_path / "root")]
    podman_command(*run, "lm-payload", "done", "200", "Success")
    assert (tmp_path / "outputs/shutdown_message").read_text() == "200 Success\n"
    assert sorted(tmp_path.joinpath("root").rglob("*")) == before
