"""Obscure words of engines, as they were seen, and what the doctor makes of them."""

import pytest

from lmd.doctor.traps import TRAPS, explained

SEEN = {
    "OCI runtime error: crun: cgroups in hybrid mode not supported": "get install runc",
    "crun: setrlimit `RLIMIT_NOFILE`: Operation not permitted: OCI permission denied": "default_ulimits",
    "runc create failed: unable to start container process: error setting rlimit type 7: setrlimit RLIMIT_NPROC:"
    " operation not permitted": "default_ulimits",
    'could not find slirp4netns, the network namespace can\'t be configured: exec: "slirp4netns": executable file'
    " not found in $PATH": "slirp4netns",
    'slirp4netns failed: open("/dev/net/tun"): Permission denied': "chmod 666 /dev/net/tun",
    'rootless mode with multiple IDs: exec: "newuidmap": executable file not found in $PATH': "uidm",
    'cannot find mappings for user "x": no subuid ranges found for user "x" in /etc/subuid': "usermod --add-subuids",
    "potentially insufficient UIDs or GIDs available in user namespace (requested 0:42 for /etc/gshadow)": "usermod",
    "podman could not create machine x: could not find enough available IDs": "uid_count",
    "podman's service did not start: cannot clone: No space left on device; user namespaces are not enabled in"
    " /proc/sys/user/max_user_namespaces; Error: cannot re-exec process": "max_user_namespaces=15000",
    "cannot clone: Operation not permitted; Error: cannot re-exec process": "userns",
    "path /cvmfs is mounted on / but it is not a shared or slave mount": "make-rshared",
    "netavark: No such file or directory (os error 2)": "apt-get install iptables",
    "netavark: unable to append rule to table: iptables v1.8.9 (legacy): can't initialize table `nat'": "iptable_nat",
    "could not find an available, non-overlapping bridge: network bridge not found: docker0": "restart docker",
    "dial unix /var/run/docker.sock: connect: permission denied": "groups docker",
    "write /var/lib/containers/storage/x: no space left on device": "lm image prune",
    "accept4: too many open files": "LimitNOFILE",
    'database graph driver "vfs" does not match our graph driver "overlay": database configuration mismatch': "reset",
    "kernel does not support overlay fs: 'overlay' is not supported over overlayfs, mount_program is required": "fuse-",
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?": "systemctl",
    "Failed to connect socket to '/var/run/libvirt/libvirt-sock': No such file or directory": "libvirtd",
    "docker does not answer at /run/docker.sock: its daemon does not run, or may not be spoken with": "docker.socket",
    "podman did not answer /info within 30 s (/run/podman/podman.sock)": "journalctl",
}


@pytest.mark.parametrize("words", SEEN, ids=lambda words: words[:40])
def test_what_engines_say_is_recognised_with_its_remedy(words: str) -> None:
    trap = explained(words)
    assert trap is not None
    assert SEEN[words] in trap.remedy, trap


def test_each_trap_is_reached_by_words_that_were_seen_and_has_a_line_to_type() -> None:
    reached = {id(explained(words)) for words in SEEN}
    missed = [trap.meaning for trap in TRAPS if id(trap) not in reached]
    assert missed == ["SELinux has forbidden it"]  # not seen here: no such host
    assert all(trap.remedy for trap in TRAPS)


@pytest.mark.parametrize(
    "words", ["image x is not in podman's store and pull is never", "lacks architecture s390x", ""]
)
def test_what_is_no_trap_is_left_as_it_is(words: str) -> None:
    assert explained(words) is None
