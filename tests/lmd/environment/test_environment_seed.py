"""The NoCloud seed, read by what others have written to read such images."""

import json
import subprocess
from pathlib import Path

import pytest

from lmd.environment.seed import LIMIT, Seed, SeedError, files, write

SEED = Seed(
    instance_id="6f1a",
    hostname="wn1-abc",
    user_data=b"#cloud-config\n\xff\x00binary\n",
    public_key="ssh-ed25519 AAAA a@b",
    mac="56:4d:a9:fe:01:07",
    address6="fd00::7",
    gateway6="fd00::1",
)


def test_a_guest_finds_its_files_by_label(tmp_path: Path) -> None:
    image, place = tmp_path / "seed.iso", tmp_path / "mnt"
    write(image, SEED)
    assert image.stat().st_mode & 0o777 == 0o600
    found = subprocess.run(["blkid", "-p", "-s", "LABEL", "-s", "TYPE", "-o", "export", image], capture_output=True)
    assert b"LABEL=cidata" in found.stdout
    assert b"TYPE=iso9660" in found.stdout
    place.mkdir()
    subprocess.run(["bsdtar", "-x", "-f", image, "-C", place], check=True)
    assert {path.name for path in place.iterdir()} == {"meta-data", "user-data", "network-config"}
    assert (place / "user-data").read_bytes() == SEED.user_data
    meta = json.loads((place / "meta-data").read_text())
    assert (meta["instance-id"], meta["local-hostname"]) == ("6f1a", "wn1-abc")
    network = json.loads((place / "network-config").read_text())["ethernets"]["lmd"]
    assert network["match"] == {"macaddress": "56:4d:a9:fe:01:07"}
    assert network["addresses"] == ["fd00::7/64"]


def test_an_old_seed_is_replaced_whole(tmp_path: Path) -> None:
    image = tmp_path / "seed.iso"
    write(image, Seed(instance_id="1", hostname="a", user_data=bytes(1_000_000)))
    write(image, Seed(instance_id="2", hostname="a"))
    assert image.stat().st_size < 1_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["seed.iso"]


def test_a_seed_without_a_card_says_nothing_of_the_network() -> None:
    assert set(files(Seed(instance_id="1", hostname="a"))) == {"meta-data", "user-data"}


def test_what_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match="No such file or directory"):
        write(tmp_path / "none/seed.iso", SEED)
    with pytest.raises(SeedError, match="larger than a seed may be"):
        write(tmp_path / "seed.iso", Seed(instance_id="1", hostname="a", user_data=bytes(LIMIT + 1)))
