"""The daemon and its commands as an administrator uses them, each a process of its own."""

import json
import signal
import subprocess
import time

import pytest
from factory_ground import LM

TYPE = """
[settings]
factory_name = "wn1"
total_processors = 2
overload_per_processor = 1000.0
[machinetypes.work]
root_image = "docker://example"
runtime = "fake"
target_share = 1.0
backoff_seconds = 0
mb_per_processor = 64
entrypoint = ["print", "hello", "when-asked", "exit", "0"]
""".replace('["print", "hello", ', '["print", "hello", "forever", ')


@pytest.fixture
def lmd(make_lmd):
    made = make_lmd(TYPE, LMD_FAKE="1")
    made.start()
    yield made
    made("drain", "--deadline", "0")


def test_machines_outlive_daemons_that_stop_or_are_killed(lmd) -> None:
    before = {machine["id"] for machine in lmd.running(2)}
    for number, code in ((signal.SIGTERM, 0), (signal.SIGKILL, -9), (signal.SIGINT, 0)):
        assert lmd.end(number) == code
        lmd.start()
        assert {machine["id"] for machine in lmd.running(2)} == before


def test_a_second_daemon_of_the_same_factory_refuses(lmd) -> None:
    from factory_ground import LMD

    second = subprocess.run(LMD, env=lmd.environment, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 3
    assert f"process {lmd.process.pid} is the daemon of this factory already" in second.stderr
    assert lmd("why").returncode == 0


def test_show_logs_exec_stop_and_destroy(lmd) -> None:
    first, second = lmd.running(2)
    shown = json.loads(lmd("show", first["id"], "--json").stdout)
    assert shown["machinefeatures"]["total_cpu"] == "1"
    assert [event["kind"] for event in shown["events"]][:2] == ["machine-preparing", "machine-starting"]
    assert lmd("logs", first["id"][-6:]).stdout == "hello\n"
    assert "echo" in lmd("exec", first["id"], "echo", "hi").stdout
    assert lmd("drain", "--reason", "test").returncode == 0
    assert lmd("stop", "--grace", "5", first["id"]).returncode == 0
    stopped = next(machine for machine in lmd.machines(ended=True) if machine["id"] == first["id"])
    assert stopped["outcome"]["message"] == "100 Stopped by the operator"
    assert lmd("logs", first["id"]).stdout == "hello\n"
    assert lmd("destroy", second["id"]).returncode == 0
    assert not (lmd.home / "state/machines" / second["id"]).exists()
    assert (lmd.home / "state/machines" / first["id"]).exists()
    assert lmd("ps").stderr == "lm: no machines\n"
    assert lmd.machines() == []


def test_a_drain_holds_over_restarts_and_waits(lmd) -> None:
    lmd.running(2)
    assert lmd("drain", "--reason", "new disks").returncode == 0
    assert "new disks" in lmd("why").stderr
    lmd.end()
    lmd.start()
    assert "new disks" in lmd("why").stderr
    assert lmd("drain", "--wait", "--deadline", "1").returncode == 0
    assert lmd.machines() == []
    assert lmd("undrain").returncode == 0
    lmd.running(2)


def test_one_type_is_drained_alone(lmd) -> None:
    lmd.configure(TYPE + TYPE[TYPE.index("[machinetypes") :].replace("machinetypes.work", "machinetypes.other"))
    lmd.send(signal.SIGHUP)
    lmd.until(lambda: "other" in str(lmd.daemon.get("/v1/why")))
    assert lmd("drain", "--type", "work").returncode == 0
    assert lmd("drain", "--type", "unknown").returncode == 1
    for machine in lmd.machines():
        lmd("stop", "--grace", "0", machine["id"])
    lmd.until(lambda: [m["machinetype"] for m in lmd.machines() if m["phase"] == "running"] == ["other", "other"])


def test_a_bad_reload_keeps_what_was_good_and_says_so(lmd) -> None:
    before = {machine["id"] for machine in lmd.running(2)}
    lmd.configure(TYPE.replace("total_processors = 2", 'total_processors = "many"'))
    lmd.send(signal.SIGHUP)
    lmd.until(lambda: lmd.daemon.get("/v1/warnings"))
    assert "configuration:" in lmd("warnings").stdout
    assert {machine["id"] for machine in lmd.running(2)} == before
    lmd.configure(
        TYPE.replace("total_processors = 2", "total_processors = 3") + '[machinetypes.bad]\nroot_imag = "x"\n'
    )
    lmd.send(signal.SIGHUP)
    lmd.running(3)
    warnings = {warning["key"]: warning for warning in json.loads(lmd("warnings", "--all", "--json").stdout)}
    assert warnings["configuration:"]["resolved"]
    assert "did you mean root_image?" in warnings["machinetype:bad"]["text"]
    assert lmd("warnings", "--acknowledge", "machinetype:bad").returncode == 0
    assert "no warnings" in lmd("warnings").stderr
    assert lmd("warnings", "--acknowledge", "machinetype:no").returncode == 1


def test_a_reload_that_breaks_a_type_in_use_disables_it_alone(lmd) -> None:
    before = set(lmd.machine_ids(2))
    other = TYPE[TYPE.index("[machinetypes") :].replace("machinetypes.work", "machinetypes.other")
    broken = TYPE.replace("total_processors = 2", "total_processors = 4").replace("root_image =", "root_imag =")
    lmd.configure(broken + other)
    lmd.send(signal.SIGHUP)
    running = lmd.running(4)
    assert {m["id"] for m in running if m["machinetype"] == "work"} == before
    assert [w["key"] for w in lmd.daemon.get("/v1/warnings")] == ["machinetype:work"]
    lmd("stop", "--grace", "0", min(before))
    lmd.until(lambda: sum(m["machinetype"] == "other" and m["phase"] == "running" for m in lmd.machines()) == 3)
    lmd.configure("[settings\n")  # nothing of it can be read: what held before holds
    lmd.send(signal.SIGHUP)
    lmd.until(lambda: "configuration:" in {w["key"] for w in lmd.daemon.get("/v1/warnings")})
    assert len(lmd.running(4)) == 4
    lmd.configure(TYPE.replace("total_processors = 2", "total_processors = 5") + other)
    lmd.send(signal.SIGHUP)
    lmd.running(5)
    assert lmd.daemon.get("/v1/warnings") == []


def test_processors_come_from_a_file_that_may_change(make_lmd) -> None:
    lmd = make_lmd("", LMD_FAKE="1")
    budget = lmd.home / "free"
    budget.write_text("1\n")
    lmd.configure(TYPE.replace("total_processors = 2", f'total_processors = "{budget}"'))
    lmd.start()
    lmd.running(1)
    budget.write_text("3 processors\n")
    lmd.running(3)
    budget.write_text("none\n")
    lmd.until(lambda: [w["key"] for w in lmd.daemon.get("/v1/warnings")] == ["processors:"])
    assert len(lmd.running(3)) == 3


def test_a_machine_is_handed_to_the_daemon(lmd) -> None:
    lmd.configure(TYPE.replace("total_processors = 2", "total_processors = 3"))
    lmd.send(signal.SIGHUP)
    lmd.running(3)
    assert "1 processor, 0 free" in lmd("run", "--detach", "work").stderr
    lmd.configure(TYPE.replace("total_processors = 2", "total_processors = 3").replace("= 1.0", "= 0.0"))
    lmd.send(signal.SIGHUP)
    lmd.until(lambda: "no-share" in str(lmd.daemon.get("/v1/why")))
    lmd("stop", "--grace", "0", *[machine["id"] for machine in lmd.machines()])
    (lmd.home / "mine.toml").write_text(
        TYPE[TYPE.index("[machinetypes") :].replace("machinetypes.work", "machinetypes.mine")
    )
    name = lmd("run", "--detach", "mine.toml", "--set", 'args=["print", "too"]').stdout.strip()
    machine = lmd.running(1)[0]
    assert (machine["id"], machine["machinetype"], machine["detached"]) == (name, "mine", True)
    lmd.end()
    lmd.start()
    assert lmd.running(1)[0]["id"] == name


def test_without_a_daemon_the_commands_say_so(make_lmd) -> None:
    lmd = make_lmd(TYPE, LMD_FAKE="1")
    for command in (["why"], ["warnings"], ["drain"], ["undrain"], ["run", "--detach", "work"]):
        done = lmd(*command)
        assert done.returncode == 1
        assert "the daemon does not run here" in done.stderr
    assert lmd("ps").returncode == 0


def test_a_broken_configuration_at_the_start_leaves_no_machine_alone(lmd) -> None:
    before = {machine["id"] for machine in lmd.running(2)}
    lmd.end()
    lmd.configure("[settings\n")
    lmd.start()
    assert {machine["id"] for machine in lmd.running(2)} == before
    assert "configuration:" in lmd("warnings").stdout
    time.sleep(0.3)
    assert lmd("stop", "--grace", "0", sorted(before)[0]).returncode == 0


def test_machines_of_lm_run_are_listed_with_those_of_the_daemon(lmd) -> None:
    lmd.running(2)
    (lmd.home / "mine.toml").write_text(
        TYPE[TYPE.index("[machinetypes") :]
        .replace("machinetypes.work", "machinetypes.mine")
        .replace("target_share", "#")
    )
    run = subprocess.Popen(
        [*LM, "run", "mine.toml", "-o", "out"],
        env=lmd.environment,
        cwd=lmd.home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        theirs = lmd.until(lambda: [one for one in lmd.machines() if one["machinetype"] == "mine"])[0]
        assert (theirs["owner"][:4], theirs["orphaned"]) == ("run:", False)
        run.kill()
        run.wait()
        lmd.until(lambda: [one for one in lmd.machines() if one["machinetype"] == "mine" and one["orphaned"]])
        assert lmd("destroy", theirs["id"]).returncode == 0
        lmd.until(lambda: {one["machinetype"] for one in lmd.machines()} == {"work"})
    finally:
        run.kill()
        run.wait()
