"""`lm doctor TYPE`: what a machinetype needs and this host lacks."""

import json
import os
from pathlib import Path

import pytest

from images.archive import ImageConfig, host_architecture, write_oci_archive


@pytest.fixture
def doctor(lm):
    """Asks about a type; returns the exit code and all sentences with their levels and remedies."""

    def ask(target: str) -> tuple[int, str]:
        done = lm("doctor", target, "--json")
        assert done.stdout, done.stderr
        told = json.loads(done.stdout)["findings"]
        return done.returncode, "\n".join(f"{one['level']}: {one['sentence']} -> {one['remedy']}" for one in told)

    return ask


def test_a_type_that_can_run_is_said_to_run_and_does(lm, doctor) -> None:
    name = lm.machinetype("good", "exit 0", network="bridge", tmp_binds=["/scratch"])
    code, said = doctor(name)
    assert code == 0, said
    assert "ok: machines of this type can run here, on podman" in said
    assert lm("run", name).returncode == 0


def test_all_that_a_host_is_too_small_for_is_said(lm, doctor) -> None:
    name = lm.machinetype("big", "exit 0", min_processors=4000, mb_per_processor="1T", open_files=2_000_000_000)
    code, said = doctor(name)
    assert code == 2
    assert f"problem: needs 4000 processors, this host has {len(os.sched_getaffinity(0))}" in said
    assert "GB of memory, this host has" in said


def test_what_the_runtime_lacks_is_said_with_its_reason(lm, doctor) -> None:
    other = "s390x" if host_architecture() != "s390x" else "amd64"
    code, said = doctor(lm.machinetype("other", "exit 0", architecture=other))
    assert code == 2
    assert f"problem: podman lacks architecture {other}" in said
    assert "problem: no runtime of this host can run machines of this type -> lm doctor" in said


def test_files_and_images_that_are_missing_or_for_others_are_said(lm, doctor, busybox_root: Path) -> None:
    other = "s390x" if host_architecture() != "s390x" else "amd64"
    write_oci_archive(busybox_root, lm.home / "other.tar", ImageConfig(architecture=other))
    for keys, words in (
        ({"user_data": "none.sh"}, "none.sh cannot be read"),
        ({"root_image": "lmd:nope"}, "there is none; choose one of"),
        ({"root_image": f"oci-archive:{lm.home}/other.tar"}, f"is for {other}, machines here have"),
        (
            {"root_image": "docker://localhost/none:1", "pull": "never"},
            "pull is never -> lm image pull localhost/none:1",
        ),
    ):
        code, said = doctor(lm.machinetype("lacking", "exit 0", **keys))
        assert (code, words in said) == (2, True), said


def test_an_image_that_is_fetched_or_built_at_first_is_no_problem(lm, doctor) -> None:
    lm.environment["LMD_CACHE_DIR"] = str(lm.home / "cache")
    code, said = doctor(lm.machinetype("built", "exit 0"))
    assert (code, "note: image lmd:busybox will be built at first -> lm image build busybox" in said) == (0, True), said
    code, said = doctor("registry.example.org/some/image:1")
    assert (code, "podman does not have image registry.example.org/some/image:1: it is fetched" in said) == (0, True)


def test_a_virtual_machine_is_examined_by_its_model(lm, doctor) -> None:
    disk = lm.home / "work/disk.img"
    disk.write_bytes(b"\0" * 510 + b"\x55\xaa" + b"\0" * (2**20 - 512))
    keys = {"machine_model": "vm-raw", "root_image": str(disk), "network": None}
    _, said = doctor(lm.machinetype("raw", "exit 0", **keys))
    assert f"ok: image {disk} is a raw disk of" in said
    assert "kvm" in said
    assert "podman" not in said
    _, said = doctor(lm.machinetype("boxed", "exit 0", isolation="vm", network=None))
    assert "image lmd:micro will be built at first" in said or "the kernel of virtual machines is" in said


def test_what_a_site_does_not_allow_and_what_is_no_type_is_a_wrong_usage(lm) -> None:
    for target, words in (
        (lm.machinetype("host", "exit 0", network="host"), "host_network = true would allow it"),
        ("nope", "no machinetype of this name"),
    ):
        done = lm("doctor", target)
        assert (done.returncode, done.stdout, words in done.stderr) == (2, "", True), done.stderr
