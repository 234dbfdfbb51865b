"""Trees as a hostile machine would leave them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmd.environment import trees


@pytest.fixture
def outputs(tmp_path: Path) -> Iterator[Path]:
    """An empty joboutputs; removed however deep it has become."""
    path = tmp_path / "joboutputs"
    path.mkdir()
    yield path
    trees.remove(path)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the host that no machine may see, outside the joboutputs."""
    path = tmp_path / "secret"
    path.write_text("root:secret")
    return path


@pytest.fixture
def nest(outputs: Path) -> Callable[[int], None]:
    """Makes directories in each other, far beyond what one path can name; a file at the bottom."""
    return lambda levels: _nested(outputs, levels)


def _nested(top: Path, levels: int) -> None:
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("bottom", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here))
    os.close(here)


@pytest.fixture
def special_files(outputs: Path, secret: Path) -> None:
    """A fifo, a socket, links out of the joboutputs and, where this user may make one, a device."""
    top = outputs
    os.mkfifo(top / "fifo")
    os.mknod(top / "socket", 0o140644)
    (top / "link").symlink_to(secret)
    (top / "directory_link").symlink_to(secret.parent)
    (top / "dangling").symlink_to("nowhere")
    if os.geteuid() == 0:
        os.mknod(top / "device", 0o020666, os.makedev(1, 5))


_SWAPPER = """
import os, sys
os.chdir(sys.argv[1])
def gone(name):
    try: os.unlink(name)
    except IsADirectoryError:
        for inner in os.listdir(name): os.unlink(name + "/" + inner)
        os.rmdir(name)
    except FileNotFoundError: pass
def file(name):
    with open(name, "w") as out: out.write("harmless")
def folder(name):
    os.mkdir(name); file(name + "/secret")
ways = [file, lambda n: os.symlink(sys.argv[2], n), os.mkfifo, folder,
        lambda n: os.symlink(os.path.dirname(sys.argv[2]), n), lambda n: os.symlink("target", n)]
folder("target")
print("ready", flush=True)
number = 0
while True:
    for name in ("shutdown_message", "a", "b"):
        number += 1
        try:
            ways[number // 3 % len(ways)]("new")
            if os.path.isdir(name) and not os.path.islink(name): gone(name)
            os.rename("new", name)
            if number % 5 == 0: gone(name)
        except OSError: pass
        finally:
            try: gone("new")
            except OSError: pass
"""


@pytest.fixture
def swapper(outputs: Path, secret: Path) -> Iterator[None]:
    """A process that keeps replacing entries of the joboutputs by links, fifos, directories and files."""
    process = subprocess.Popen([sys.executable, "-c", _SWAPPER, str(outputs), str(secret)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield
        assert process.poll() is None, "the writer must have raced to the end"
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(outputs)
