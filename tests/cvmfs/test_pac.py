"""Proxy auto-configuration scripts as sites write them, and as nobody should."""

from __future__ import annotations

import pytest

from cvmfs.errors import BadConfiguration, CvmfsError
from cvmfs.pac import groups_from_answer
from cvmfs.pac.script import find_proxy

SITE = """
// comment
function FindProxyForURL(url, host) {
  var proxies = ["a.example:3128", 'b.example:3128'], out = "";
  host = host.toLowerCase();
  if (isPlainHostName(host) || dnsDomainIs(host, ".local")) return "DIRECT";
  else if (shExpMatch(url, "*/cvmfs/*") && !shExpMatch(host, "*.cdn.example")) {
    for (var i = 0; i < proxies.length; i++) { out += "PROXY " + proxies[i] + "; "; }
    return out + direct();
  }
  return isInNet("127.0.0.1", "127.0.0.0", "255.0.0.0") ? "PROXY http://c:1" : "DIRECT"
}
function direct() { return "DIRECT" }
"""


@pytest.mark.parametrize(
    ("url", "host", "groups"),
    [
        ("http://s/x", "s", (("DIRECT",),)),
        ("http://S.LOCAL/x", "S.LOCAL", (("DIRECT",),)),
        (
            "http://s.example/cvmfs/x",
            "s.example",
            (("http://a.example:3128",), ("http://b.example:3128",), ("DIRECT",)),
        ),
        ("http://x.cdn.example/cvmfs/x", "x.cdn.example", (("http://c:1",),)),
    ],
)
def test_a_sites_script_gives_its_proxies_in_order(url: str, host: str, groups: object) -> None:
    assert groups_from_answer(find_proxy(SITE, url, host)) == groups


@pytest.mark.parametrize(
    "script",
    [
        "",
        "function FindProxyForURL(url, host) { while (true) {} }",
        "function FindProxyForURL(url, host) { return FindProxyForURL(url, host); }",
        'function FindProxyForURL(url, host) { var a = "aaaaaaaa"; for (;;) a = a + a; }',
        "function FindProxyForURL(url, host) { return 7; }",
        "function FindProxyForURL(url, host) { return nothing; }",
        "function FindProxyForURL(url, host) { return url.constructor; }",
        "function FindProxyForURL(",
        "(" * 5000,
        "function FindProxyForURL(url, host) { return 1 / 0; }",
        'function FindProxyForURL(u, h) { return shExpMatch("' + "a" * 40 + '", "' + "*a" * 40 + 'b"); }',
    ],
)
def test_a_script_that_loops_or_is_none_is_refused(script: str) -> None:
    with pytest.raises(CvmfsError, match="proxy auto-configuration"):
        find_proxy(script, "http://a.b/", "a.b")


def test_an_answer_without_a_usable_proxy_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="no usable proxy"):
        groups_from_answer("SOCKS a:1")
