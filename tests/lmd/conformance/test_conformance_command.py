"""`lm conformance` through its entry point, on a private Podman and on the fake runtime."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lmd.cli.main import app
from runtimes.fake import FakeEngine, Faults

LM = Path(sys.executable).with_name("lm")


class Command:
    """`lm` with directories of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        names = {"LMD_CONFIG_DIR": "conf", "LMD_STATE_DIR": "state", "LMD_RUN_DIR": "run", "LMD_CACHE_DIR": "cache"}
        self.environment = os.environ | {name: str(home / folder) for name, folder in names.items()}
        (home / "conf").mkdir(parents=True)

    def configure(self, options: dict[str, str]) -> None:
        lines = [f"{key} = {json.dumps(value)}" for key, value in options.items()]
        (self.home / "conf/lmd.toml").write_text("\n".join(["[runtimes.podman]", *lines, ""]))

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [str(LM), "conformance", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=self.environment, cwd=self.home)

    def run(self, *words: str) -> tuple[int, str, str]:
        """By its entry point."""
        with self.start(*words) as process:
            output, errors = process.communicate(timeout=50)
        return process.returncode, output, errors

    def call(self, *words: str) -> tuple[int, str, str]:
        """In this process, which saves the start of another."""
        done = CliRunner().invoke(app, ["conformance", *words], env=self.environment)
        return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def lm(tmp_path: Path) -> Command:
    return Command(tmp_path / "lm")


@pytest.fixture
def lm_fake(lm: Command) -> Command:
    lm.environment["LMD_FAKE"] = "1"
    return lm


@pytest.fixture
def lm_podman(podman, lm_image) -> Command:
    """On the private engine, with the image in its cache."""
    made = Command(podman.directory / f"command-{time.monotonic_ns()}")
    made.configure(podman.options)
    (made.home / "cache").mkdir(mode=0o711)
    (made.home / "cache/images").symlink_to(Path(lm_image.location).parents[2])
    return made


@pytest.mark.parametrize("podman", ["runc"], indirect=True, scope="session")
def test_checks_of_both_suites_are_made_and_told_as_json(lm_podman: Command) -> None:
    names = ["created-is-listed-with-stamps", "host-name-is-the-id"]
    code, output, errors = lm_podman.run("podman", "--json", *(f"--check={name}" for name in names))
    told = json.loads(output)
    assert (code, errors) == (0, "")
    assert [(r["suite"], r["check"], r["outcome"]) for r in told["results"]] == [
        ("contract", names[0], "passed"),
        ("environment", names[1], "passed"),
    ]
    assert told["counts"] == {"passed": 2, "failed": 0, "not applicable": 0}


@pytest.mark.parametrize("podman", ["runc"], indirect=True, scope="session")
@pytest.mark.parametrize(
    ("number", "until"), [(signal.SIGINT, "*/machine.json"), (signal.SIGTERM, "*/joboutputs/here")], ids=str
)
def test_a_signal_ends_it_and_nothing_stays(lm_podman: Command, number: signal.Signals, until: str) -> None:
    machines = lm_podman.home / "state/machines"
    names = ("deaf-machine-is-ended-after-its-grace", "secrets-are-shown-nowhere")
    with lm_podman.start("podman", *(f"--check={name}" for name in names)) as process:
        last = time.monotonic() + 20
        while not any(machines.glob(until)):
            assert time.monotonic() < last and process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "lm: interrupted; the machines of the suite are gone\n"
    assert not list(machines.iterdir())
    assert not list((lm_podman.home / "run").glob("conformance-*"))


@pytest.mark.parametrize("podman", ["runc"], indirect=True, scope="session")
def test_what_machines_find_is_compared_between_runtimes(lm_podman: Command, docker) -> None:
    with (lm_podman.home / "conf/lmd.toml").open("a") as file:
        file.write(f'[runtimes.docker]\nsocket = "{docker.socket}"\n')
    code, output, errors = lm_podman.run("--check=same-on-every-runtime", "--json")
    told = [r for r in json.loads(output)["results"] if r["runtime"] in ("docker", "podman")]
    assert code == 0, (output, errors)
    assert [(r["runtime"], r["outcome"]) for r in told] == [("podman", "passed")]
    assert told[0]["reason"].endswith("fields as on docker")


def test_a_check_that_fails_is_told_with_its_reason_and_exit_code_1(lm_fake: Command) -> None:
    engine = FakeEngine(lm_fake.home / "state/fake")
    engine.faults = Faults(reject="no machines today")
    code, output, _ = lm_fake.call("fake", "--check", "created-is-listed-with-stamps")
    assert code == 1
    assert output.startswith("failed          created-is-listed-with-stamps: a created machine is listed")
    assert "no machines today" in output
    assert output.endswith("0 passed, 1 failed, 0 not applicable\n")


def test_machines_without_a_shell_take_none_of_the_environments_checks(lm_fake: Command) -> None:
    code, output, _ = lm_fake.call("fake", "--environment", "--json")
    told = json.loads(output)
    assert code == 0
    assert {result["outcome"] for result in told["results"]} == {"not applicable"}
    assert all("no shell" in result["reason"] for result in told["results"])


def test_a_runtime_that_is_not_available_is_told_in_one_line(lm: Command) -> None:
    lm.configure({"socket": "/nowhere/podman.sock"})
    for words in (["podman"], []):
        code, output, errors = lm.call(*words)
        assert (code, output) == (20, "")
        assert errors.count("\n") == 1
        assert "podman is unhealthy: the configured Podman socket /nowhere/podman.sock does not answer" in errors


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["docker-desktop"], "no runtime 'docker-desktop'; known are"),
        (["--check", "secrets-arive"], "no check of this name, did you mean secrets-arrive?"),
        (["--contract", "--check", "secrets-arrive"], "no check of this name"),
        (["--set-option", "oci_runtime=runc"], "--set-option needs a RUNTIME"),
        (["podman", "--set-option", "oci_runtime"], "expected KEY=VALUE"),
        (["podman", "--set-option", "oci_runtime=kata"], "oci_runtime"),
        (["podman", "--set-option", "colour=red"], "colour"),
    ],
)
def test_wrong_usage_is_told(lm: Command, words: list[str], complaint: str) -> None:
    code, output, errors = lm.call(*words)
    assert (code, output) == (2, "")
    assert complaint in errors


def test_an_option_of_the_runtime_can_be_set(lm: Command) -> None:
    code, _, errors = lm.call("podman", "--set-option", "socket=/elsewhere/p.sock", "--check", "host-name-is-the-id")
    assert code == 20
    assert "/elsewhere/p.sock does not answer" in errors


def test_the_checks_can_be_listed(lm: Command) -> None:
    _, output, _ = lm.call("--list", "--environment")
    assert output.splitlines()[0].split() == ["SUITE", "CHECK", "SENTENCE"]
    assert not any(line.startswith("contract") for line in output.splitlines())
    _, output, _ = lm.call("--list", "--json", "--check", "host-name-is-the-id")
    assert json.loads(output) == [
        {
            "suite": "environment",
            "check": "host-name-is-the-id",
            "sentence": "the machine's host name is its id",
        }
    ]
