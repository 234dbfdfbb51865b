"""The environment by HTTP, held to the suite's checks on a container and on a virtual machine."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lmd.conformance import BY_HTTP, Check

LM = [sys.executable, "-c", "from lmd.cli.main import main; main()"]
*SERVED, NOTICE = BY_HTTP
"""Those that one machine serves, and the one that boots another."""


def _asked(checks: Sequence[Check]) -> list[str]:
    return [word for check in checks for word in ("--check", check.name)]


def _passed(done: "subprocess.CompletedProcess[str]", checks: Sequence[Check]) -> None:
    told = {one["check"]: (one["outcome"], one["reason"]) for one in json.loads(done.stdout or "{}")["results"]}
    assert told == {check.name: ("passed", "") for check in checks}, done.stderr


def test_the_environment_by_http_is_whole_in_a_container(host) -> None:
    _passed(host.lm("conformance", "podman", "--json", *_asked(BY_HTTP)), BY_HTTP)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("checks", [SERVED, pytest.param([NOTICE], marks=pytest.mark.soak)], ids=["served", "notice"])
def test_the_environment_by_http_is_whole_in_a_virtual_machine(
    libvirt_engine, micro_kit, short_tmp: Path, checks: Sequence[Check]
) -> None:
    home = short_tmp / f"http-{len(checks)}"
    home.mkdir(mode=0o711)
    (home / "config").mkdir()
    (home / "config/lmd.toml").write_text(
        f'[runtimes.kvm]\nlog_dir = "{libvirt_engine.directory}/log/qemu"\nacceleration = "emulated"\n'
        '[network]\nlibvirt = "yes"\n'
    )
    names = {"LMD_CONFIG_DIR": "config", "LMD_STATE_DIR": "state", "LMD_RUN_DIR": "run"}
    environment = os.environ | {name: str(home / part) for name, part in names.items()}
    of = f"/proc/{libvirt_engine._daemon.pid}/ns"
    enter = ["nsenter", f"--mount={of}/mnt", f"--net={of}/net", f"--pid={of}/pid_for_children", "--"]
    words = [*enter, *LM, "conformance", "kvm", "--json", *_asked(checks)]
    done = subprocess.run(words, env=environment, cwd=home, capture_output=True, text=True, timeout=280, check=False)
    _passed(done, checks)
