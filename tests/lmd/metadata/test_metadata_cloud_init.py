"""cloud-init's own crawlers, as Debian ships them, against the server: they find all, and have nothing to warn of.

The package is unpacked, not installed: nothing of it ever runs on the host but these modules.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "crawl.py"


@pytest.fixture(scope="module")
def cloud_init(short_tmp: Path) -> Path:
    """Where cloud-init's modules are."""
    directory = short_tmp / "cloud-init"
    directory.mkdir(exist_ok=True)
    if not (directory / "usr").exists():
        got = subprocess.run(["apt-get", "download", "cloud-init"], cwd=directory, capture_output=True, text=True)
        assert got.returncode == 0, f"cloud-init cannot be downloaded (apt-get update?): {got.stderr}"
        (package,) = directory.glob("*.deb")
        subprocess.run(["dpkg", "-x", package, directory], check=True)
    return directory / "usr/lib/python3/dist-packages"


@pytest.fixture
def crawled(cloud_init: Path, tmp_path: Path) -> Callable[[Any, str], dict[str, Any]]:
    """What a machine's cloud-init finds; it must not warn."""

    def crawl(one: Any, kind: str) -> dict[str, Any]:
        command = one.namespace.command("/usr/bin/python3", str(SCRIPT), kind, str(tmp_path), one.place.mac)
        environment = os.environ | {"PYTHONPATH": str(cloud_init)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["warnings"] == []
        return said["found"]

    return crawl


@pytest.mark.parametrize("kind", ["ec2", "aws"])
def test_the_ec2_datasource_finds_all_without_a_warning(machine, crawled, kind: str) -> None:
    one = machine(token_required=kind == "aws")
    found = crawled(one, kind)
    assert found["user-data"] == f"#!/bin/sh\necho secret of {one.place.number:x}\n"
    meta = found["meta-data"]
    assert (meta["instance-id"], meta["local-hostname"]) == (one.given.job_id, one.card.id)
    assert meta["public-keys"] == {"lmd": "ssh-ed25519 AAAA author@example.org"}
    assert meta["local-ipv4"] == str(one.place.address)
    assert found["_metadata_api_version"] == "2021-03-23"
    card = found["network"]["ethernets"]["eth0"]
    assert card["dhcp4"] is True
    assert card["match"] == {"macaddress": one.place.mac}
    if kind == "aws":
        assert found["dynamic"]["instance-identity"]["document"]["instanceId"] == one.given.job_id


def test_the_openstack_datasource_finds_all_without_a_warning(machine, crawled) -> None:
    one = machine()
    found = crawled(one, "openstack")
    assert found["userdata"] == f"#!/bin/sh\necho secret of {one.place.number:x}\n"
    meta = found["metadata"]
    assert (meta["uuid"], meta["instance-id"]) == (one.given.job_id,) * 2
    assert meta["local-hostname"] == one.card.id
    assert meta["public_keys"] == {"0": "ssh-ed25519 AAAA author@example.org"}
    assert len(meta["random_seed"]) == 512
    assert meta["meta"]["machinetype"] == "montecarlo"
    assert found["vendordata"] == {}
    assert found["ec2-metadata"]["instance-id"] == one.given.job_id
    (card,) = (each for each in found["network"]["config"] if each["type"] == "physical")
    assert (card["name"], card["mac_address"]) == ("eth0", one.place.mac)
    four, six = card["subnets"]
    assert four["type"] == "dhcp4"
    assert six["address"].startswith(one.card.address6)
    assert {"type": "nameserver", "address": "169.254.169.253"} in found["network"]["config"]
