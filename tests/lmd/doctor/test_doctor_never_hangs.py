"""`lm doctor` beside engines and files that do not answer."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lmd.config.models import Config
from lmd.doctor import Asked, Check, Level, examine
from lmd.doctor.checks import CHECKS
from lmd.doctor.finding import ok
from lmd.doctor.runtimes import gather, rule
from lmd.places import Places


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(
        uid=os.geteuid(),
        user="root",
        environment={},
        config=Config(),
        places=Places(tmp_path / "s", tmp_path / "r", tmp_path / "c"),
        runtimes=(),
    )


async def test_a_check_that_hangs_is_a_warning_and_the_others_go_on(asked: Asked) -> None:
    over = threading.Event()
    hanging = Check("stuck", lambda _: over.wait(30), lambda _: [ok("never said")], seconds=0.05)
    report = await examine([hanging, Check("other", lambda _: 1, lambda _: [ok("fine")])], asked)
    over.set()
    assert [(found.check, found.level) for found in report.findings] == [("stuck", Level.WARNING), ("other", Level.OK)]
    assert "no answer within 0.05 s" in report.findings[0].sentence
    assert report.hung


async def test_a_check_that_breaks_is_a_warning_and_the_others_go_on(asked: Asked) -> None:
    def broken(_: Asked) -> int:
        raise ValueError("stranger than thought")

    report = await examine(
        [Check("odd", broken, lambda _: []), Check("other", lambda _: 1, lambda _: [ok("fine")])], asked
    )
    assert [found.level for found in report.findings] == [Level.WARNING, Level.OK]
    assert "stranger than thought" in report.findings[0].sentence
    assert not report.hung


async def test_every_check_has_a_name_of_its_own_and_all_of_them_end_on_this_host(asked: Asked) -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    page = (Path(__file__).parents[3] / "docs/doctor.md").read_text()
    assert [name for name in names if f"\n| `{name}` |" not in page] == [], "they lack a row in docs/doctor.md"
    report = await examine(CHECKS, asked)
    broken = [found for found in report.findings if "cannot be told" in found.sentence]
    assert not [found for found in broken if "no answer within" not in found.sentence]  # a busy host may be late
    assert {found.check for found in report.findings} >= set(names) - {
        "runtimes",
        "user-ids",
        "containers.conf",
    }  # nobody is asked for


STUCK = """
import threading, time
from lmd.doctor import Check, checks
checks.CHECKS = (Check("stuck", lambda _: time.sleep(60), lambda _: [], seconds=0.2),)
from lmd.cli.main import app
app(["doctor", "--json"])
"""


def test_the_command_ends_although_a_thread_of_it_does_not(tmp_path: Path) -> None:
    began = time.monotonic()
    names = {f"LMD_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "STATE", "RUN", "CACHE")}
    done = subprocess.run([sys.executable, "-c", STUCK], env=os.environ | names, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["findings"][0]["check"] == "stuck"
    assert time.monotonic() - began < 30


def test_an_engine_that_hangs_is_told_with_where_to_look(asked: Asked, private_podman, short_tmp: Path) -> None:
    with private_podman("hung", "runc") as engine:
        path = short_tmp / "hung.sock"
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in engine.options.items() if "oci" not in name]
        command = ["podman", "--cgroup-manager=cgroupfs", *flags, "system", "service", "--time=0", f"unix://{path}"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as service:
            try:
                last = time.monotonic() + 20
                while not path.exists():
                    assert time.monotonic() < last, "podman's service did not start"
                    time.sleep(0.02)
                os.kill(service.pid, signal.SIGSTOP)
                options = {"socket": str(path), "ping_seconds": "0.5"}
                config = replace(asked.config, runtimes={"podman": options})
                facts = asyncio.run(gather(replace(asked, config=config, runtimes=("podman",))))
            finally:
                service.kill()
    [first, second] = rule(facts)
    assert (first.level, "(that is: the engine hangs)" in first.sentence) == (Level.PROBLEM, True), first
    assert "journalctl" in first.remedy
    assert "no runtime works" in second.sentence
