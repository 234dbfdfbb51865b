"""A daemon that is killed again and again, at every await and in the middle of everything: no machine suffers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).parent / "killing.py"
ROUNDS = os.environ.get("LMD_KILL_ROUNDS", "24")
SECONDS = 200 + 2 * int(ROUNDS)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 20)
def test_no_machine_is_lost_doubled_restarted_or_left_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path / "site"), "--rounds", ROUNDS, "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert json.loads(done.stdout)["machines"] > 10


def test_the_check_of_the_kills_can_fail(tmp_path: Path) -> None:
    broken = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import killing; from lmd.factory import join;"
        "from lmd.factory.join import Do, Step; right = join._shown;"
        "join._shown = lambda row, seen, runtime: [Step(do=Do.CLEAN, id=seen.id, runtime=runtime, seen=seen)]"
        " if row is not None and row.state == 'running' else right(row, seen, runtime);"
        "sys.exit(killing.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", broken, str(DRIVER.parent), str(tmp_path / "site"), "--rounds", "8"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert any("was destroyed while it ran" in line for line in json.loads(done.stdout)["wrong"])
