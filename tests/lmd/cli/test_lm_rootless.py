"""`lm run` for an ordinary user, on rootless Podman: a user of the test's own, in a private view of /etc."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

UID = 61_234
SUBORDINATE = 1_000_000_000
TYPE = """
[machinetypes.rootless]
root_image = "lmd:busybox"
user_data = "work.sh"
capabilities = ["SETUID", "SETGID"]
mb_per_processor = 64
network = "none"
"""
WORK = """#!/bin/sh
su nobody -s /bin/sh -c 'umask 077; echo mine > $JOBOUTPUTS/mine; mkdir $JOBOUTPUTS/d; echo x > $JOBOUTPUTS/d/x; id -u'
lm-payload done 200 Success
"""


class User:
    """Somebody without any right on this host but a range of subordinate ids."""

    def __init__(self, home: Path) -> None:
        self.home = home
        etc = home / "etc"
        for path in (home, etc, home / "run", home / ".config/lmd", home / "work"):
            path.mkdir(parents=True, exist_ok=True)
        (etc / "passwd").write_text(Path("/etc/passwd").read_text() + f"lmd-test:x:{UID}:{UID}::{home}:/bin/sh\n")
        for name in ("subuid", "subgid"):
            (etc / name).write_text(f"lmd-test:{SUBORDINATE}:65536\n")
        (home / ".config/lmd/lmd.toml").write_text('[policy]\ncapabilities = ["SETUID", "SETGID"]\n')
        (home / "work/rootless.toml").write_text(TYPE)
        (home / "work/work.sh").write_text(WORK)
        for path in (home, *home.rglob("*")):
            if etc not in (path, *path.parents):
                os.chown(path, UID, UID)
        (home / "run").chmod(0o700)

    def __call__(self, *command: str) -> subprocess.CompletedProcess[str]:
        mounts = " && ".join(f'mount --bind "$0/etc/{name}" /etc/{name}' for name in ("passwd", "subuid", "subgid"))
        ids = [f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all"]
        script = [f'{mounts} && cd "$0/work" && exec "$@"', str(self.home), "setpriv", *ids, *command]
        variables = {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home / "run"), "PATH": os.environ["PATH"]}
        return subprocess.run(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", *script],
            env=variables,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    def lm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self(sys.executable, "-c", "from lmd.cli.main import main; main()", *arguments)


@pytest.fixture
def user(short_tmp: Path) -> Iterator[User]:
    home = short_tmp / "rootless"
    made = User(home)
    able = made(sys.executable, "-c", "import lmd")
    assert able.returncode == 0, f"an ordinary user cannot run {sys.executable} or read this checkout: {able.stderr}"
    yield made
    made("podman", "system", "reset", "--force")
    made("podman", "unshare", "rm", "-rf", str(home / ".local"))
    subprocess.run(["pkill", "-KILL", "-u", str(UID)], check=False)
    shutil.rmtree(home, ignore_errors=True)


def test_an_ordinary_user_s_machine_brings_home_what_its_own_users_wrote(user: User) -> None:
    done = user.lm("run", "rootless.toml", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "65534"
    out = user.home / "work/out/joboutputs"
    assert (out / "mine").read_text() == "mine\n"
    assert (out / "d/x").read_text() == "x\n"
    assert {path.stat().st_uid for path in out.rglob("*")} == {UID}
    assert json.loads(user.lm("ps", "--json").stdout) == []
    assert list((user.home / ".local/state/lmd/machines").iterdir()) == []


def test_what_an_ordinary_user_s_podman_cannot_enforce_is_said_and_refused_if_required(user: User) -> None:
    said = user.lm("run", "rootless.toml").stderr
    refused = user.lm("run", "rootless.toml", "--set", "user_namespace=required")
    assert refused.returncode == 20
    assert "rootless podman shares the user's own ids" in refused.stderr
    if "not enforced on this host" in said:
        refused = user.lm("run", "rootless.toml", "--set", 'require_limits=["memory"]')
        assert (refused.returncode, "an enforced limit on memory" in refused.stderr) == (20, True)
