"""What people get wrong with `lm`: one clear line, a documented exit code, nothing left behind."""

import socket
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["max_procesors=3"], "unknown key, did you mean max_processors?"),
        (["max_processors=many"], "max_processors"),
        (["root_image=localhost/none:1", "pull=never"], "pull is never"),
        (["root_image=/nowhere"], "/nowhere"),
        (["root_image=/usr"], "it lacks /etc/hosts"),
        (["root_image=lmd:nope"], "there is none; choose one of base, busybox"),
        (["user_data=./none.sh"], "none.sh"),
        (["user_data=/etc/hostname"], "cannot be run"),
        (["network=host"], "host_network = true would allow it"),
        (['capabilities=["SYS_ADMIN"]'], "[policy]"),
        (['devices=["/dev/fuse"]'], "[policy]"),
        (["features_form=http"], "served in one network"),
        (["architecture=s390x"], "lacks architecture s390x"),
        (["runtime=nope"], "no runtime 'nope'"),
        (['entrypoint=["/nope"]'], "/nope"),
        (["secret_files./x=/none"], "/none"),
        (["read_only=perhaps"], "read_only"),
        (["min_processors=8", "max_processors=2"], "max_processors"),
        (["heartbeat_seconds=5"], "heartbeat_file"),
    ],
)
def test_a_type_that_cannot_run_says_why(lm, changes: list[str], said: str) -> None:
    name = lm.machinetype("typo", "exit 0")
    done = lm("run", name, *(word for change in changes for word in ("--set", change)))
    assert done.returncode == 20, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert all(line.startswith("lm: ") for line in done.stderr.splitlines()), done.stderr
    assert lm.machines() == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "nothere"], 20, "no machinetype of this name"),
        (["run", "./nothere.toml"], 20, "cannot be read"),
        (["show", "nothere"], 1, "no such machine"),
        (["stop", "nothere"], 1, "no such machine"),
        (["destroy", "nothere"], 1, "no such machine"),
        (["logs", "nothere"], 1, "no such machine"),
        (["exec", "nothere", "true"], 1, "no such machine"),
        (["outputs", "nothere"], 1, "no such machine"),
        (["destroy"], 2, "name a machine"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_a_command_that_cannot_work_says_why(lm, arguments: list[str], code: int, said: str) -> None:
    done = lm(*arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_an_outputs_folder_with_something_in_it_is_left_alone(lm) -> None:
    (lm.home / "work/full").mkdir()
    (lm.home / "work/full/mine").touch()
    done = lm("run", lm.machinetype("x", "exit 0"), "-o", "full")
    assert done.returncode == 20
    assert "not empty" in done.stderr


def test_a_broken_configuration_is_told_with_file_and_key(lm) -> None:
    (lm.home / "config/lmd.toml").write_text("[settings]\nspcae = 'x'\n[policy]\nhost_network = 3\n")
    done = lm("run", lm.machinetype("x", "exit 0"))
    (lm.home / "config/lmd.toml").write_text("")
    assert done.returncode == 20
    assert "settings.spcae: unknown key, did you mean space?" in done.stderr
    assert "policy.host_network" in done.stderr


def test_an_engine_that_is_not_there_or_hangs_is_told_and_nothing_is_concluded(lm, short_tmp: Path) -> None:
    running = lm.start("run", lm.machinetype("sleep", "echo up; sleep 30"))
    running.until("up")
    config = lm.home / "config/lmd.toml"
    working = config.read_text()
    try:
        hung = short_tmp / "hung.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(hung))
            listener.listen(8)
            for path in ("/nowhere.sock", str(hung)):
                config.write_text(f'[runtimes.podman]\nsocket = "{path}"\n')
                [machine] = lm.machines()
                assert machine["phase"] == "unknown"
                refused = lm("destroy", machine["id"])
                assert (refused.returncode, "nothing was removed" in refused.stderr) == (1, True)
                assert "does not answer" in lm("run", "x.toml" if path == "" else "sleep.toml").stderr
    finally:
        config.write_text(working)
    assert lm("destroy", machine["id"]).returncode == 0
    assert running.wait() == 15
