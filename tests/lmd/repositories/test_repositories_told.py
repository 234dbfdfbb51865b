"""What the metadata tell a guest whose own client mounts repositories."""

from pathlib import Path
from typing import Any

import pytest

from lmd.config.models import Config, Cvmfs, MachineType
from lmd.environment.seed import Seed, files
from lmd.metadata.card import Card
from lmd.metadata.openstack import meta_data
from lmd.places import Places
from lmd.repositories.handing import handed
from lmd.repositories.keeping import needed
from lmd.repositories.provider import NoRepositories
from lmd.repositories.telling import told
from runtimes.contract import Image, ImageKind

KEY = "-----BEGIN PUBLIC KEY-----\nMIIB{}\n-----END PUBLIC KEY-----\n"
SECRET = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "state", tmp_path / "run", tmp_path / "cache").make()


def options(**keys: Any) -> Cvmfs:
    return Cvmfs.model_validate({"http_proxy": ["http://a:3128|http://b:3128", "DIRECT"]} | keys)


def test_proxies_servers_and_keys_are_told_under_the_client_s_names(places: Places, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    for number in (1, 2):
        (keys / f"{number}.pub").write_text(KEY.format(number))
    urls = ["http://s1/cvmfs/@fqrn@", "http://s2/cvmfs/@fqrn@"]
    assert told(["x.example.org"], options(server_url=urls, public_key=[str(keys)]), places, tmp_path) == {
        "CVMFS_HTTP_PROXY": "http://a:3128|http://b:3128;DIRECT",
        "CVMFS_REPOSITORIES": "x.example.org",
        "x.example.org:CVMFS_SERVER_URL": "http://s1/cvmfs/@fqrn@;http://s2/cvmfs/@fqrn@",
        "x.example.org:CVMFS_PUBLIC_KEY": KEY.format(1) + KEY.format(2),
    }


def test_the_host_s_own_configuration_counts_where_lmd_s_says_nothing(places: Places, tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "default.local").write_text("CVMFS_HTTP_PROXY=http://site:3128\n")
    found = told(["x.example.org", "y.example.org", "*"], Cvmfs(), places, etc)
    assert found == {"CVMFS_HTTP_PROXY": "http://site:3128", "CVMFS_REPOSITORIES": "x.example.org,y.example.org"}


def test_a_private_key_goes_to_no_machine(places: Places, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(SECRET)
    with pytest.raises(NoRepositories, match=r"key\.pub is no public key"):
        told(["x.example.org"], options(public_key=[str(tmp_path / "key.pub")]), places, tmp_path)


async def test_machines_that_start_a_system_of_their_own_are_told_and_nothing_is_mounted_for_them(
    places: Places, tmp_path: Path
) -> None:
    (tmp_path / "key.pub").write_text(KEY.format(1))
    plain = {"name": "cern", "root_image": "/i.iso", "machine_model": "cernvm4", "target_share": 1.0}
    type_ = MachineType.model_validate(plain | {"cvmfs_repositories": ["x.example.org"]})
    config = Config(
        machinetypes={"cern": type_},
        cvmfs=options(server_url=["http://s/@fqrn@"], public_key=[str(tmp_path / "key.pub")]),
    )
    given = await handed(type_, Image(kind=ImageKind.BOOT_ISO, location="/i.iso"), config, places)
    assert (given.mounts, given.repositories, needed(type_)) == ((), (), ())
    assert given.told["x.example.org:CVMFS_SERVER_URL"] == "http://s/@fqrn@"
    card = Card(
        id="m",
        job_id="j",
        space="s",
        machinetype="cern",
        factory="f",
        address="169.254.0.9",
        mac="52:54:00:00:00:09",
        variables={},
        outputs_bytes=1,
        outputs_files=1,
        cvmfs=dict(given.told),
    )
    assert meta_data(card, b"")["cvmfs"] == given.told
    assert b"http://s/@fqrn@" in files(Seed(instance_id="j", hostname="m", cvmfs=given.told))["meta-data"]
    assert b"cvmfs" not in files(Seed(instance_id="j", hostname="m"))["meta-data"]
