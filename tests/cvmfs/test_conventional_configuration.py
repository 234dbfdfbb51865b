"""The configuration that hosts of CernVM-FS have is understood, in the conventional order, and TOML instead."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cvmfs_mounted import command
from cvmfs_publisher import Publisher, directory, file, link
from cvmfs_served import FIXTURE, NAME, Web

from cvmfs.blacklist import read_blacklist
from cvmfs.configuration import Request, load_settings, load_values
from cvmfs.errors import BadConfiguration
from cvmfs.profiles import domains
from cvmfs.routes import DIRECT
from cvmfs.shell import read_shell, read_shell_file


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def values_of(text: str, **before: str) -> dict[str, str]:
    values = dict(before)
    read_shell(text, values, "test")
    return values


def test_assignments_are_read_as_a_shell_reads_them() -> None:
    text = r"""
# comment
A=plain # comment
export B="two words;$A"
C='$A'"x"
D=${A}-${NONE:-default}-$NONE
E="a\"b"
F="first
second"
G=a\
b
not an assignment
H=x; rm -rf /
"""
    found = values_of(text)
    assert found == {
        **{"A": "plain", "B": "two words;plain", "C": "$Ax", "D": "plain-default-", "E": 'a"b'},
        **{"F": "first\nsecond", "G": "ab", "H": "x"},
    }


def test_conditions_choose_a_branch() -> None:
    text = """
if [ "x$CDN" = "xyes" ]; then
  URL=cdn
  if [ -n "$NONE" ]; then
    URL=never
  fi
elif [ "$CDN" != "no" ]
then
  URL=other
else
  URL=plain
fi
"""
    assert values_of(text, CDN="yes")["URL"] == "cdn"
    assert values_of(text, CDN="no")["URL"] == "plain"
    assert values_of(text, CDN="maybe")["URL"] == "other"
    with pytest.raises(BadConfiguration, match="without fi"):
        values_of("if [ a = a ]; then")
    with pytest.raises(BadConfiguration, match="without an if"):
        values_of("fi")


def test_what_public_configurations_do_beyond_assignments_is_understood(tmp_path: Path) -> None:
    guarded = """
if [ "$FROM_REPOSITORY" != "" ]; then
  # the configuration repository has said it
  return
fi
URL=package
"""
    assert values_of(guarded) == {"URL": "package"}
    assert values_of(guarded, FROM_REPOSITORY="1") == {"FROM_REPOSITORY": "1"}
    unknown = "if [ -d / ] && grep -q 'wheezy\\|jessie' /etc/none ;\nthen\n  :\nelse\n  A=modern\nfi"
    assert values_of(unknown) == {"A": "modern"}
    assert values_of("if [ -n x ] && [ ! -f /none ]; then A=1; else A=2; fi; B='a;b'") == {"A": "1", "B": "a;b"}
    assert values_of("[ -z $A ] || A=kept; [ -z $B ] && B=set", A="is", B="") == {"A": "kept", "B": "set"}
    assert values_of('if [ "$(($$ % 2))" == 1 ]; then A=odd; else A=even; fi') == {"A": "even"}
    write(tmp_path, common_DOT_conf="SHARED=yes\n. ./none.conf\n", d__one_DOT_conf=". ../common.conf\nOWN=$SHARED\n")
    values: dict[str, str] = {}
    assert read_shell_file(tmp_path / "d/one.conf", values)
    assert values == {"SHARED": "yes", "OWN": "yes"}
    write(tmp_path, loop_DOT_conf="N=1\n. loop.conf\n")
    assert read_shell_file(tmp_path / "loop.conf", values)


def test_later_files_win_in_the_conventional_order(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    order = ["default_DOT_conf", "default_DOT_d__50_DOT_conf", "default_DOT_local"]
    order += ["domain_DOT_d__example_DOT_org_DOT_conf", "domain_DOT_d__example_DOT_org_DOT_local"]
    order += ["config_DOT_d__test_DOT_example_DOT_org_DOT_conf", "config_DOT_d__test_DOT_example_DOT_org_DOT_local"]
    for number, name in enumerate(order):
        write(etc, **{name: f"WINS={number}\nSEEN_{number}=yes\n"})
        values = load_values(Request("test.example.org", {}, None, etc))
        assert values["WINS"] == str(number)
    assert all(values[f"SEEN_{number}"] == "yes" for number in range(len(order)))
    assert load_values(Request("test.example.org", {"WINS": "given"}, None, etc))["WINS"] == "given"


def test_a_short_name_gets_the_default_domain(tmp_path: Path) -> None:
    etc = write(tmp_path / "etc", default_DOT_conf="CVMFS_DEFAULT_DOMAIN=cern.ch\nCVMFS_HTTP_PROXY=DIRECT\n")
    assert load_settings(Request("atlas", {}, None, etc)).repository == "atlas.cern.ch"


@pytest.mark.parametrize("name", ["atlas.cern.ch", "auger.egi.eu", "icecube.opensciencegrid.org"])
def test_public_domains_have_profiles(tmp_path: Path, name: str) -> None:
    assert set(domains()) == {"cern.ch", "egi.eu", "opensciencegrid.org"}
    for cdn in ("yes", "no"):
        settings = load_settings(Request(name, {"CVMFS_USE_CDN": cdn}, None, tmp_path))
        assert len(settings.servers) > 1
        assert all(server.startswith("http://") and server.endswith(f"/cvmfs/{name}") for server in settings.servers)
        assert settings.keys == (Path("/etc/cvmfs/keys") / name.partition(".")[2],)
        assert settings.proxies == ((DIRECT,),)


def test_the_sites_files_win_over_the_profile(tmp_path: Path) -> None:
    etc = write(
        tmp_path / "etc", default_DOT_local="CVMFS_SERVER_URL=http://own/@fqrn@\nCVMFS_HTTP_PROXY='a:1|b:2;c:3'\n"
    )
    settings = load_settings(Request("atlas.cern.ch", {}, None, etc))
    assert settings.servers == ("http://own/atlas.cern.ch",)
    assert settings.proxies == (("http://a:1", "http://b:2"), ("http://c:3",))


def test_toml_says_the_same(tmp_path: Path) -> None:
    toml = tmp_path / "c.toml"
    toml.write_text(
        """
[cvmfs]
http_proxy = ["http://a:3128|http://b:3128", "DIRECT"]
quota_limit = 100
cache_base = "/var/lib/x"
variables = { ARCH = "x86_64" }
[cvmfs.domains."cern.ch"]
follow_redirects = true
timeout = 3
[cvmfs.repositories."atlas.cern.ch"]
server_url = ["http://s1/@fqrn@", "http://s2/@fqrn@"]
repository_tag = "t"
"""
    )
    settings = load_settings(Request("atlas.cern.ch", {}, toml, tmp_path))
    assert settings.proxies == (("http://a:3128", "http://b:3128"), (DIRECT,))
    assert settings.servers == ("http://s1/atlas.cern.ch", "http://s2/atlas.cern.ch")
    assert (settings.quota, settings.cache) == (100 << 20, Path("/var/lib/x/lmd"))
    assert (settings.through_proxy.timeout, settings.through_proxy.redirects, settings.pin.tag) == (3.0, True, "t")
    assert settings.variables["ARCH"] == "x86_64"
    assert load_settings(Request("cms.cern.ch", {}, toml, tmp_path)).pin.tag is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cvmfs]\nhttp_proxi = 'x'", "did you mean http_proxy"),
        ("[cvmfs]\nquota_limit = []", "neither a text"),
        ("cvmfs = 3", "not a table"),
        ("[cvmfs", "not TOML"),
    ],
)
def test_wrong_toml_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(BadConfiguration, match=message):
        load_settings(Request("atlas.cern.ch", {}, tmp_path / "c.toml", tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CVMFS_QUOTA_LIMIT", "many"),
        ("CVMFS_TIMEOUT", "-1"),
        ("CVMFS_FOLLOW_REDIRECTS", "perhaps"),
        ("CVMFS_ROOT_HASH", "../x"),
        ("CVMFS_REPOSITORY_DATE", "yesterday"),
        ("CVMFS_SERVER_URL", "file:///etc/passwd"),
        ("CVMFS_HTTP_PROXY", "socks://x"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(BadConfiguration):
        load_settings(Request("atlas.cern.ch", {name: value}, None, tmp_path))


def test_settings_and_keys_come_from_a_configuration_repository(
    webs: Callable[[Path], Web], web: Web, tmp_path: Path
) -> None:
    publisher = Publisher(tmp_path / "config", "config.example.org")
    conf = (
        f"CVMFS_SERVER_URL={web.url}\nCVMFS_KEYS_DIR=/cvmfs/config.example.org/etc/cvmfs/keys/example.org\n"
        ". ../common.conf\n"
    )
    publisher.publish(
        {
            **{path: directory() for path in ("/etc", "/etc/cvmfs", "/etc/cvmfs/domain.d", "/etc/cvmfs/keys")},
            "/etc/cvmfs/keys/example.org": directory(),
            "/etc/cvmfs/default.conf": file(b"FROM_REPOSITORY=1\nCVMFS_CONFIG_REPOSITORY=evil.example.org\n"),
            "/etc/cvmfs/common.conf": file(b"CVMFS_FROM_CONFIG=yes\n"),
            "/etc/cvmfs/blacklist": file(b"<other.example.org 7\n"),
            "/etc/cvmfs/keys/example.org/k.pub": file((FIXTURE / "keys" / f"{NAME}.pub").read_bytes()),
            "/etc/cvmfs/domain.d/example.org.conf": file(conf.encode()),
        }
    )
    url = webs(publisher.root).url
    keys = tmp_path / "keys"
    keys.mkdir()
    shutil.copy(publisher.key_file, keys / "config.pub")
    etc = write(
        tmp_path / "etc",
        default_DOT_local="CVMFS_CONFIG_REPOSITORY=config.example.org\nCVMFS_HTTP_PROXY=DIRECT\n"
        f"CVMFS_CACHE_BASE={tmp_path}/cache\n",
        domain_DOT_d__example_DOT_org_DOT_conf='if [ "$FROM_REPOSITORY" != "" ]; then\n  return\nfi\n'
        "CVMFS_SERVER_URL=http://127.0.0.1:9/none\nCVMFS_KEYS_DIR=/none\n",
        config_DOT_d__config_DOT_example_DOT_org_DOT_conf=f"CVMFS_SERVER_URL={url}\nCVMFS_KEYS_DIR={keys}\n",
    )
    values = load_values(Request(NAME, {}, None, etc))
    assert values["CVMFS_FROM_CONFIG"] == "yes"
    assert values["CVMFS_CONFIG_REPOSITORY"] == "config.example.org"
    blacklists = [Path(word) for word in values["CVMFS_BLACKLIST"].split(":")]
    assert read_blacklist(blacklists, "other.example.org").first_revision == 7
    done = command("cat", NAME, "README.txt", "--etc", str(etc))
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) == 53


def test_the_commands_show_a_repository_without_a_mount(web: Web, tmp_path: Path) -> None:
    words = ["--server", web.url, "--key", str(FIXTURE / "keys"), "--cache", str(tmp_path / "c"), "--set", "ARCH=x"]
    listing = command("ls", NAME, *words)
    assert b"README.txt\n" in listing.stdout
    assert b"links -> " not in listing.stdout
    assert b"variant -> ../arch/x/lib.so" in command("ls", NAME, "-l", "/links", *words).stdout
    assert b"/sw/pkg/2.0/bin/tool\n" in command("ls", NAME, "-R", *words).stdout
    assert b"user.chunks: 4\n" in command("stat", NAME, "big/chunked-600k.bin", *words).stdout
    assert b"rev1-files\t1\t" in command("tags", NAME, *words).stdout
    checked = command("check", NAME, *words)
    assert checked.returncode == 0
    assert b"revision 3, 95 entries" in checked.stdout
    missing = command("cat", NAME, "/none", *words)
    assert (missing.returncode, missing.stdout) == (1, b"")
    assert command("cat", NAME, "../etc", *words).returncode == 2


def test_check_finds_damaged_content(copied_web: Web, tmp_path: Path) -> None:
    words = ["--server", copied_web.url, "--key", str(FIXTURE / "keys"), "--cache", str(tmp_path / "c")]
    damaged = copied_web.root / "data/b2/768f93bf2cd7f60ba3bba419eaa58097cee6ed"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = command("check", NAME, *words)
    assert done.returncode == 1
    assert b"/README.txt: object b2768f93" in done.stderr
    assert b"1 wrong" in done.stdout


def test_the_commands_follow_links_as_a_mount_does_and_not_out_of_the_repository(
    webs: Callable[[Path], Web], tmp_path: Path
) -> None:
    publisher = Publisher(tmp_path / "repo")
    publisher.publish(
        {
            "/v2": directory(),
            "/v2/bin": directory(),
            "/v2/bin/tool": file(b"two"),
            "/latest": link(b"v$(MAJOR:-2)"),
            "/tool": link(b"latest/./bin/../bin/tool"),
            "/whole": link(f"/cvmfs/{publisher.name}/latest/bin".encode()),
            "/out": link(b"../other.example.org/x"),
            "/host": link(b"/etc/passwd"),
            "/a": link(b"b"),
            "/b": link(b"a"),
            "/lost": link(b"none"),
        }
    )
    words = ["--server", webs(publisher.root).url, "--key", str(publisher.key_file), "--cache", str(tmp_path / "c")]

    def said(name: str, *rest: str) -> tuple[int, bytes]:
        done = command(name, publisher.name, *rest, *words)
        return done.returncode, done.stdout or done.stderr

    for path in ("/tool", "/latest/bin/tool", "/whole/tool"):
        assert said("cat", path) == (0, b"two")
    assert said("ls", "/whole") == (0, b"tool\n")
    assert said("ls", "-l", "/whole")[1].endswith(b"-> " + f"/cvmfs/{publisher.name}/latest/bin\n".encode())
    assert b"type: symlink\n" in said("stat", "/latest")[1]
    assert b"path: /v2/bin/tool\n" in said("stat", "/latest/bin/tool")[1]
    for path in ("/out", "/host"):
        assert said("cat", path)[0] == 1
        assert b"leads out of the repository" in said("cat", path)[1]
    assert b"more than 40 links" in said("cat", "/a")[1]
    assert said("cat", "/lost") == (1, b"cvmfs: /lost: no such file or directory\n")
