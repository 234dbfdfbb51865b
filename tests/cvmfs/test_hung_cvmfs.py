"""A /cvmfs that hangs: owned by an autofs whose daemon does not answer, which keeps nobody waiting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MOUNT = """
import ctypes, os, sys, time
from pathlib import Path
import cvmfs.configuration as configuration
from cvmfs.errors import CvmfsError
from cvmfs.hosting import System, probe

where, etc = Path(sys.argv[1]), Path(sys.argv[2])
reading, writing = os.pipe()
options = f"fd={writing},pgrp={os.getpgrp()},minproto=5,maxproto=5,indirect".encode()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"auto", os.fsencode(where), b"autofs", 0, options) != 0:
    print("no autofs:", os.strerror(ctypes.get_errno()))
    sys.exit(0)
child = os.fork()
if child == 0:
    os.setsid()  # the daemon's own process group would be let through
    assert probe(where / "test.example.org", 0.5) == "no answer within 0.5 s"
    try:
        System(where, 0.5).ensure("test.example.org", os.getpid())
    except CvmfsError as error:
        print(error)
    configuration.CONVENTIONAL, configuration.ANSWER_SECONDS = where, 0.5
    try:
        configuration.load_values(configuration.Request("test.example.org", {}, None, etc))
    except CvmfsError as error:
        print(error)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
"""


def test_an_autofs_that_does_not_answer_hangs_neither_provider(tmp_path: Path) -> None:
    where, etc = tmp_path / "cvmfs", tmp_path / "etc"
    where.mkdir()
    etc.mkdir()
    (etc / "default.conf").write_text("CVMFS_CONFIG_REPOSITORY=config.example.org\nCVMFS_HTTP_PROXY=DIRECT\n")
    done = subprocess.run(
        ["unshare", "--mount", "--propagation=private", sys.executable, "-c", MOUNT, str(where), str(etc)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.stdout.startswith("no autofs"):
        pytest.skip(done.stdout)
    assert f"{where}/test.example.org: no answer within 0.5 s" in done.stdout, done.stderr
    assert f"{where}/config.example.org/etc/cvmfs: no answer within 0.5 s" in done.stderr, done.stdout
    assert done.stdout.endswith("no server: CVMFS_SERVER_URL (or --server) has to name one\n"), done.stdout
