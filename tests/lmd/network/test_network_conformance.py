"""The environment by HTTP, held to the suite's checks on a container and on a virtual machine."""

import json
import subprocess
from collections.abc import Sequence

import pytest

from lmd.conformance import BY_HTTP, Check

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
    libvirt_host, micro_kit, checks: Sequence[Check]
) -> None:
    _passed(libvirt_host.lm("conformance", "kvm", "--json", *_asked(checks), seconds=280), checks)
