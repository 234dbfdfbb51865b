"""Small CernVM-FS repositories for machines, published and served on loopback by the tests."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "cvmfs"))

from cvmfs_publisher import Item, Publisher, directory, file, link
from cvmfs_served import Web

NAME = "test.example.org"


def executable(text: str) -> Item:
    made = file(text.encode())
    made.mode |= 0o111
    return made


def published(root: Path, revision: int = 1) -> Publisher:
    made = Publisher(root, NAME)
    made.publish(
        {
            "/hello": file(f"hello of revision {revision}\n".encode()),
            "/bin": directory(),
            "/bin/program": executable("#!/bin/sh\necho a program of the repository\n"),
            "/current": link(b"hello"),
            **root_file_system(),
        }
    )
    return made


def root_file_system() -> dict[str, Item]:
    """A root of busybox alone, with the files that one used in place has to have."""
    program = shutil.which("busybox")
    assert program, "busybox is not installed: apt-get install busybox-static"
    folders = ("", "/bin", "/etc", "/tmp", "/proc", "/sys", "/dev", "/run", "/var", "/var/tmp", "/root", "/cvmfs")
    tree = {f"/root{name}": directory() for name in folders}
    busybox = file(Path(program).read_bytes())
    busybox.mode |= 0o111
    tree |= {"/root/bin/busybox": busybox, "/root/bin/cat": link(b"busybox"), "/root/bin/sh": link(b"busybox")}
    tree |= {f"/root/etc/{name}": file(b"") for name in ("hosts", "hostname", "resolv.conf")}
    tree["/root/etc/passwd"] = file(b"root:x:0:0:root:/root:/bin/sh\n")
    tree["/root/etc/group"] = file(b"root:x:0:\n")
    tree["/root/etc/here"] = file(b"a root file system\n")
    tree["/root/etc/mtab"] = link(b"/proc/mounts")
    return tree


def stand_in(folder: Path, url: str, key: Path, cache: Path) -> Path:
    """A directory with a program `cvmfs2` that takes the real one's arguments and says what the real one says."""
    folder.mkdir()
    python, reader = sys.executable, f"--server {url} --key {key} --proxy DIRECT --cache {cache}"
    script = f"""#!/bin/bash
echo "cvmfs2 $*" >> {folder}/said
repository=${{@: -2:1}} where=${{@: -1}}
echo "CernVM-FS: loading Fuse module... done"
echo "CernVM-FS: mounted cvmfs on $where"
exec {python} -m cvmfs mount "$repository" "$where" --foreground {reader}
"""
    (folder / "cvmfs2").write_text(script)
    (folder / "cvmfs2").chmod(0o755)
    return folder


@contextmanager
def served(root: Path) -> Iterator[str]:
    web = Web(root)
    try:
        yield web.url
    finally:
        web.stop()
