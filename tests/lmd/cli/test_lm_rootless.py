"""All of `lm` as an ordinary user, on rootless Podman."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.archive import ImageConfig, write_oci_archive
from runtimes import cgroups

LM = ("-c", "from lmd.cli.main import main; main()")
no_limits = pytest.mark.skipif(not cgroups.mounts().v1, reason="on control groups of version 2 limits can be enforced")


class RootlessLm:
    """`lm` as its user; the test's root writes files for it and looks at what it leaves."""

    def __init__(self, user) -> None:
        self.user, self.home = user, user.home
        self.state = self.home / ".local/state/lmd"

    def __call__(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self.user.run(str(self.user.python), *LM, *words, stdin=stdin)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """In the background."""
        command = self.user.command("sh", "-c", 'cd && exec "$@"', "sh", str(self.user.python), *LM, *words)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def machines(self) -> list[dict]:
        return json.loads(self("ps", "--json").stdout)

    def machinetype(self, name: str, script: str, **keys: object) -> str:
        """A type whose machine runs `script` as its user 1000."""
        keys = {
            "root_image": "lmd:busybox",
            "entrypoint": ["/bin/sh", "-c", script],
            "user": "1000:1000",
            "mb_per_processor": 64,
            "max_processors": 1,
            "network": "none",
        } | keys
        lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        (self.home / f"{name}.toml").write_text("\n".join([f"[machinetypes.{name}]", *lines, ""]))
        return f"./{name}.toml"

    def everything(self) -> list[Path]:
        """What is in the state directory of any machine."""
        return list((self.state / "machines").rglob("*"))


@pytest.fixture(scope="session")
def rootless(ordinary_user) -> RootlessLm:
    return RootlessLm(ordinary_user)


@pytest.fixture
def lm(rootless: RootlessLm) -> Iterator[RootlessLm]:
    yield rootless
    for machine in rootless.machines():
        rootless("destroy", machine["id"])
    assert rootless.machines() == []
    assert rootless.everything() == []


PRIVATE = """
umask 077; cd $JOBOUTPUTS; id -u
echo mine > file; mkdir -p shut/deep; echo deep > shut/deep/file
echo none > nobody; chmod 0 nobody; chmod 0 shut/deep
echo '200 Success' > shutdown_message
"""


def test_what_a_machine_s_own_user_has_shut_comes_home_and_nothing_stays(lm: RootlessLm) -> None:
    done = lm("run", lm.machinetype("private", PRIVATE), "-o", "home")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1000\n"
    assert "200 Success" in done.stderr
    assert "left out" not in done.stderr
    outputs = lm.home / "home/joboutputs"
    found = {str(path.relative_to(outputs)): path.read_text() for path in outputs.rglob("*") if path.is_file()}
    assert found == {
        "file": "mine\n",
        "nobody": "none\n",
        "shut/deep/file": "deep\n",
        "shutdown_message": "200 Success\n",
    }
    assert {path.stat().st_uid for path in outputs.rglob("*")} == {lm.user.uid}
    assert lm.everything() == []


@no_limits
def test_limits_that_do_not_hold_are_told(lm: RootlessLm) -> None:
    done = lm("run", lm.machinetype("soft", "exit 0"))
    assert done.returncode == 0, done.stderr
    assert "not enforced on this host: memory, pids, processors (control groups of version 1" in done.stderr


@no_limits
def test_a_type_that_requires_limits_is_refused_with_the_reason(lm: RootlessLm) -> None:
    done = lm("run", lm.machinetype("hard", "exit 0", require_limits=True))
    assert done.returncode == 20, done.stderr
    assert "lacks an enforced limit on memory (control groups of version 1" in done.stderr
    assert lm.everything() == []


def test_a_type_that_requires_user_ids_of_its_own_is_refused_with_the_reason(lm: RootlessLm) -> None:
    done = lm("run", lm.machinetype("own", "exit 0", user_namespace="required"))
    assert done.returncode == 20, done.stderr
    assert "a user namespace of its own (rootless podman shares the user's own ids" in done.stderr


def test_a_running_machine_is_listed_shown_entered_read_and_stopped(lm: RootlessLm) -> None:
    name = lm.machinetype("long", "trap 'exit 0' TERM; echo hello; echo o > $JOBOUTPUTS/o; while sleep 0.1; do :; done")
    with lm.start("run", name) as running:
        machine = _running(lm)
        shown = json.loads(lm("show", machine, "--json").stdout)
        assert Path(shown["directory"]).parent == lm.state / "machines"
        assert shown["owner"] == f"run:{lm.user.uid}"
        assert lm("logs", machine).stdout == "hello\n"
        assert lm("exec", machine, "id", "-u").stdout == "1000\n"
        shell = lm("shell", machine, stdin="echo from the shell; exit 3\n")
        assert (shell.returncode, shell.stdout) == (3, "from the shell\n"), shell.stderr
        assert " o\n" in lm("outputs", machine).stdout
        assert lm("stop", machine).returncode == 0
        said, _ = running.communicate(timeout=30)
    assert running.returncode == 15, said


def test_a_killed_run_s_machine_is_found_and_removed_with_its_shut_files(lm: RootlessLm) -> None:
    name = lm.machinetype("lost", f"{PRIVATE}\nsleep 60")
    with lm.start("run", name):
        machine = _running(lm)
        assert lm("exec", machine, "sh", "-c", "until test -e $JOBOUTPUTS/shutdown_message; do :; done").returncode == 0
        record = json.loads((lm.state / "machines" / machine / "machine.json").read_text())
        lm.user.run("kill", "-KILL", str(record["supervisor"][0]))
    assert [found["orphaned"] for found in lm.machines()] == [True]
    done = lm("destroy", "--orphaned")
    assert done.returncode == 0, done.stderr


def test_a_user_s_images_are_brought_tried_and_removed(lm: RootlessLm, busybox_root: Path) -> None:
    write_oci_archive(busybox_root, lm.user.directory / "image.tar", ImageConfig(labels={"of": "a user"}))
    archive = f"oci-archive:{lm.user.directory}/image.tar"
    image_id = json.loads(lm("image", "pull", archive, "--json").stdout)["image_id"].removeprefix("sha256:")[:12]
    assert image_id in [image["id"] for image in json.loads(lm("image", "list", "--json").stdout)["engines"]]
    tried = lm("image", "test", archive, "--check", "joboutputs-come-home")
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert f"{archive}: can be a machine's" in tried.stdout
    gone = json.loads(lm("image", "prune", "--keep", "0", "--json").stdout)["removed"]
    assert image_id in [image["id"] for image in gone]


def test_the_contract_is_tried_out_and_a_type_is_examined(lm: RootlessLm) -> None:
    tried = lm("conformance", "podman", "--check", "bound-directory-is-written", "--check", "limits-are-told", "--json")
    outcomes = {one["check"]: one["outcome"] for one in json.loads(tried.stdout)["results"]}
    assert outcomes["bound-directory-is-written"] == "passed", tried.stdout
    assert outcomes["limits-are-told"] == ("not applicable" if cgroups.mounts().v1 else "passed"), tried.stdout
    examined = lm("doctor", lm.machinetype("hard", "exit 0", require_limits=True, user_namespace="required"))
    assert examined.returncode == 2
    assert "podman lacks a user namespace of its own (rootless podman shares the user's own ids" in examined.stdout
    assert "no runtime of this host can run machines of this type" in examined.stdout


def test_a_user_s_state_is_in_the_directories_of_the_xdg_specification(lm: RootlessLm) -> None:
    assert lm("run", lm.machinetype("places", "exit 0")).returncode == 0
    assert (lm.home / ".cache/lmd").is_dir()
    assert (lm.user.directory / "run/lmd").is_dir()
    assert (lm.state / "machines").stat().st_mode & 0o777 == 0o700
    ours = {path.name for path in lm.home.iterdir() if "lmd" in path.name}
    assert ours == set()


def _running(lm: RootlessLm) -> str:
    """The id of the one machine, once it runs."""
    last = time.monotonic() + 30
    while time.monotonic() < last:
        if [machine["id"] for machine in lm.machines() if machine["phase"] == "running"]:
            return lm.machines()[0]["id"]
        time.sleep(0.1)
    raise AssertionError(f"no machine runs: {lm.machines()}")
