"""Images in every form, as real tools read them."""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from images.archive import (
    Format,
    ImageConfig,
    opened,
    packed,
    write_docker_archive,
    write_oci_archive,
    write_oci_layout,
)
from images.entries import file, symlink
from images.errors import ImageError
from runtimes import archives
from runtimes.contract import ImageKind

Write = Callable[[Path, Path, ImageConfig], str]
FORMS: dict[str, tuple[Write, str, ImageKind]] = {
    "oci": (write_oci_archive, "oci-archive", ImageKind.OCI_ARCHIVE),
    "oci-layout": (write_oci_layout, "oci", ImageKind.OCI_LAYOUT),
    "docker": (write_docker_archive, "docker-archive", ImageKind.DOCKER_ARCHIVE),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/true").write_bytes(b"true")
    (root / "tmp").mkdir(mode=0o1777)
    (root / "tmp").chmod(0o1777)
    return root


@pytest.fixture
def config(epoch: int) -> ImageConfig:
    return ImageConfig(
        reference="localhost/lmd-test/small:1",
        epoch=epoch,
        environment={"B": "2", "A": "1 = 1"},
        entrypoint=("/bin/true",),
        command=("--help",),
        user="nobody",
        working_directory="/tmp",
        labels={"who": "we"},
    )


def test_an_image_has_one_id_in_every_form(root: Path, config: ImageConfig, tmp_path: Path) -> None:
    ids = {form: write(root, tmp_path / form, config) for form, (write, _, _) in FORMS.items()}
    assert len(set(ids.values())) == 1
    for form, (_, _, kind) in FORMS.items():
        found = archives.describe(kind, tmp_path / form)
        assert (found.image_id, found.architecture) == (ids[form], config.architecture)


@pytest.mark.parametrize("form", FORMS)
def test_skopeo_reads_every_form_and_finds_no_damage(
    root: Path, config: ImageConfig, tmp_path: Path, form: str
) -> None:
    write, transport, _ = FORMS[form]
    write(root, tmp_path / form, config)
    skopeo = ["skopeo", "--insecure-policy", "--override-os=linux"]
    location = f"{transport}:{tmp_path / form}"
    shown = json.loads(subprocess.run([*skopeo, "inspect", location], capture_output=True, check=True).stdout)
    assert (shown["Created"], shown["Labels"], shown["Env"]) == (
        "2023-11-14T22:13:20Z",
        {"who": "we"},
        ["A=1 = 1", "B=2"],
    )
    subprocess.run([*skopeo, "copy", "--quiet", location, f"dir:{tmp_path / 'copy'}"], check=True)
    settings = json.loads(
        subprocess.run([*skopeo, "inspect", "--config", location], capture_output=True, check=True).stdout
    )
    assert settings["config"]["Entrypoint"] == ["/bin/true"]
    assert settings["config"]["Cmd"] == ["--help"]
    assert (settings["config"]["User"], settings["config"]["WorkingDir"]) == ("nobody", "/tmp")


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_archives_are_the_same_bytes_each_time(root: Path, config: ImageConfig, tmp_path: Path, form: str) -> None:
    FORMS[form][0](root, tmp_path / "one", config)
    for path in (root / "bin/true", root / "bin", root):
        os.utime(path)
    FORMS[form][0](root, tmp_path / "two", config)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_oci_archive_can_be_turned_into_the_other_forms(root: Path, config: ImageConfig, tmp_path: Path) -> None:
    write_oci_archive(root, tmp_path / "image.tar", config)
    write_docker_archive(root, tmp_path / "direct.tar", config)
    with opened(tmp_path / "image.tar") as image:
        for form in Format:
            image.write(tmp_path / f"again-{form}", form)
    assert (tmp_path / "again-oci").read_bytes() == (tmp_path / "image.tar").read_bytes()
    assert (tmp_path / "again-docker").read_bytes() == (tmp_path / "direct.tar").read_bytes()
    assert (tmp_path / "again-directory/bin/true").read_bytes() == b"true"
    assert (tmp_path / "again-directory/tmp").stat().st_mode & 0o7777 == 0o1777


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, None])
def test_what_is_no_archive_of_ours_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "image.tar"
    if content is None:
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("index.json"))
    else:
        path.write_bytes(content)
    with pytest.raises(ImageError, match="is no OCI archive that was built here"), opened(path):
        pass


def test_a_damaged_layer_is_refused(root: Path, config: ImageConfig, tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    write_oci_archive(root, path, config)
    data = path.read_bytes()
    assert data.count(b"true") > 1
    path.write_bytes(data.replace(b"true", b"evil"))
    with pytest.raises(ImageError), opened(path):
        pass


def test_a_directory_that_is_there_is_never_replaced(root: Path, config: ImageConfig, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ImageError, match="is there already"):
        write_oci_layout(root, tmp_path / "out", config)


def test_a_layer_that_would_write_through_its_own_link_is_not_unpacked(config: ImageConfig, tmp_path: Path) -> None:
    tree = {"out": symlink(str(tmp_path)), "out/file": file(b"evil")}
    with packed(tree, config) as image, pytest.raises(ImageError, match="leads through a symbolic link"):
        image.write(tmp_path / "root", Format.DIRECTORY)
    assert not (tmp_path / "file").exists()
    assert not (tmp_path / "root").exists()


def test_a_write_that_fails_leaves_nothing(config: ImageConfig, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with packed({"a": file(b"x")}, config) as image:
        shutil.rmtree(image.layer.path.parent)
        with pytest.raises(FileNotFoundError):
            image.write(tmp_path / "out/image.tar", Format.OCI)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_place_that_is_not_there_is_named(root: Path, config: ImageConfig) -> None:
    with pytest.raises(ImageError, match="/no/such: is not a directory; make it first"):
        write_oci_archive(root, Path("/no/such/image.tar"), config)
