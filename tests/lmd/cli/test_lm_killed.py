"""`lm run` killed with SIGKILL at random moments: what it leaves is found, and cleared, by the commands that follow."""

import random
import signal
import subprocess
import time

import pytest

ROUNDS = 12


def _engine_s(lm, *arguments: str) -> list[str]:
    """What the tests' Podman itself lists, asked by its own client."""
    options = lm.podman_options
    flags = [
        f"--{name.replace('_', '-')}={options[name]}" for name in ("root", "runroot", "tmpdir", "network_config_dir")
    ]
    done = subprocess.run(["podman", *flags, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_a_killed_run_leaves_is_found_and_cleared(lm) -> None:
    name = lm.machinetype(
        "work",
        "i=0; while [ $i -lt 20 ]; do echo $i > $JOBOUTPUTS/o; sleep 0.1; i=$((i+1)); done",
        tmp_binds=["/scratch"],
    )
    assert lm("run", name).returncode == 0
    began = time.monotonic()
    assert lm("run", name).returncode == 0
    whole = time.monotonic() - began
    moments = random.Random(20261123)
    for number in range(ROUNDS):
        running = lm.start("run", name, "-o", f"out{number}")
        time.sleep(moments.uniform(0.1, whole))
        running.signal(signal.SIGKILL)
        running.wait()
        assert all(machine["orphaned"] for machine in lm.machines())
        assert lm("destroy", "--orphaned").returncode == 0
        if lm.machines():  # killed between making its directory and its record: not told from one that is being made
            time.sleep(11)
            assert lm("destroy", "--orphaned").returncode == 0
        assert lm.machines() == []
        assert not list((lm.home / "state/machines").iterdir())
    assert _engine_s(lm, "ps", "--all", "--external", "--quiet") == []
    assert _engine_s(lm, "volume", "ls", "--quiet") == []
