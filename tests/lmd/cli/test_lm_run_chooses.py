"""`lm run` with `runtime = "auto"` on a host where Podman does not work and Docker does."""

import json
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def podman() -> SimpleNamespace:
    return SimpleNamespace(options={"socket": "/nowhere/podman.sock"})


@pytest.fixture
def lm(lm, docker):
    with (lm.home / "config/lmd.toml").open("a") as file:
        file.write(f'\n[runtimes.docker]\nsocket = "{docker.socket}"\n')
    return lm


def test_the_one_that_works_is_taken_and_the_reason_is_told(lm) -> None:
    done = lm("run", lm.machinetype("chosen", "echo here; echo 42 >$JOBOUTPUTS/result"), "--json", "-o", "out")
    told = json.loads(done.stdout)
    assert (done.returncode, told["runtime"]) == (0, "docker"), done.stderr
    assert told["runtime_reason"].startswith("docker works here and has what the type needs; podman is unhealthy:")
    assert f"lm: runtime {told['runtime_reason']}" in done.stderr
    assert (lm.home / "work/out/joboutputs/result").read_text() == "42\n"


def test_where_none_has_what_the_type_needs_each_says_why(lm) -> None:
    done = lm("run", lm.machinetype("own", "exit 0", user_namespace="required"))
    assert done.returncode == 20
    [line] = done.stderr.splitlines()
    assert "podman is unhealthy" in line
    assert "docker on this host lacks a user namespace of its own (docker maps no user ids here" in line
