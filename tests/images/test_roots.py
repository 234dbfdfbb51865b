"""Container images as root directories: every form, verified, by digest, once, whole or not at all."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from images_layered import COMPRESSIONS, Layer, digest, file, folder, pack, write_layout

from images import roots
from images.container import Form, opened
from images.errors import ImageError
from images.unpack import Limits

LAYERS: list[Layer] = [[folder("bin"), file("bin/sh", b"shell", mode=0o755)], [file("bin/sh", b"newer", mode=0o755)]]
CONFIG = {
    "Env": ["PATH=/bin", "EMPTY=", "EQUALS=a=b", "no value"],
    "Entrypoint": ["/bin/sh"],
    "Cmd": ["-c", "true"],
    "User": "nobody:users",
    "WorkingDir": "/tmp",
}


def silent(_: str) -> None:
    pass


def ensured(cache: Path, path: Path, form: Form = Form.OCI_LAYOUT, limits: Limits = Limits()) -> roots.Root:  # noqa: B008
    with opened(form, path, path.parent) as image:
        return roots.ensure(cache, image, silent, limits)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", LAYERS, config=CONFIG)
    return tmp_path / "layout"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "roots"


@pytest.mark.parametrize(
    ("form", "compression"),
    [
        (f, c) for f in Form for c in COMPRESSIONS if (f, c) != (Form.DOCKER_ARCHIVE, "+zstd")
    ],  # which skopeo cannot write
)
def test_an_image_of_any_form_and_compression_is_one_root(
    tmp_path: Path, cache: Path, form: Form, compression: str
) -> None:
    image_id = write_layout(tmp_path / "layout", LAYERS, compression, CONFIG)
    path = tmp_path / "layout"
    if form is not Form.OCI_LAYOUT:
        path = tmp_path / "image"
        copy = ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{tmp_path / 'layout'}", f"{form}:{path}"]
        subprocess.run(copy, check=True)
    root = ensured(cache, path, form)
    assert root.described.image_id == image_id
    assert root.path == cache / image_id.removeprefix("sha256:") / "root"
    assert (root.path / "bin/sh").read_bytes() == b"newer"
    assert root.described.environment == {"PATH": "/bin", "EMPTY": "", "EQUALS": "a=b"}
    assert (root.described.entrypoint, root.described.command) == (("/bin/sh",), ("-c", "true"))
    assert (root.described.user, root.described.working_directory) == ("nobody:users", "/tmp")
    assert roots.find(cache, image_id) == root


def test_an_archive_that_is_compressed_as_a_whole_is_read(tmp_path: Path, cache: Path, layout: Path) -> None:
    subprocess.run(["tar", "-czf", tmp_path / "image.tgz", "-C", layout, "."], check=True)
    assert (ensured(cache, tmp_path / "image.tgz", Form.OCI_ARCHIVE).path / "bin/sh").is_file()


def test_only_root_of_the_host_reaches_what_is_unpacked(cache: Path, layout: Path) -> None:
    ensured(cache, layout)
    assert cache.stat().st_mode & 0o777 == 0o700


def test_a_root_is_unpacked_once_whoever_asks_together(cache: Path, layout: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        made = pool.starmap(_identity, [(cache, layout)] * 8)
    assert len(set(made)) == 1


def _identity(cache: Path, layout: Path) -> int:
    return (ensured(cache, layout).path / "bin/sh").stat().st_ino


def test_whoever_waits_is_told_for_what(cache: Path, layout: Path) -> None:
    cache.mkdir()
    told: list[str] = []
    with opened(Form.OCI_LAYOUT, layout, layout) as image:
        lock = cache / f"{image.described.image_id.removeprefix('sha256:')}.lock"
        holder = subprocess.Popen(["flock", str(lock), "sh", "-c", "echo held; sleep 0.5"], stdout=subprocess.PIPE)
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        roots.ensure(cache, image, told.append)
        holder.communicate()
    assert told[0] == f"waiting for another process that prepares {layout}"


def test_a_kill_at_any_time_leaves_a_whole_root_or_none(tmp_path: Path, cache: Path) -> None:
    many = [folder("d"), *(file(f"d/{number}", b"x" * 2000) for number in range(1500))]
    image_id = write_layout(tmp_path / "layout", [many])
    program = (
        "import sys; from pathlib import Path; from images import roots, container\n"
        "layout, cache = map(Path, sys.argv[1:])\n"
        "with container.opened(container.Form.OCI_LAYOUT, layout, layout) as image:\n"
        "    roots.ensure(cache, image, lambda _: print(flush=True))\n"
    )
    whole = 0
    for delay in (0.0, 0.02, 0.05):
        command = [sys.executable, "-c", program, str(tmp_path / "layout"), str(cache)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert process.stdout
        process.stdout.readline()  # it has begun
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = roots.find(cache, image_id)
        whole += found is not None
        assert found is None or len(list((found.path / "d").iterdir())) == 1500
    assert whole < 3, "no process was killed in the middle of its work"
    assert len(list((ensured(cache, tmp_path / "layout").path / "d").iterdir())) == 1500
    assert not list(cache.glob("*.partial"))


def test_a_root_whose_record_is_damaged_is_made_again(cache: Path, layout: Path) -> None:
    root = ensured(cache, layout)
    (root.path.parent / roots.RECORD).write_text("{")
    (root.path / "bin/sh").unlink()
    assert (ensured(cache, layout).path / "bin/sh").is_file()


def test_roots_are_listed_by_their_use_and_removed(tmp_path: Path, cache: Path, layout: Path) -> None:
    write_layout(tmp_path / "second", LAYERS[:1])
    first, second = ensured(cache, layout), ensured(cache, tmp_path / "second")
    os.utime(second.path.parent / roots.RECORD, (1_600_000_000, 1_600_000_000))
    assert [(root, used > 1_600_000_000) for root, used in roots.listed(cache)] == [(first, True), (second, False)]
    assert roots.listed(cache)[1][1] == 1_600_000_000, "looking at it is no use of it"
    roots.remove(cache, second.described.image_id)
    roots.remove(cache, second.described.image_id)
    assert [root for root, _ in roots.listed(cache)] == [first]
    assert not second.path.parent.exists()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    image_id = write_layout(tmp_path / "layout", [[file("large", os.urandom(3_000_000))]])
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "lmd-test", str(cache)], check=True)
    try:
        with pytest.raises(ImageError, match=r"^image .*layout: .*No space left on device$"):
            ensured(cache, tmp_path / "layout")
        assert roots.find(cache, image_id) is None
        assert [path.suffix for path in cache.iterdir()] == [".lock"]
    finally:
        subprocess.run(["umount", str(cache)], check=True)


def _edit(layout: Path, name: str, change: Mapping[str, Any]) -> None:
    document = json.loads((layout / name).read_text())
    document.update(change)
    (layout / name).write_text(json.dumps(document))


def _damaged_layer(layout: Path) -> None:
    blob = layout / "blobs" / digest(pack(LAYERS[1])).replace(":", "/")
    blob.write_bytes(blob.read_bytes().replace(b"newer", b"worse"))


def _damaged_config(layout: Path) -> None:
    for blob in (layout / "blobs/sha256").iterdir():
        if blob.read_bytes().startswith(b'{"architecture"'):
            blob.write_bytes(blob.read_bytes().replace(b"/bin/sh", b"/bin/sx"))


def _gone(layout: Path) -> None:
    for blob in (layout / "blobs/sha256").iterdir():
        blob.unlink()


def _fifo(layout: Path) -> None:
    for blob in (layout / "blobs/sha256").iterdir():
        blob.unlink()
        os.mkfifo(blob)


BAD = {
    "a layer that is not the one": (_damaged_layer, "layer 2 is damaged"),
    "a configuration that is not the one": (_damaged_config, "is damaged"),
    "blobs that are gone": (_gone, "No such file"),
    "blobs that are fifos": (_fifo, "no regular file"),
    "no manifest": (lambda layout: _edit(layout, "index.json", {"manifests": []}), "holds 0 images, expected one"),
    "a digest that is a path": (
        lambda layout: _edit(
            layout, "index.json", {"manifests": [{"mediaType": "x.manifest", "digest": "sha256:../../../etc/passwd"}]}
        ),
        "a digest is not sha256",
    ),
    "an index that is nested for ever": (
        lambda layout: (layout / "index.json").write_text("[" * 100_000),
        "is no oci that can be read",
    ),
    "an index that is large": (
        lambda layout: (layout / "index.json").write_text(" " * 5_000_000),
        "larger than 4000000 bytes",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_in_one_line_and_leaves_nothing(cache: Path, layout: Path, name: str) -> None:
    spoil, wanted = BAD[name]
    spoil(layout)
    with pytest.raises(ImageError, match=wanted) as refused:
        ensured(cache, layout)
    assert str(layout) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(cache.glob("*/")), "something of it stays"


@pytest.mark.parametrize("content", [b"", b"no tar file at all", b"\x1f\x8b broken", b"\x28\xb5\x2f\xfd broken"])
@pytest.mark.parametrize("form", [Form.OCI_ARCHIVE, Form.DOCKER_ARCHIVE])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, cache: Path, form: Form, content: bytes) -> None:
    path = tmp_path / "a 'name' <with> signs"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"^image .*/a 'name' <with> signs: is no {form} that can be read: "):
        ensured(cache, path, form)


def test_an_image_that_is_not_there_is_named(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere: .*No such file"):
        ensured(cache, tmp_path / "nowhere", Form.OCI_ARCHIVE)


def test_a_layer_that_unpacks_to_more_than_its_limit_is_refused_before_it_is_written(
    tmp_path: Path, cache: Path
) -> None:
    write_layout(tmp_path / "layout", [[file("zeros", bytes(5_000_000))]], "+gzip")
    with pytest.raises(ImageError, match="is larger than 1000000 bytes when it is unpacked"):
        ensured(cache, tmp_path / "layout", limits=Limits(bytes=1_000_000))
    assert not list(cache.glob("*/"))


def test_a_configuration_of_another_system_or_shape_is_refused(tmp_path: Path, cache: Path) -> None:
    for number, config in enumerate(({"Env": {"a": "b"}}, {"User": 3}, {"Cmd": ["a\0b"]})):
        write_layout(tmp_path / str(number), LAYERS, config=config)
        with pytest.raises(ImageError, match=r"its configuration is wrong: config\."):
            ensured(cache, tmp_path / str(number))


def test_a_layer_of_an_archive_may_be_a_link_to_another(tmp_path: Path, cache: Path, layout: Path) -> None:
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout}", f"docker-archive:{tmp_path / 'a.tar'}"]
    subprocess.run(copy, check=True)
    with tarfile.open(tmp_path / "a.tar") as archive:
        linked = [member.name for member in archive if member.issym()]
        archive.extractall(tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    manifest[0]["Layers"] = linked
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest))
    subprocess.run(["tar", "-cf", tmp_path / "b.tar", "-C", tmp_path / "out", "."], check=True)
    assert (ensured(cache, tmp_path / "b.tar", Form.DOCKER_ARCHIVE).path / "bin/sh").read_bytes() == b"newer"
