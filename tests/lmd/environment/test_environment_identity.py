"""Names of machines and of boots."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmd.environment.identity import RANDOM_BYTES, boot_id, machine_id
from runtimes.contract import MACHINE_ID

ZEROS = bytes(RANDOM_BYTES)


def test_an_id_is_the_hosts_label_and_thirteen_base32_characters() -> None:
    assert machine_id("wn01.example.org", ZEROS) == "wn01-aaaaaaaaaaaaa"
    assert machine_id("WN_01", bytes.fromhex("ffffffffffffffff")) == "wn-01-777777777777" + "6"


@given(st.text(max_size=100), st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES))
def test_any_host_gives_a_dns_label(host: str, random: bytes) -> None:
    name = machine_id(host, random)
    assert MACHINE_ID.fullmatch(name) and len(name) <= 63
    assert re.search(r"-[a-z2-7]{13}\Z", name)


@given(st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES), st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES))
def test_all_the_randomness_is_in_the_id(one: bytes, other: bytes) -> None:
    assert (machine_id("host", one) == machine_id("host", other)) == (one == other)


def test_a_long_host_name_is_cut_and_a_nameless_host_gets_a_name() -> None:
    assert len(machine_id("h" * 200, ZEROS)) == 63
    assert machine_id("", ZEROS) == machine_id("---", ZEROS) == "host-aaaaaaaaaaaaa"


def test_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="8 random bytes"):
        machine_id("host", b"short")


def test_the_boot_id_is_read_without_its_newline(tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text("0c0ffee0-1111-2222-3333-444455556666\n")
    assert boot_id(tmp_path / "boot_id") == "0c0ffee0-1111-2222-3333-444455556666"
    assert boot_id() == boot_id() != ""
