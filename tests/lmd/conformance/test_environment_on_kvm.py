"""The environment's suite on virtual machines, emulated under a libvirt of the tests' own, by the users' command.

Several commands share the checks and run at the same time, each with directories of its own: much of the time is
waiting for machines to boot.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kvm_suites import put, selected

from lmd.conformance import CHECKS, Check

PORTRAYED = frozenset({"portrait", "slack", "_given_time"})
"""What a check calls that looks at the one machine with everything, or goes by how long that took to start."""
LM = [sys.executable, "-c", "from lmd.cli.main import main; main()"]
SECONDS = 1500


def _rows(wanted: list[Check]) -> list[list[Check]]:
    """Those that share a machine are made by one command, all others by two."""
    portrayed = [check for check in wanted if PORTRAYED & set(check.body.__code__.co_names)]
    others = [check for check in wanted if check not in portrayed]
    return [row for row in (portrayed, others[::2], others[1::2]) if row]


def _row(home: Path, options: dict[str, str], checks: list[Check], cache: Path) -> subprocess.Popen[str]:
    (home / "config").mkdir(parents=True)
    lines = [f"{key} = {json.dumps(value)}" for key, value in options.items()]
    (home / "config/lmd.toml").write_text("\n".join(["[runtimes.kvm]", *lines, ""]))
    names = {"LMD_CONFIG_DIR": "config", "LMD_STATE_DIR": "state", "LMD_RUN_DIR": "run"}
    environment = os.environ | {name: str(home / part) for name, part in names.items()} | {"LMD_CACHE_DIR": str(cache)}
    wanted = [word for check in checks for word in ("--check", check.name)]
    command = [*LM, "conformance", "kvm", "--environment", "--json", *wanted]
    return subprocess.Popen(
        command,
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def told(request, libvirt_engine, micro_kit, short_tmp: Path) -> Iterator[dict[str, tuple[str, str]]]:
    """Outcome and reason of each check that this run of the tests wants."""
    home, wanted = short_tmp / "env", selected(request)
    put(micro_kit, home / "cache")
    rows = [
        _row(home / str(number), libvirt_engine.options, checks, home / "cache")
        for number, checks in enumerate(_rows(wanted))
    ]
    try:
        said = [(*row.communicate(timeout=SECONDS), row.returncode) for row in rows]
    finally:
        for row in rows:
            row.terminate()
        for row in rows:
            try:  # it ends its machines first
                row.wait(300)
            finally:
                row.kill()
    results: dict[str, tuple[str, str]] = {}
    for out, err, code in said:
        assert code in (0, 1), err
        results |= {one["check"]: (one["outcome"], one["reason"]) for one in json.loads(out)["results"]}
    yield results


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_kvm_gives_the_environment(check: Check, told: dict[str, tuple[str, str]]) -> None:
    assert told[check.name][0] == "passed", told[check.name][1]
