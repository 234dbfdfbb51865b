"""The environment by HTTP, held to the suite's checks on a container and on a virtual machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmd.conformance import BY_HTTP

LM = [sys.executable, "-c", "from lmd.cli.main import main; main()"]
ASKED = [word for check in BY_HTTP for word in ("--check", check.name)]


def _passed(done: "subprocess.CompletedProcess[str]") -> None:
    told = {one["check"]: (one["outcome"], one["reason"]) for one in json.loads(done.stdout or "{}")["results"]}
    assert told == {check.name: ("passed", "") for check in BY_HTTP}, done.stderr


def test_the_environment_by_http_is_whole_in_a_container(host) -> None:
    _passed(host.lm("conformance", "podman", "--json", *ASKED))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_environment_by_http_is_whole_in_a_virtual_machine(libvirt_engine, micro_kit, short_tmp: Path) -> None:
    home = short_tmp / "http"
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
    words = [*enter, *LM, "conformance", "kvm", "--json", *ASKED]
    _passed(subprocess.run(words, env=environment, cwd=home, capture_output=True, text=True, timeout=280, check=False))
