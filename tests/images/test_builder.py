"""Building images: the busybox image whole, and what a Debian build does when it cannot."""

import contextlib
import functools
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from images.archive import Format, opened
from images.builder import build, chosen_epoch
from images.errors import ImageError
from images.kinds.busybox import BusyboxSource, is_static
from images.kinds.debian import DebianSource, complaint_of
from images.recipe import Recipe

WriteRecipe = Callable[..., Recipe]
DEBIAN = 'description = "x"\nkind = "debian"\nsuite = "bookworm"\nmirrors = ["http://127.0.0.1:{port}/debian"]\n'


def _unpacked(archive: Path, root: Path) -> Path:
    with opened(archive) as image:
        image.write(root, Format.DIRECTORY)
    return root


def test_the_busybox_image_is_the_same_bytes_each_time(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    one = build(busybox, tmp_path / "one.tar", epoch)
    two = build(busybox, tmp_path / "two.tar", epoch)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    assert one.image_id == two.image_id
    assert build(busybox, tmp_path / "later.tar", epoch + 1).image_id != one.image_id


def test_the_busybox_image_holds_what_a_root_directory_used_in_place_needs(
    busybox: Recipe, tmp_path: Path, epoch: int
) -> None:
    build(busybox, tmp_path / "image.tar", epoch)
    root = _unpacked(tmp_path / "image.tar", tmp_path / "root")
    for name in ("passwd", "group", "hosts", "hostname", "resolv.conf"):
        assert (root / "etc" / name).is_file()
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    for name in ("dev", "proc", "sys", "run", "etc/machinefeatures", "etc/jobfeatures", "var/spool/joboutputs"):
        assert list((root / name).iterdir()) == []
    assert (root / "usr/local/bin/lm-payload").stat().st_mode & 0o777 == 0o755
    assert "root:" in (root / "etc/passwd").read_text()


def test_the_commands_in_the_busybox_image_run(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    build(busybox, tmp_path / "image.tar", epoch)
    root = _unpacked(tmp_path / "image.tar", tmp_path / "root")
    (root / "var/spool/joboutputs").chmod(0o777)
    script = "echo ok | sed s/ok/fine/ && lm-payload done 200 Success && id -un"
    enter = ["chroot"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "chroot"]
    done = subprocess.run(
        [*enter, str(root), "/bin/sh", "-c", script],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"},
    )
    assert (done.stdout, done.stderr) == ("fine\nroot\n", "")
    assert (root / "var/spool/joboutputs/shutdown_message").read_text() == "200 Success\n"


def test_the_packages_are_recorded_beside_the_image_and_in_its_labels(
    busybox: Recipe, tmp_path: Path, epoch: int
) -> None:
    image = build(busybox, tmp_path / "image.tar", epoch)
    (package,) = image.packages
    line = f"{package.name}\t{package.version}\t{package.architecture}\n"
    assert (tmp_path / "image.tar.packages").read_text() == line
    with opened(image.path) as packed:
        assert f'"lmd.packages":"busybox-static={package.version}"'.encode() in packed.config
    if shutil.which("dpkg-query"):
        query = ["dpkg-query", "--show", "--showformat=${Version}", "busybox-static"]
        assert package.version == subprocess.run(query, capture_output=True, text=True, check=True).stdout


def test_files_of_the_recipe_are_in_the_image_and_win(write_recipe: WriteRecipe, tmp_path: Path, epoch: int) -> None:
    recipe = write_recipe(
        'description = "x"\nkind = "busybox"\n[files."/etc/hosts"]\ntext = "mine"\n[files."/opt/a/b"]\nlink = "/bin/sh"'
    )
    build(recipe, tmp_path / "image.tar", epoch)
    root = _unpacked(tmp_path / "image.tar", tmp_path / "root")
    assert (root / "etc/hosts").read_text() == "mine"
    assert str((root / "opt/a/b").readlink()) == "/bin/sh"


def test_a_host_without_busybox_is_told_what_to_type(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    source = BusyboxSource(search=str(tmp_path))
    assert source.missing() == "busybox is not installed: apt-get install busybox-static"
    with pytest.raises(ImageError, match="apt-get install busybox-static"):
        build(busybox, tmp_path / "image.tar", epoch, source=source)


def test_a_busybox_that_needs_libraries_is_not_taken(tmp_path: Path) -> None:
    shutil.copy("/bin/cat", tmp_path / "busybox")
    missing = BusyboxSource(search=str(tmp_path)).missing()
    assert missing == f"{tmp_path}/busybox is not statically linked: apt-get install busybox-static"


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n" * 20, b"\x7fELF\x02\x01" + b"\xff" * 200])
def test_what_is_no_program_is_not_static(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    assert not is_static(tmp_path / "file")


def test_a_host_without_mmdebstrap_is_told_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "keyring").touch()
    empty = {"PATH": str(tmp_path)}
    source = DebianSource(empty, 0, keyring=tmp_path / "none", search=str(tmp_path))
    assert source.missing() == (
        "not installed: mmdebstrap, debian-archive-keyring: apt-get install mmdebstrap debian-archive-keyring"
    )
    for program in ("mmdebstrap", "newuidmap"):
        (tmp_path / program).write_text("")
        (tmp_path / program).chmod(0o755)
    assert DebianSource(empty, 0, keyring=tmp_path / "keyring", search=str(tmp_path)).missing() is None


def test_an_ordinary_user_without_a_range_of_user_ids_is_told_what_root_has_to_type(tmp_path: Path) -> None:
    (tmp_path / "keyring").touch()
    (tmp_path / "subuid").write_text("somebody:100000:65536\n")
    source = DebianSource({}, 4321, subuid=tmp_path / "subuid", keyring=tmp_path / "keyring", search=str(tmp_path))
    assert "apt-get install mmdebstrap uidmap" in str(source.missing())
    for program in ("mmdebstrap", "newuidmap"):
        (tmp_path / program).write_text("")
        (tmp_path / program).chmod(0o755)
    assert "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 4321" in str(source.missing())
    (tmp_path / "subuid").write_text("4321:100000:65536\n")
    assert source.missing() is None


@pytest.fixture
def empty_mirror(tmp_path: Path) -> Iterator[int]:
    """The port of a web server that has nothing."""
    (tmp_path / "mirror").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_mirror_without_the_suite_is_named_and_nothing_is_left(
    write_recipe: WriteRecipe, tmp_path: Path, epoch: int, empty_mirror: int
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    steps: list[str] = []
    with pytest.raises(ImageError, match=r"image mine: mmdebstrap failed: .*127\.0\.0\.1.* Release") as caught:
        build(write_recipe(DEBIAN.format(port=empty_mirror)), out / "image.tar", epoch, progress=steps.append)
    assert "\n" not in str(caught.value)
    assert steps == ["reading the mirror's package lists"]
    assert list(out.iterdir()) == []


def test_a_package_that_is_in_no_mirror_would_be_named_by_its_line() -> None:
    """Which of mmdebstrap's lines is shown: the first complaint, not the last."""
    lines = ["I: running apt-get update...", "E: Unable to locate package nosuch", "E: mmdebstrap failed to run"]
    assert complaint_of(lines) == "Unable to locate package nosuch"


def test_a_build_that_is_interrupted_ends_all_it_started_and_leaves_nothing(
    write_recipe: WriteRecipe, tmp_path: Path, hanging_mirror: socket.socket
) -> None:
    write_recipe(DEBIAN.format(port=hanging_mirror.getsockname()[1]))
    out = tmp_path / "out"
    out.mkdir()
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
        "from pathlib import Path; from images.builder import build; from images.recipe import load\n"
        "build(load(Path(sys.argv[1])), Path(sys.argv[2]), 1700000000)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "recipes/mine"), str(out / "image.tar")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])
    try:
        hanging_mirror.settimeout(30)
        connection, _ = hanging_mirror.accept()
        with connection:
            assert _below(process.pid)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=40)
        assert b"KeyboardInterrupt" in errors
        assert list(out.iterdir()) == []
        assert _mentioning(str(out)) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        process.stderr.close()


def _below(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _mentioning(text: str) -> list[str]:
    """Command lines of processes, other than this one's, in which `text` stands; waits a little for them to end."""
    for _ in range(50):
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if text in line and path.parent.name != str(os.getpid()):
                    found.append(line)
        if not found:
            return []
        time.sleep(0.1)
    return found


@pytest.mark.parametrize("epoch", [-1, 10**15])
def test_a_time_that_is_none_is_refused(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    with pytest.raises(ImageError, match="is no time"):
        build(busybox, tmp_path / "image.tar", epoch)


def test_the_epoch_is_the_environments_or_the_last_midnight() -> None:
    assert chosen_epoch({"SOURCE_DATE_EPOCH": "1700000000"}, 5.0) == 1_700_000_000
    assert chosen_epoch({}, 1_700_000_000.5) == 1_699_920_000
    for wrong in ("", "-1", "yesterday", "9" * 20):
        with pytest.raises(ImageError, match="SOURCE_DATE_EPOCH is"):
            chosen_epoch({"SOURCE_DATE_EPOCH": wrong}, 0.0)


def test_no_image_holds_a_device_node(busybox: Recipe, tmp_path: Path, epoch: int) -> None:
    build(busybox, tmp_path / "image.tar", epoch)
    with opened(tmp_path / "image.tar") as image, tarfile.open(image.layer.path) as layer:
        assert not [member.name for member in layer if member.isdev() and not member.isfifo()]
