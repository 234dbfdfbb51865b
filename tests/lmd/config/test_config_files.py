"""Whether what a machinetype names is there."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lmd.config.files import check_files, image_kind
from lmd.config.layers import Layer
from lmd.config.load import check
from runtimes.contract import ImageKind


def problems(tmp_path: Path, **keys: Any) -> list[str]:
    layer = Layer("x.toml", tmp_path, {"machinetypes": {"x": {"root_image": "example.org/a", **keys}}})
    return [str(problem) for problem in check_files(check([layer]), "x")]


def archive(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"{}"))
    return path


@pytest.mark.parametrize("content", [b"#!/bin/sh\n", b"\x7fELF\x02\x01"])
def test_user_data_that_can_be_run_is_taken_whatever_its_mode(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run").write_bytes(content)
    (tmp_path / "run").chmod(0o600)
    assert problems(tmp_path, user_data="run") == []


def test_user_data_that_cannot_be_run_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"echo")
    (line,) = problems(tmp_path, user_data="run")
    assert line.startswith(f"x.toml: machinetypes.x.user_data: {tmp_path}/run cannot be run: it begins neither with #!")
    assert problems(tmp_path, user_data="run", entrypoint=["/bin/sh", "/user_data"]) == []


def test_files_that_are_not_there_are_said_all(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    found = problems(
        tmp_path,
        root_image="oci-archive:image.tar",
        user_data="run",
        user_data_file_key="fifo",
        secret_files={"/etc/token": "token"},
    )
    assert found == [
        f"x.toml: machinetypes.x.root_image: {tmp_path}/image.tar cannot be read: No such file or directory",
        f"x.toml: machinetypes.x.user_data: {tmp_path}/run cannot be read: No such file or directory",
        f"x.toml: machinetypes.x.user_data_file_key: {tmp_path}/fifo is not a regular file",
        f'x.toml: machinetypes.x.secret_files."/etc/token": {tmp_path}/token cannot be read: No such file or directory',
    ]


def test_what_is_fetched_is_not_looked_at(tmp_path: Path) -> None:
    assert problems(tmp_path, user_data="https://host.invalid/run") == []


def test_an_image_path_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout/oci-layout").write_text("{}")
    docker = archive(tmp_path / "docker.tar", "a/layer.tar", "manifest.json")
    oci = archive(tmp_path / "oci.tar", "./blobs/x", "./oci-layout", "./index.json")
    assert image_kind(f"{tmp_path}/root") == (ImageKind.ROOT_DIRECTORY, f"{tmp_path}/root")
    assert image_kind(f"{tmp_path}/layout")[0] is ImageKind.OCI_LAYOUT
    assert image_kind(f"oci:{tmp_path}/layout") == (ImageKind.OCI_LAYOUT, f"{tmp_path}/layout")
    assert image_kind(str(docker))[0] is ImageKind.DOCKER_ARCHIVE
    assert image_kind(str(oci))[0] is ImageKind.OCI_ARCHIVE
    assert image_kind(f"docker-archive:{docker}") == (ImageKind.DOCKER_ARCHIVE, str(docker))
    assert image_kind("docker://example.org/a:1") == (ImageKind.REFERENCE, "example.org/a:1")
    assert image_kind("example.org/a:1") == (ImageKind.REFERENCE, "example.org/a:1")


def test_a_path_that_is_no_image_is_said(tmp_path: Path) -> None:
    other = archive(tmp_path / "other.tar", "README")
    (tmp_path / "text").write_text("hello" * 1000)
    (tmp_path / "empty").write_bytes(b"")
    for path, expected in (
        (other, "is an archive, but of no image"),
        (tmp_path / "text", "is neither a directory nor an uncompressed archive"),
        (tmp_path / "empty", "is neither a directory nor an uncompressed archive"),
        (tmp_path / "absent", "cannot be read: No such file or directory"),
    ):
        with pytest.raises(ValueError, match=expected):
            image_kind(str(path))
    with pytest.raises(ValueError, match="not a directory in the OCI image layout"):
        image_kind(f"oci:{tmp_path}")
