"""What repositories and configurations of real sites hold beyond the fixture, and what the real client makes of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cvmfs_mounted import mounted
from cvmfs_publisher import Publisher, digest, directory, file, link
from cvmfs_served import Web

from cvmfs.errors import CvmfsError, Refused, Unsupported
from cvmfs.repository import Repository
from cvmfs.settings import make_settings, open_repository
from cvmfs.variables import expand

Open = Callable[..., Repository]


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "repo")


@pytest.fixture
def open_it(publisher: Publisher, webs: Callable[[Path], Web], tmp_path: Path) -> Open:
    url = webs(publisher.root).url

    def open_(**values: str) -> Repository:
        defaults = {
            "CVMFS_SERVER_URL": url,
            "CVMFS_HTTP_PROXY": "DIRECT",
            "CVMFS_PUBLIC_KEY": str(publisher.key_file),
            "CVMFS_CACHE_DIR": str(tmp_path / "cache"),
        }
        repository = open_repository(make_settings(publisher.name, defaults | values))
        repository.close()
        return repository

    return open_


def fingerprint(publisher: Publisher) -> bytes:
    return digest(x509.load_pem_x509_certificate(publisher.certificate).public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (b"a/$(ARCH)/b", b"a/x86/b"),
        (b"$(NONE)", b""),
        (b"$(NONE:-a:-b)", b"a:-b"),
        (b"$(ARCH:-other)", b"x86"),
        (b"$(EMPTY:-other)", b""),
        (b"$(open/$(ARCH)", b""),
        (b"$(never closed", b"$(never closed"),
        (b"$ARCH/${ARCH}/$", b"$ARCH/${ARCH}/$"),
    ],
)
def test_variables_in_links_are_replaced_as_the_real_client_does(target: bytes, shown: bytes) -> None:
    assert expand(target, {"ARCH": "x86", "EMPTY": ""}) == shown


def test_a_manifest_with_every_line_that_publishers_write_is_read(publisher: Publisher, open_it: Open) -> None:
    root = publisher.publish({"/f": file(b"x")}, tag="first")
    metainfo = publisher.store(b'{"description": "a test"}', "M")
    lines = publisher.manifest_lines(root, 4096)
    lines[lines.index("Gno")] = "Gyes"
    lines += [f"M{metainfo}", f"Y{publisher.store(b'reflog')}", f"L{publisher.store(b'micro')}"]
    publisher.sign_manifest("".join(line + "\n" for line in lines).encode())
    assert open_it().metainfo() == b'{"description": "a test"}'


def test_a_whitelist_with_comments_and_several_fingerprints_is_read(publisher: Publisher, open_it: Open) -> None:
    publisher.publish({"/f": file(b"x")})
    mark = fingerprint(publisher).hex(":").upper()
    body = "20200101000000\nE29990101000000\nNtest.example.org\n# 'test.example.org' release managers\n"
    body += f"{bytes(20).hex(':').upper()} # another\n\n{mark.lower()}\t# ours\n{'AB:' * 19}AB-NEWHASH\n"
    publisher.sign_whitelist(body.encode())
    open_it()


def test_a_whitelist_by_pkcs7_is_refused_with_that_reason(publisher: Publisher, open_it: Open) -> None:
    publisher.publish({"/f": file(b"x")})
    body = b"20200101000000\nE29990101000000\nNtest.example.org\nVpkcs7\n" + b"AB:" * 19 + b"AB\n--\n"
    (publisher.root / ".cvmfswhitelist").write_bytes(body)
    with pytest.raises(Unsupported, match=r"PKCS#7 .* use the distribution's client"):
        open_it()


def test_what_the_blacklist_withdraws_is_refused(publisher: Publisher, open_it: Open, tmp_path: Path) -> None:
    publisher.publish({"/f": file(b"x")})
    blacklist = tmp_path / "blacklist"
    blacklist.write_text(f"# none\n{bytes(20).hex(':')}\n<other.example.org 99\n<test.example.org 1\n")
    open_it(CVMFS_BLACKLIST=f"{blacklist}:{tmp_path}/none")
    blacklist.write_text("<test.example.org 2\n")
    with pytest.raises(Refused, match=r"revision 1 is in the blacklist, which allows 2"):
        open_it(CVMFS_BLACKLIST=str(blacklist))
    blacklist.write_text(fingerprint(publisher).hex(":").upper() + " # withdrawn\n")
    with pytest.raises(Refused, match=r"certificate .* in the blacklist"):
        open_it(CVMFS_BLACKLIST=str(blacklist))


def test_a_compression_that_is_not_known_spoils_one_file_only(publisher: Publisher, open_it: Open) -> None:
    publisher.spoil_catalog = lambda base: base.execute("UPDATE catalog SET flags = flags | (5 << 11) WHERE name='new'")
    publisher.publish({"/new": file(b"x"), "/old": file(b"content")})
    repository = open_it()
    found = {located.entry.name: located for located in repository.tree.listing(b"")}
    assert b"".join(repository.read(found[b"old"])) == b"content"
    with pytest.raises(Unsupported, match="compression number 5"):
        repository.open(found[b"new"])


def test_a_proxy_that_cannot_be_found_out_leaves_the_others(publisher: Publisher, open_it: Open) -> None:
    publisher.publish({"/f": file(b"x")})
    none = {"CVMFS_PAC_URLS": "http://127.0.0.1:9/wpad.dat"}
    open_it(CVMFS_HTTP_PROXY="auto;DIRECT", **none)
    with pytest.raises(CvmfsError, match="proxy auto-configuration failed"):
        open_it(CVMFS_HTTP_PROXY="auto", CVMFS_CACHE_DIR=str(publisher.root.parent / "other"), **none)


def test_a_mount_shows_owners_modes_and_attributes_as_configured(
    publisher: Publisher, webs: Callable[[Path], Web], tmp_path: Path
) -> None:
    publisher.publish(
        {
            "/a": file(b"a" * 1000, uid=10, gid=20),
            "/b": file(b"bbb", uid=11, gid=21),
            "/ext": file(b"elsewhere", external=True),
            "/dir": directory(),
            "/dir/l": link(b"../a"),
        }
    )
    (tmp_path / "uids").write_text("10 1000\n* 99 # all others\n")
    (tmp_path / "gids").write_text("20 2000\n")
    words = ["CVMFS_MAGIC_XATTRS_VISIBILITY=rootonly", "CVMFS_WORLD_READABLE=yes"]
    words += [f"CVMFS_UID_MAP={tmp_path}/uids", f"CVMFS_GID_MAP={tmp_path}/gids"]
    options = [word for setting in words for word in ("--set", setting)]
    where = tmp_path / "mnt"
    with mounted(
        webs(publisher.root).url, where, tmp_path / "cache", *options, name=publisher.name, key=publisher.key_file
    ):
        assert [(where / name).stat().st_uid for name in "ab"] == [1000, 99]
        assert [(where / name).stat().st_gid for name in "ab"] == [2000, 21]
        assert stat.S_IMODE((where / "a").stat().st_mode) == 0o644
        with pytest.raises(OSError, match="Input/output error"):
            (where / "ext").read_bytes()
        assert os.getxattr(where / "a", "user.lhash") == b"Not in cache"
        assert (where / "a").read_bytes() == b"a" * 1000
        assert {"user.fqrn", "user.expires", "user.pid"} < set(os.listxattr(where))
        assert os.listxattr(where / "a") == []
        said = {name: os.getxattr(where, name).decode() for name in os.listxattr(where)}
        assert said["user.nioerr"] == "1"
        assert int(said["user.timestamp_last_ioerr"]) > 0
        assert "external to the repository" in said["user.logbuffer"]
        assert (said["user.nopen"], said["user.usedfd"], said["user.uptime"]) == ("1", "0", "0")
        assert said["user.expires"] in ("3", "4")
        assert float(said["user.hitrate"]) < 100
        assert os.getxattr(where / "a", "user.external_file") == b"0"
        assert os.getxattr(where / "ext", "user.external_file") == b"1"
        assert os.getxattr(where / "ext", "user.external_url") == b""
        assert int(os.getxattr(where, "user.inode_max")) >= 4
