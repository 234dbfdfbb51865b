"""What machines find at the two addresses."""

import json
import time

from lmd.environment import features
from lmd.metadata.tokens import LONGEST, TOKEN, TTL
from lmd.network import addresses
from lmd.network.addresses import GATEWAY, METADATA6


def test_a_machine_is_known_by_its_address_and_finds_its_own_data_alone(machine):
    one, other = machine(), machine()
    assert one.get("/latest/user-data") == f"#!/bin/sh\necho secret of {one.place.number:x}\n".encode()
    assert other.get("/latest/user-data") == f"#!/bin/sh\necho secret of {other.place.number:x}\n".encode()
    assert one.get("/latest/meta-data/instance-id").decode() == one.given.job_id
    assert other.get("/latest/meta-data/instance-id").decode() == other.given.job_id


def test_ipv6_reaches_the_same_machine(machine):
    one = machine()
    prefix = addresses.own_prefix("the tests' factory")
    assert one.get("/latest/meta-data/instance-id", at=METADATA6).decode() == one.given.job_id
    assert one.get("/jobfeatures/job_id", at=addresses.gateway6(prefix)).decode() == one.given.job_id


def test_every_key_that_the_ec2_listings_name_is_there(machine):
    one = machine()

    def walk(path: str) -> dict[str, str]:
        found = {}
        for name in one.get(path).decode().splitlines():
            if name.endswith("/"):
                found |= walk(path + name)
            elif "=" in name:
                number, _, _ = name.partition("=")
                found |= walk(f"{path}{number}/")
            else:
                found[path + name] = one.get(path + name).decode()
        return found

    for version in ("latest", "2009-04-04", "2021-03-23", "1.0"):
        found = walk(f"/{version}/meta-data/")
        start = f"/{version}/meta-data/"
        assert found[f"{start}ami-id"] == found[f"{start}instance-id"] == one.given.job_id
        assert found[f"{start}local-hostname"] == one.card.id
        assert found[f"{start}local-ipv4"] == str(one.place.address)
        assert found[f"{start}network/interfaces/macs/{one.place.mac}/mac"] == one.place.mac
        assert found[f"{start}public-keys/0/openssh-key"] == "ssh-ed25519 AAAA author@example.org"
    assert b"latest" in one.get("/").split()
    assert one.get("/latest").split() == [b"dynamic", b"meta-data", b"user-data"]


def test_the_openstack_tree_names_what_it_has_and_tells_the_network(machine):
    one = machine()
    for version in one.get("/openstack").decode().split():
        listed = one.get(f"/openstack/{version}/").decode().split()
        assert listed == ["meta_data.json", "network_data.json", "user_data", "vendor_data.json", "vendor_data2.json"]
        for name in listed:
            one.get(f"/openstack/{version}/{name}")
    meta = json.loads(one.get("/openstack/latest/meta_data.json"))
    assert (meta["uuid"], meta["hostname"]) == (one.given.job_id, one.card.id)
    assert meta["meta"]["joboutputs"] == f"http://{GATEWAY}/joboutputs"
    assert meta["meta"]["machinetype"] == "montecarlo"
    assert meta["random_seed"] != json.loads(one.get("/openstack/latest/meta_data.json"))["random_seed"]
    network = json.loads(one.get("/openstack/latest/network_data.json"))
    assert network["links"][0]["ethernet_mac_address"] == one.place.mac
    assert [each["type"] for each in network["networks"]] == ["ipv4_dhcp", "ipv6"]
    assert network["networks"][1]["ip_address"] == one.card.address6
    assert json.loads(one.get("/openstack/latest/vendor_data.json")) == {}


def test_vacs_own_spellings_answer_as_vac_did(machine):
    one = machine()
    for date in ("latest", "2015-10-15", "1999-01-01"):
        for tree in (f"/{date}", f"/openstack/{date}"):
            assert one.get(f"{tree}/user-data").startswith(b"#!/bin/sh")
            meta = json.loads(one.get(f"{tree}/meta-data.json"))
            assert meta["name"] == meta["hostname"] == one.card.id
            assert meta["uuid"] == one.given.job_id
            assert meta["availability_zone"] == "wn1.example.org"
            assert meta["public_keys"] == {"0": "ssh-ed25519 AAAA author@example.org"}
            assert set(meta["meta"]) == {"machinefeatures", "jobfeatures", "joboutputs", "machinetype"}
            assert one.get(f"{tree}/meta-data/ami-id").decode() == one.given.job_id
            assert one.get(f"{tree}/meta-data/instance-id").decode() == one.given.job_id
            assert one.get(f"{tree}/meta-data/public-keys/0/openssh-key").startswith(b"ssh-ed25519")
        for slash in ("", "/"):
            listed = one.get(f"/openstack/{date}/meta-data{slash}").decode().split()
            assert listed == ["public-keys/0/openssh-key", "ami-id", "instance-id"]
    assert one.get("//latest///user-data") == one.get("/latest/user-data")


def test_without_a_key_or_user_data_their_paths_are_not_there(machine):
    one = machine(public_key="", user_data=None)
    for path in (
        "/latest/user-data",
        "/openstack/latest/user_data",
        "/latest/meta-data/public-keys/0/openssh-key",
        "/openstack/latest/meta-data/public-keys/0/openssh-key",
    ):
        assert one.ask("GET", path)[0] == 404, path
    assert b"user" not in one.get("/latest") + one.get("/openstack/latest/")
    assert "public_keys" not in json.loads(one.get("/openstack/latest/meta_data.json"))


def test_features_are_listed_and_read_and_an_earlier_end_is_seen_at_once(machine):
    one = machine()
    for directory, values in (
        ("machinefeatures", features.machinefeatures(one.given)),
        ("jobfeatures", features.jobfeatures(one.given)),
    ):
        for slash in ("", "/"):
            page = one.get(f"/{directory}{slash}", at=GATEWAY).decode()
            assert all(f'<li><a href="{key}">{key}</a></li>' in page for key in values)
        for key, value in values.items():
            assert one.get(f"/{directory}/{key}", at=GATEWAY).decode() == value
    told = one.directory.move_shutdown_time(time.time() + 60)
    assert int(one.get("/machinefeatures/shutdowntime", at=GATEWAY)) == told
    assert int(one.get("/jobfeatures/shutdowntime_job", at=GATEWAY)) == told


def test_the_metadata_is_not_at_the_address_of_the_features_nor_the_reverse(machine):
    one = machine()
    assert one.ask("GET", "/latest/user-data", at=GATEWAY)[0] == 404
    assert one.ask("GET", "/openstack/latest/user_data", at=GATEWAY)[0] == 404
    assert one.ask("GET", "/machinefeatures/total_cpu")[0] == 404
    assert one.ask("PUT", "/joboutputs/x", body=b"x")[0] == 405


def test_head_is_get_without_the_content_and_other_methods_are_refused(machine):
    one = machine()
    status, content, headers = one.ask("HEAD", "/latest/user-data")
    assert (status, content, headers["Content-Length"]) == (200, b"", str(len(one.get("/latest/user-data"))))
    for method in ("POST", "DELETE", "PATCH", "OPTIONS"):
        assert one.ask(method, "/latest/user-data")[0] == 405
    assert one.ask("PUT", "/machinefeatures/total_cpu", at=GATEWAY, body=b"9")[0] == 405
    assert one.get("/machinefeatures/total_cpu", at=GATEWAY) == b"2"


def test_a_session_token_opens_the_tree_of_a_type_that_insists(machine):
    one, other = machine(token_required=True), machine()
    for path in ("/latest/user-data", "/openstack/latest/user_data", "/latest/meta-data/", "/"):
        assert one.ask("GET", path)[0] == 401, path
    status, token, headers = one.ask("PUT", "/latest/api/token", headers={TTL: "300"})
    assert (status, headers[TTL]) == (200, "300")
    given = {TOKEN: token.decode()}
    assert one.ask("GET", "/latest/user-data", headers=given)[1].startswith(b"#!/bin/sh")
    assert other.ask("GET", "/latest/user-data", headers=given)[0] == 401, "a token is good for one machine"
    assert other.ask("GET", "/latest/user-data", headers={TOKEN: "x" * 50})[0] == 401
    assert one.get("/machinefeatures/total_cpu", at=GATEWAY) == b"2"


def test_tokens_end_and_are_refused_to_proxies_and_for_lifetimes_that_ec2_would_refuse(machine):
    one = machine()
    for seconds in (None, "0", "-1", "x", str(LONGEST + 1), "9" * 50, "٣"):
        headers = {TTL: seconds} if seconds is not None else {}
        headers = {name: value.encode().decode("latin-1") for name, value in headers.items()}
        assert one.ask("PUT", "/latest/api/token", headers=headers)[0] == 400, seconds
    assert one.ask("PUT", "/latest/api/token", headers={TTL: "60", "X-Forwarded-For": "192.0.2.1"})[0] == 403
    token = one.ask("PUT", "/latest/api/token", headers={TTL: "1"})[1].decode()
    last = time.monotonic() + 5
    while one.ask("GET", "/latest/meta-data/", headers={TOKEN: token})[0] == 200:
        assert time.monotonic() < last
        time.sleep(0.1)
    assert one.ask("GET", "/latest/meta-data/", headers={TOKEN: token})[0] == 401


def test_a_long_user_data_comes_whole(machine):
    content = bytes(range(256)) * 40_000
    one = machine(user_data=content)
    assert one.get("/latest/user-data") == content
