"""`lm run` on real Podman: how machines end, what it prints, what it leaves."""

import json
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_a_payload_s_outputs_message_and_console_come_home(lm) -> None:
    name = lm.machinetype("work", "echo working; echo result > $JOBOUTPUTS/r; lm-payload done 200 Success")
    done = lm("run", name, "-o", "here")
    assert done.returncode == 0, done.stderr
    assert "working" in done.stdout
    assert "200 Success" in done.stderr
    folder = lm.home / "work/here"
    assert (folder / "joboutputs/r").read_text() == "result\n"
    assert (folder / "console.log").read_text() == "working\n"
    assert lm.machines() == []
    assert not any((lm.home / "state/machines").iterdir())


def test_the_example_uses_every_processor_and_writes_its_result(lm) -> None:
    done = lm("run", str(ROOT / "examples/montecarlo.toml"), "-p", "2", "--json", "-o", "mc")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["processors"] == 2
    assert summary["outcome"]["message"].startswith("200 Success: pi 3.1")
    assert "samples 600000" in (lm.home / "work/mc/joboutputs/result.txt").read_text()


def test_nested_containers_work_in_the_example(lm) -> None:
    done = lm("run", str(ROOT / "examples/nested.toml"))
    assert done.returncode == 0, done.stderr
    assert "inside: " in done.stdout


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("lm-payload done 300 No work", 10, "300 No work"),
        ("lm-payload done 500 Broken", 11, "500 Broken"),
        ("exit 3", 11, "exit code 3"),
        ("exit 0", 0, "exit code 0"),
        ("exec tail /dev/zero", 11, "memory limit"),
    ],
)
def test_the_exit_code_tells_how_it_ended(lm, script: str, code: int, said: str) -> None:
    done = lm("run", lm.machinetype("end", script))
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_a_type_s_table_gives_exit_codes_their_meaning(lm) -> None:
    done = lm("run", lm.machinetype("condor", "exit 75", outcome={"75": "300 No work in the pool"}))
    assert done.returncode == 10
    assert "300 No work in the pool" in done.stderr


def test_an_execute_point_as_experiments_publish_it_runs_unchanged(lm) -> None:
    """An HTCondor execute point's shape: entrypoint, environment settings, a token file, a code for no work."""
    (lm.home / "work/pool.token").write_text("very-secret-token")
    image_program = (
        'test "$(cat /root/secrets/token)" = very-secret-token && test "$(stat -c %a /root/secrets/token)" = 400'
        ' && test "$CONDOR_HOST" = cm.example.org && test "$1" = --idle && exit 75; exit 1'
    )
    name = lm.machinetype(
        "execute",
        "",
        user_data=None,
        entrypoint=["/bin/sh", "-c", image_program, "start.sh"],
        args=["--idle"],
        environment={"CONDOR_HOST": "cm.example.org"},
        secret_files={"/root/secrets/token": "pool.token"},
        nested_containers=True,
        user_namespace="required",
        tmp_binds=["/pool"],
        outcome={"75": "300 No work in the pool"},
    )
    done = lm("run", name, "--json")
    assert done.returncode == 10, done.stderr
    assert "very-secret-token" not in done.stdout + done.stderr


def test_its_time_over_a_deaf_machine_is_ended(lm) -> None:
    done = lm(
        "run", lm.machinetype("deaf", "trap '' TERM; while :; do sleep 1; done"), "--timeout", "1", "--grace", "1"
    )
    assert done.returncode == 12
    assert "700 Passed shutdowntime" in done.stderr


@pytest.mark.parametrize(("beat", "said"), [(":", "not created"), ("touch $JOBOUTPUTS/hb", "not updated")])
def test_a_machine_without_heartbeat_is_ended(lm, beat: str, said: str) -> None:
    script = f"{beat}; trap 'exit 0' TERM; while :; do sleep 1; done"
    name = lm.machinetype("heart", script, heartbeat_file="hb", heartbeat_seconds=2, fizzle_seconds=1)
    done = lm("run", name, "--grace", "1")
    assert (done.returncode, f"Heartbeat file {said}" in done.stderr) == (13, True), done.stderr


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("i=0; cd $JOBOUTPUTS; while [ $i -lt 10000 ]; do : > f$i; i=$((i+1)); done; sleep 60", "files"),
        ("dd if=/dev/zero of=$JOBOUTPUTS/big bs=1M count=10000; sleep 60", "bytes"),
    ],
)
def test_joboutputs_have_a_quota_while_the_machine_runs(lm, script: str, said: str) -> None:
    name = lm.machinetype("greedy", script, joboutputs_bytes="20M", joboutputs_files=500)
    done = lm("run", name)
    assert done.returncode == 14, done.stderr
    assert f"more than {'500 files' if said == 'files' else '20000000 bytes'}" in done.stderr


def test_odd_files_in_joboutputs_are_left_out_and_named(lm) -> None:
    script = (
        "cd $JOBOUTPUTS; mkfifo fifo shutdown_message; ln -s /etc/shadow link; echo ok > good;"
        " printf x > \"$(printf 'a\\nb\\033[31m')\"; truncate -s 50G sparse"
    )
    done = lm("run", lm.machinetype("odd", script), "-o", "odd")
    assert done.returncode == 0, done.stderr
    left = lm.home / "work/odd/joboutputs"
    assert (left / "good").read_text() == "ok\n"
    assert (left / "sparse").stat().st_blocks < 100
    assert not (left / "link").is_symlink()
    assert not (left / "fifo").exists()
    assert "left out: fifo" in done.stderr
    assert "\033" not in done.stderr


def test_a_shouting_console_is_cut_in_the_middle_with_both_ends_kept(lm) -> None:
    name = lm.machinetype(
        "shout", "echo FIRST; yes 0123456789abcdef | head -c 50000000; echo LAST", console_bytes="200k"
    )
    done = lm("run", name, "-o", "shout")
    assert done.returncode == 0, done.stderr
    kept = (lm.home / "work/shout/console.log").read_bytes()
    assert kept.startswith(b"FIRST\n")
    assert kept.endswith(b"LAST\n")
    assert 100_000 + 65_536 <= len(kept) <= 220_000
    assert b"bytes of console output left out here" in kept


def test_a_fork_bomb_stays_within_its_limit(lm) -> None:
    name = lm.machinetype("forks", "f() { f | f & }; f; sleep 2; echo survived", pids=32)
    done = lm("run", name, "--timeout", "20")
    assert "survived" in done.stdout


def test_ctrl_c_gives_grace_and_a_second_one_ends_it_at_once(lm) -> None:
    deaf = lm.machinetype("deaf", "trap '' TERM; echo up; while :; do sleep 1; done")
    running = lm.start("run", deaf, "--grace", "100")
    running.until("up")
    running.signal(signal.SIGINT)
    running.until("100 s of grace")
    running.signal(signal.SIGINT)
    assert running.wait(20) == 15
    assert lm.machines() == []


def test_a_machine_that_is_asked_to_stop_sees_its_shutdown_time_move(lm) -> None:
    script = (
        "before=$(cat $MACHINEFEATURES/shutdowntime); trap 'lm-payload done 100 \"moved by "
        "$((before - $(cat $MACHINEFEATURES/shutdowntime)))\"; exit 0' TERM; echo up; while :; do sleep 1; done"
    )
    running = lm.start("run", lm.machinetype("polite", script, max_wallclock_seconds=5000), "--grace", "50")
    running.until("up")
    running.signal(signal.SIGTERM)
    assert running.wait() == 15
    moved = int(running.said().partition("100 moved by ")[2].split()[0])
    assert 4900 < moved < 5000


def test_a_shell_has_the_machine_s_environment(lm) -> None:
    done = lm("run", lm.machinetype("sh", "exit 9"), "--shell", stdin="cat $MACHINEFEATURES/total_cpu; exit 5\n")
    assert done.returncode == 5, done.stderr
    assert done.stdout.strip() == "1"


def test_a_kept_machine_can_be_looked_at_and_destroyed(lm) -> None:
    name = lm.machinetype("keep", "echo said; echo o > $JOBOUTPUTS/out; exit 4")
    machine = json.loads(lm("run", name, "--keep", "--json").stdout)["id"]
    assert [(m["id"], m["phase"], m["end"]["exit_code"]) for m in lm.machines()] == [(machine, "finished", 4)]
    assert lm("logs", machine[-6:]).stdout == "said\n"
    assert "out" in lm("outputs", machine).stdout
    assert json.loads(lm("show", machine, "--json").stdout)["outcome"]["exit"] == 11
    assert lm("destroy", "--orphaned").returncode == 0
    assert lm.machines() != []
    assert lm("destroy", machine).returncode == 0
    assert lm.machines() == []


def test_a_root_directory_is_used_in_place_and_not_changed(lm, busybox_root: Path) -> None:
    before = sorted((str(p), p.lstat().st_mode, p.lstat().st_uid) for p in busybox_root.rglob("*"))
    script = "echo $MACHINEFEATURES $(cat $MACHINEFEATURES/total_cpu); touch /x; echo o > $JOBOUTPUTS/o"
    done = lm("run", lm.machinetype("inplace", script, root_image=str(busybox_root)), "-o", "root")
    assert done.returncode == 0, done.stderr
    assert "/run/lmd/machinefeatures 1" in done.stdout
    assert "Read-only file system" in done.stdout
    assert (lm.home / "work/root/joboutputs/o").exists()
    assert sorted((str(p), p.lstat().st_mode, p.lstat().st_uid) for p in busybox_root.rglob("*")) == before


def test_an_operator_s_stop_ends_the_machine_and_its_run_tells_who(lm) -> None:
    polite = lm.machinetype(
        "polite", "trap 'lm-payload done 100 told; exit 0' TERM; echo up; while :; do sleep 1; done"
    )
    running = lm.start("run", polite)
    running.until("up")
    [machine] = lm.machines()
    assert lm("stop", "--grace", "20", machine["id"]).returncode == 0
    assert running.wait() == 15
    assert "100 told (stopped: lm stop by user" in running.said()


def test_a_machine_that_is_destroyed_under_its_run_leaves_nothing(lm) -> None:
    running = lm.start("run", lm.machinetype("deaf", "trap '' TERM; echo up; while :; do sleep 1; done"))
    running.until("up")
    [machine] = lm.machines()
    assert lm("destroy", machine["id"]).returncode == 0
    assert running.wait() == 15
    assert lm.machines() == []
    assert not any((lm.home / "state/machines").iterdir())


def test_a_stop_is_carried_out_even_if_whoever_asked_has_died(lm) -> None:
    running = lm.start("run", lm.machinetype("deaf", "trap '' TERM; echo up; while :; do sleep 1; done"))
    running.until("up")
    asking = lm.start("stop", "--grace", "2", lm.machines()[0]["id"])
    while not list((lm.home / "state/machines").glob("*/stop")):
        assert asking.process.poll() is None
    asking.end()
    assert running.wait(20) == 15
