"""Sizes, and what single keys of a machinetype may hold."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lmd.config.models import MachineType, Policy
from lmd.config.policy import violations
from lmd.config.values import MEBIBYTE, size
from runtimes.contract import Limit, Network


def made(**keys: Any) -> MachineType:
    return MachineType.model_validate({"name": "atlas", "root_image": "example.org/a:1", **keys})


def refusal(**keys: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        made(**keys)
    return "; ".join(f"{entry['loc']}: {entry['msg']}" for entry in caught.value.errors())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (512, 512),
        ("512", 512),
        ("10G", 10 * 10**9),
        ("10 GB", 10 * 10**9),
        ("512Mi", 512 * 2**20),
        ("1.5k", 1500),
        ("0.5Ki", 512),
        ("1.0000000001k", None),
        ("10g", None),
        ("-1", None),
        ("1e6", None),
        ("", None),
        (-1, None),
        (True, None),
        (1.5, None),
        (2**63, None),
        ("9999999999T", None),
        ("١G", None),
    ],
)
def test_a_size_is_a_number_or_a_number_with_a_unit(text: object, expected: int | None) -> None:
    if expected is not None:
        assert size(text) == expected
        return
    with pytest.raises(ValueError, match=r"expected a size"):
        size(text)


@given(st.integers(0, 10**6), st.sampled_from(["k", "M", "G", "Ki", "Mi", "Gi"]))
def test_powers_of_ten_and_of_two_are_kept_apart(number: int, unit: str) -> None:
    power = "kMGT".index(unit[0].lower().replace("m", "M").replace("g", "G")) + 1
    assert size(f"{number}{unit}") == number * (1024 if unit.endswith("i") else 1000) ** power


def test_a_bare_number_of_memory_counts_mebibytes_as_in_vac() -> None:
    assert made(mb_per_processor=2048).mb_per_processor == 2048
    assert made(mb_per_processor="2Gi").mb_per_processor == 2048
    assert made(mb_per_processor="2G").mb_per_processor == 2 * 10**9 // MEBIBYTE


def test_a_machinetype_needs_an_image_alone_and_has_vacs_defaults() -> None:
    machinetype = made()
    assert (machinetype.min_processors, machinetype.max_processors) == (1, 1)
    assert (machinetype.max_wallclock_seconds, machinetype.min_wallclock_seconds) == (86400, 86400)
    assert (machinetype.fizzle_seconds, machinetype.backoff_seconds) == (600, 10)
    assert (machinetype.grace_secs, machinetype.heartbeat_seconds) == (1800, 0)
    assert machinetype.network is Network.BRIDGE
    assert not machinetype.capabilities


def test_the_upper_bounds_follow_the_lower_ones() -> None:
    assert made(min_processors=8).max_processors == 8
    assert made(max_wallclock_seconds=600).min_wallclock_seconds == 600


def test_values_are_held_in_one_form() -> None:
    machinetype = made(
        capabilities=["cap_net_raw", "SYS_PTRACE"],
        outcome={"75": "300 no work"},
        require_limits=True,
        tmp_binds=["/a/"],
    )
    assert machinetype.capabilities == ("NET_RAW", "SYS_PTRACE")
    assert machinetype.outcome == {75: "300 no work"}
    assert machinetype.require_limits == frozenset(Limit)
    assert machinetype.tmp_binds == ("/a",)


def test_a_machinetype_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        made().user = "root"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"name": "Atlas"}, "name"),
        ({"name": "a" * 64}, "name"),
        ({"name": "-a"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"machine_model": "vm"}, "machine_model"),
        ({"machine_model": 3}, "machine_model"),
        ({"machine_model": "docker"}, "which engine runs it is said by runtime"),
        ({"isolation": "none"}, "isolation"),
        ({"disk_gb_per_processor": 0}, "disk_gb_per_processor"),
        ({"kernel_arguments": "quiet init=/bin/sh"}, "'init=/bin/sh' is set by lmd"),
        ({"kernel_arguments": "a\nb"}, "control characters"),
        ({"numa_node": -1}, "numa_node"),
        ({"runtime": "podmn"}, "did you mean podman?"),
        ({"root_image": "oci-archive:"}, "expected a path after"),
        ({"root_image": "two words"}, "expected an image reference"),
        ({"root_image": "a\x1bb"}, "control characters"),
        ({"user_data": "ftp://example.org/x"}, "http"),
        ({"user_data": "http://"}, "http"),
        ({"entrypoint": "/bin/sh -c x"}, "entrypoint"),
        ({"entrypoint": []}, "entrypoint"),
        ({"entrypoint": [""]}, "cannot be empty"),
        ({"args": ["a\0b"]}, "NUL"),
        ({"environment": {"A-B": "x"}}, "name of a variable"),
        ({"environment": {"JOBFEATURES": "x"}}, "cannot be set"),
        ({"environment": {"N": 1}}, "environment"),
        ({"secret_files": {"etc/x": "/x"}}, "absolute path"),
        ({"secret_files": {"/etc/../etc/shadow": "/x"}}, "absolute path"),
        ({"secret_files": {"/user_data": "/x"}}, "something of its own"),
        ({"tmpfs": {"/proc/x": 4096}}, "kernel"),
        ({"tmpfs": {"/": 4096}}, "root of the machine"),
        ({"tmpfs": {"/tmp": "much"}}, "expected a size"),
        ({"tmpfs": {"/tmp": 0}}, "4096"),
        ({"tmp_binds": ["/var/spool/joboutputs/x"]}, "something of its own"),
        ({"min_processors": 0}, "min_processors"),
        ({"min_processors": True}, "min_processors"),
        ({"min_processors": "4"}, "min_processors"),
        ({"min_processors": 1.0}, "min_processors"),
        ({"max_processors": 10**30}, "max_processors"),
        ({"mb_per_processor": "1"}, None),
        ({"mb_per_processor": "1k"}, "mb_per_processor"),
        ({"console_bytes": 1000}, "console_bytes"),
        ({"max_wallclock_seconds": 0}, "max_wallclock_seconds"),
        ({"heartbeat_file": "../x"}, "name of a file"),
        ({"heartbeat_file": ""}, "name of a file"),
        ({"heartbeat_file": "é" * 200}, "name of a file"),
        ({"heartbeat_file": "shutdown_message"}, "name another"),
        ({"features_form": "http"}, 'served in one network: network = "lmd"'),
        ({"features_form": "http", "network": "lmd"}, None),
        ({"metadata_token_required": True}, 'served in one network: network = "lmd"'),
        ({"features_form": "url"}, "features_form"),
        ({"outcome": {"256": "300 x"}}, "exit codes 0 to 255"),
        ({"outcome": {"-1": "300 x"}}, "exit codes 0 to 255"),
        ({"outcome": {"1": "no work"}}, "NNN text"),
        ({"outcome": {"1": "800 x"}}, "NNN text"),
        ({"outcome": {"1": "300 x\ny"}}, "control characters"),
        ({"network": "lmd"}, None),
        ({"network": "other"}, "network"),
        ({"capabilities": ["NET_RA"]}, "did you mean NET_RAW?"),
        ({"capabilities": "ALL"}, "capabilities"),
        ({"devices": ["/dev/../etc/shadow"]}, "below /dev"),
        ({"devices": ["fuse"]}, "below /dev"),
        ({"architecture": "x86_64"}, "amd64"),
        ({"user": "me;id"}, "user"),
        ({"require_limits": ["disk"]}, "require_limits"),
        ({"nested_containers": "yes"}, "nested_containers"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_what_was_expected(
    keys: dict[str, Any], expected: str | None
) -> None:
    if expected is None:
        made(**keys)
    else:
        assert expected in refusal(**keys)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"min_processors": 4, "max_processors": 2}, "less than min_processors (4)"),
        ({"min_wallclock_seconds": 90000}, "more than max_wallclock_seconds"),
        ({"heartbeat_seconds": 60}, "needs heartbeat_file"),
        ({"pull": "always", "root_image": "/x.tar"}, "root_image is a file or directory"),
        ({"user_data": "/x", "user": "pilot"}, "only root can run /user_data"),
        ({"user_data_options": {"a": "x"}}, "no user_data to put it into"),
        ({"user_data": "/x", "user_data_options": {"a": "x"}, "user_data_files": {"a": "/x"}}, "same pattern"),
        ({"tmpfs": {"/a": 4096}, "tmp_binds": ["/a/"]}, "already taken by tmpfs"),
    ],
)
def test_keys_that_cannot_stand_together_are_refused(keys: dict[str, Any], expected: str) -> None:
    assert expected in refusal(**keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"user_data": "/x", "entrypoint": ["/bin/sh"], "user": "pilot"},
        {"user_data": "/x", "user": "0:0"},
        {"user_data": "https://example.org/x?y=1"},
        {"args": []},
        {"heartbeat_file": "heartbeat"},
        {"tmpfs": {"/dev/shm": "64M"}},
        {"tmp_binds": ["/user_data2", "/var/spool"]},
        {"root_image": "docker://registry.example.org:5000/a/b@sha256:" + "0" * 64},
    ],
)
def test_keys_that_can_stand_together_are_taken(keys: dict[str, Any]) -> None:
    made(**keys)


def test_user_data_is_the_command_unless_there_is_an_entrypoint() -> None:
    assert made(user_data="/x").runs_user_data
    assert not made(user_data="/x", entrypoint=["/bin/true"]).runs_user_data
    assert not made().runs_user_data


def test_a_site_allows_nothing_dangerous_unless_it_says_so() -> None:
    asks = made(network="host", capabilities=["SYS_ADMIN"], devices=["/dev/fuse"], nested_containers=True)
    assert [path for path, _ in violations(asks, Policy())] == [("network",), ("capabilities",), ("devices",)]
    allows = Policy(host_network=True, capabilities=("SYS_ADMIN",), devices=("/dev/fuse",))
    assert violations(asks, allows) == []
    assert violations(asks, allows.model_copy(update={"nested_containers": False}))[0][0] == ("nested_containers",)
