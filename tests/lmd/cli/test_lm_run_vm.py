"""`lm run` with virtual machines: as with containers, and the same image gives the same either way."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import pytest

from images.archive import ImageConfig, write_oci_archive
from lmd.conformance import compare, parse

pytestmark = pytest.mark.timeout(600)
LM = [sys.executable, "-c", "from lmd.cli.main import main; main()"]

OF_THE_IMAGE = """
cd "$JOBOUTPUTS" && mkdir seen && cd seen || exit 1
echo "$0" "$@" >arguments
pwd -P >outputs; (cd "$OLDPWD" && cd - >/dev/null; echo "$FOLDER") >folder
id >user; umask >umask; ulimit -n >files
env | grep -Ev '^(LM_|HOSTNAME|PWD|OLDPWD|SHLVL|_|TERM|container)' | sort >variables
for path in /bin/sh /bin/busybox /tmp /root /etc /etc/passwd "$JOBOUTPUTS" /user_data; do
    stat -c '%n %F %a %u:%g' "$path"
done >places 2>&1
stat -c '%n %F %a' "$MACHINEFEATURES" "$JOBFEATURES/allocated_cpu" >>places # whose they are, user namespaces change
find /bin /etc -type f ! -path '/etc/host*' ! -path '/etc/resolv*' ! -path '/etc/*features/*' |
    sort | xargs sha256sum >content 2>&1
cat /proc/self/status | grep -E '^(Uid|Gid|Umask)' >status
exit 7
"""
FILL = "while :; do head -c 1000000 /dev/zero >>$JOBOUTPUTS/large; done"


def left(folder: Path) -> dict[str, bytes]:
    """All that a machine left, by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if not path.is_dir()}


def test_one_image_gives_the_same_as_container_and_as_virtual_machine(
    vm, busybox_root: Path, image_cache: Path
) -> None:
    """What its own entrypoint, variables, user and folder make it do, byte by byte, and the digest that is told."""
    work = vm.home / "work"
    config = ImageConfig(
        environment={"PATH": "/usr/bin:/bin", "FROM": "the image", "QUOTED": "a 'b' \"c\" <d> & $e\n\u00e9"},
        entrypoint=("/bin/sh", "-c", OF_THE_IMAGE.replace("$FOLDER", "$PWD")),
        command=("zero", "one two", "", "<three> 'four' \"five\" &amp; $HOME"),
        user="user",
        working_directory="/tmp",
    )
    image_id = write_oci_archive(busybox_root, work / "image.tar", config)
    (work / "both.toml").write_text(
        '[machinetypes.both]\nroot_image = "./image.tar"\nmb_per_processor = 128\nnetwork = "none"\n'
        'open_files = 512\noutcome = { 7 = "200 as the image says" }\nenvironment = { TYPE = "the type" }\n'
    )
    found = {}
    configuration = vm.home / "config/lmd.toml"
    plain = configuration.read_text()
    disk = image_cache / "rootfiles" / f"{image_id.removeprefix('sha256:')}.ext4"
    for name in ("container", "shared", "vm"):  # shared: as a directory by virtiofs, as large images are
        isolation = "vm" if name == "shared" else name
        configuration.write_text(plain + ("image_file_bytes = 1\n" if name == "shared" else ""))
        done = vm("run", "both.toml", "--set", f"isolation={isolation}", "-o", name, "--json", seconds=280)
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert (summary["image_digest"], summary["exit_code"]) == (image_id, 7)
        assert summary["runtime"] == {"container": "podman", "vm": "kvm"}[isolation]
        found[name] = left(work / name / "joboutputs")
        assert disk.exists() is (name == "vm")
    assert found["container"].keys() >= {f"seen/{name}" for name in ("arguments", "user", "variables", "content")}
    assert found["vm"] == found["container"]
    assert found["shared"] == found["container"]
    assert found["vm"]["seen/user"].startswith(b"uid=1000(user)")
    assert b"QUOTED=a 'b' \"c\" <d> & $e" in found["vm"]["seen/variables"]


def test_the_environment_is_the_same_field_by_field(vm, docker) -> None:
    """The same type as container of Podman and of Docker, and as virtual machine."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in docker.options.items()]
    with (vm.home / "config/lmd.toml").open("a") as out:
        out.write("\n".join(["[runtimes.docker]", *lines, ""]))
    script = resources.files("lmd.conformance").joinpath("portrait.sh").read_text()
    type_ = vm.machinetype(
        "portrait",
        script,
        mb_per_processor=128,
        args=["one", "two words", "", "$HOME `id` 'quoted' \"twice\" <b> &"],
        environment={"LMC_HARD": "a b\tc=$HOME 'x' \"y\" <z> &\nsecond line"},
        tmpfs={"/lmc-memory": 1_000_000},
        tmp_binds=["/lmc-scratch"],
    )
    reports = {}
    for runtime in ("podman", "docker", "kvm"):
        done = vm("run", type_, "--set", f"runtime={runtime}", "-o", runtime, "-p", "1", seconds=280)
        assert done.returncode == 0, done.stderr
        reports[runtime] = parse((vm.home / "work" / runtime / "joboutputs/portrait").read_bytes())
    for runtime in ("docker", "kvm"):
        differences = compare(reports["podman"], reports[runtime])
        assert not differences, "\n".join(
            f"{d.key}: {d.one!r} on podman, {d.other!r} on {runtime}" for d in differences
        )


def test_a_machine_that_fills_its_outputs_is_ended_and_told(vm) -> None:
    type_ = vm.machinetype("fill", FILL, isolation="vm", mb_per_processor=96, joboutputs_bytes=3_000_000)
    done = vm("run", type_, "-o", "out", "--grace", "1", seconds=280)
    assert done.returncode == 14, done.stderr
    assert "700 Joboutputs quota exceeded" in done.stderr


def test_names_with_quotes_and_angle_brackets_reach_the_machine_as_they_are(vm, busybox_root: Path) -> None:
    """The root directory is used in place, where it is; nothing of its name is pasted into XML or a shell."""
    odd = vm.home / "work" / "a 'b' \"c\" <d> & $(e)"
    subprocess.run(["cp", "-a", str(busybox_root), str(odd)], check=True)
    type_ = vm.machinetype("odd", "ls / >\"$JOBOUTPUTS/a <b> & 'c'\"", root_image=f"./{odd.name}", mb_per_processor=96)
    before = sorted(odd.rglob("*"))
    done = vm("run", type_, "--set", "isolation=vm", "-o", "out <x> 'y' & z", seconds=280)
    assert done.returncode == 0, done.stderr
    names = [path.name for path in (vm.home / "work/out <x> 'y' & z/joboutputs").iterdir()]
    assert names == ["a <b> & 'c'"]
    assert sorted(odd.rglob("*")) == before, "the root that it was started from has changed"


def joined(vm, *words: str) -> str:
    """What a person sees at a terminal where `lm` was typed, until a line with `tick` has come."""
    process, terminal = os.forkpty()
    if process == 0:
        os.execvpe(LM[0], [*LM, *words], vm.environment)
    seen, last = b"", time.monotonic() + 100
    try:
        while b"tick" not in seen and time.monotonic() < last:
            if select.select([terminal], [], [], 1)[0]:
                seen += os.read(terminal, 1000)
    except OSError:  # it has ended
        pass
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)
    return seen.decode(errors="replace")


def test_a_running_machine_is_seen_and_stopped_as_a_container_is(vm) -> None:
    script = "trap 'echo asked; exit 0' TERM; echo begun; while :; do sleep 0.2; echo tick; done"
    running = vm.start("run", vm.machinetype("long", script, isolation="vm", mb_per_processor=96), "-o", "out")
    try:
        running.until("begun", seconds=280)
        (machine,) = vm.machines()
        assert (machine["runtime"], machine["phase"], machine["machinetype"]) == ("kvm", "running", "long")
        assert "begun" in vm("logs", machine["id"]).stdout
        assert "tick" in joined(vm, "console", machine["id"])
        assert vm("stop", machine["id"], "--grace", "60", seconds=280).returncode == 0
        assert running.wait(200) == 15
        assert "asked" in running.said()
    finally:
        running.end()


@pytest.mark.parametrize(
    ("keys", "content", "wanted"),
    [
        ({"machine_model": "vm-raw"}, b"no image at all\n" * 9000, "is neither qcow2 nor ISO"),
        ({"machine_model": "vm-raw"}, b"\0" * 32769 + b"CD001" + bytes(2_000_000 - 6), "is iso; machine_model vm-raw"),
        ({"machine_model": "cernvm4"}, b"\0" * 510 + b"\x55\xaa" + bytes(5_000_192 - 512), "needs a boot ISO"),
        ({"machine_model": "direct", "kernel": "nowhere"}, b"\0" * 510 + b"\x55\xaa" + bytes(2**20), "kernel: "),
        ({"isolation": "vm"}, b"no archive\n" * 100, "neither a directory nor an uncompressed archive"),
    ],
)
def test_an_image_that_is_none_is_refused_before_anything_starts(
    vm, keys: dict[str, object], content: bytes, wanted: str
) -> None:
    name = "an 'image' <of> sorts"
    (vm.home / "work" / name).write_bytes(content[: len(content) // 512 * 512])
    type_ = vm.machinetype("bad", "", root_image=f"./{name}", user_data=None, network=None, **keys)
    done = vm("run", type_)
    assert done.returncode == 20
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
