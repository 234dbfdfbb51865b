"""A daemon that is killed again and again, at every await and in the middle of everything: no machine suffers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).parent / "killing.py"


def rounds(runtime: str, few: int) -> int:
    """How many rounds on this runtime: few, unless the environment says otherwise."""
    return int(os.environ.get(f"LMD_{runtime.upper()}_KILL_ROUNDS", few))


FAKE, PODMAN, DOCKER, KVM = rounds("fake", 24), rounds("podman", 6), rounds("docker", 3), rounds("kvm", 10)


def killed(directory: Path, number: int, *words: str, seconds: float, options: Any = None) -> dict[str, Any]:
    """The figures of so many rounds, in which nothing was wrong."""
    command = [sys.executable, str(DRIVER), str(directory / "site"), "--rounds", str(number), "--seed", "7", *words]
    if options is not None:
        (directory / "options.json").write_text(json.dumps(options))
        command += ["--options", str(directory / "options.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@pytest.mark.slow
@pytest.mark.timeout(300 + 2 * FAKE)
def test_no_machine_is_lost_doubled_restarted_or_left_behind(tmp_path: Path) -> None:
    assert killed(tmp_path, FAKE, seconds=280 + 2 * FAKE)["machines"] > 10


@pytest.mark.slow
@pytest.mark.timeout(300 + 10 * PODMAN)
def test_kills_cost_no_container_of_podman(podman, podman_image: str, tmp_path: Path) -> None:
    words = ("--runtime", "podman", "--image", podman_image, "--longest", "2.5")
    killed(tmp_path, PODMAN, *words, seconds=280 + 10 * PODMAN, options=podman.options)


@pytest.mark.slow
@pytest.mark.timeout(300 + 10 * DOCKER)
def test_kills_cost_no_container_of_docker(docker, docker_image: Any, tmp_path: Path) -> None:
    words = ("--runtime", "docker", "--image", docker_image.location, "--longest", "2.5")
    killed(tmp_path, DOCKER, *words, seconds=280 + 10 * DOCKER, options=docker.options)


@pytest.mark.soak
@pytest.mark.timeout(400 + 40 * KVM)
def test_kills_cost_no_virtual_machine(libvirt_engine, micro_kit, busybox_root: Path, tmp_path: Path) -> None:
    words = ("--runtime", "kvm", "--image", str(busybox_root), "--longest", "12", "--total", "3")
    killed(tmp_path, KVM, *words, seconds=380 + 40 * KVM, options=libvirt_engine.options)


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
