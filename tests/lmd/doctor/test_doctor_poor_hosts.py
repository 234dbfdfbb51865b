"""`lm doctor` on hosts that lack something: each is told with the line to type."""

import contextlib
import socket
import threading
from pathlib import Path

IDS = "user-ids"


def one(sentences: list[str], *words: str) -> bool:
    """Whether one of the sentences has all the words."""
    return any(all(word in sentence for word in words) for sentence in sentences)


def test_a_host_that_lacks_nothing_has_no_problem_and_its_machine_ran(root_doctor) -> None:
    told = root_doctor()
    assert told.of("runtimes", "problem") == told.of("runtimes", "warning") == [], told.findings
    assert one(told.of("runtimes", "ok"), "podman", "works: a machine ran and was removed")
    assert told.code in (0, 1)


def test_an_ordinary_user_without_subordinate_ids(user_doctor, poorer) -> None:
    told = user_doctor(through=poorer("mount --bind /dev/null /etc/subuid; mount --bind /dev/null /etc/subgid"))
    assert told.code == 2
    assert one(told.of(IDS), "/etc/subuid has no line for lmd-test", "sudo usermod --add-subuids 100000-165535")
    assert one(told.of("runtimes", "warning"), "a single user id"), told.findings


def test_an_ordinary_user_where_nobody_may_make_user_namespaces(user_doctor, switched) -> None:
    told = user_doctor(through=switched("/proc/sys/user/max_user_namespaces", 0))
    assert told.code == 2
    assert one(told.of("namespaces"), "user.max_user_namespaces = 0", "user.max_user_namespaces=15000"), told.findings
    assert one(told.of("runtimes"), "podman does not work", "max_user_namespaces"), told.findings
    assert one(told.of("runtimes"), "no runtime works on this host")


def test_network_namespaces_that_are_switched_off(user_doctor, switched) -> None:
    told = user_doctor("--quick", through=switched("/proc/sys/user/max_net_namespaces", 0))
    assert one(told.of("namespaces", "warning"), "user.max_net_namespaces = 0", 'network = "host"'), told.findings


def test_an_ordinary_user_whose_host_is_poor_in_many_things(user_doctor, poorer, short_tmp: Path) -> None:
    copy = short_tmp / "newuidmap"
    script = f"""
        cp /usr/bin/newuidmap {copy}; chmod 755 {copy}; mount --bind {copy} /usr/bin/newuidmap
        mount -t tmpfs none /mnt
        mknod -m 600 /mnt/fuse c 10 229; mount --bind /mnt/fuse /dev/fuse
        mknod -m 600 /mnt/tun c 10 200; mount --bind /mnt/tun /dev/net/tun
        mount --bind /dev/null /usr/bin/slirp4netns
        ulimit -n 512
    """
    told = user_doctor("--quick", through=poorer(script))
    assert one(told.of(IDS), "newuidmap has neither the setuid bit nor capabilities", "apt-get install uidmap")
    assert one(told.of("devices", "warning"), "/dev/fuse is root's alone (mode 0600)", "chmod 666 /dev/fuse")
    assert one(told.of("devices", "warning"), "/dev/net/tun cannot be opened", "chmod 666 /dev/net/tun")
    assert one(told.of("network", "warning"), "neither slirp4netns nor pasta", "apt-get install slirp4netns")
    assert one(told.of("limits", "warning"), "only 512 files")


def test_addresses_that_cannot_be_translated(root_doctor, poorer) -> None:
    root_doctor.end_services()
    told = root_doctor(through=poorer("mount -t tmpfs none /etc/alternatives"))
    root_doctor.end_services()
    assert one(told.of("network"), "iptables is not installed", "apt-get install iptables")
    assert one(told.of("runtimes"), "machines run, but not in a network", "apt-get install iptables"), told.findings


def test_a_host_whose_own_network_has_the_addresses_of_metadata(root_doctor) -> None:
    alone = (
        "unshare",
        "--net",
        "sh",
        "-ec",
        'ip link set lo up; ip address add 169.254.7.1/16 dev lo; exec "$@"',
        "sh",
    )
    told = root_doctor("--quick", through=alone)
    assert one(told.of("network", "note"), "is taken by lo (169.254.7.1/16)", "NOZEROCONF"), told.findings


A_ROOT_OF_ITS_OWN = """
mount -t tmpfs none /mnt
for entry in /*; do
    if [ -L "$entry" ]; then cp -P "$entry" /mnt
    elif [ -d "$entry" ] && [ "$entry" != /mnt ]; then mkdir "/mnt$entry"; mount --rbind "$entry" "/mnt$entry"; fi
done
mkdir /mnt/cvmfs; mount -t tmpfs none /mnt/cvmfs
"""


def test_private_mounts_read_only_control_groups_and_a_full_disk(root_doctor, poorer) -> None:
    script = f"""
        {A_ROOT_OF_ITS_OWN}
        for at in $(awk '/ - cgroup/ {{ print $5 }}' /proc/self/mountinfo | grep ^/mnt); do
            mount -o remount,bind,ro $at
        done
        mkdir -p /mnt{root_doctor.home}/cache
        mount -t tmpfs -o size=1M none /mnt{root_doctor.home}/cache
    """
    told = root_doctor("--quick", through=(*poorer(script), "chroot", "/mnt"))
    assert one(told.of("mounts", "warning"), "/cvmfs is not a shared mount", "mount --make-rshared /cvmfs"), (
        told.findings
    )
    assert one(told.of("disk"), "cache", "only 0.0 GB free", "lm image prune")
    assert one(told.of("control-groups"), "control groups are read-only for", "remount,rw"), told.findings


def test_a_shared_cvmfs_is_right(root_doctor, poorer) -> None:
    script = f"{A_ROOT_OF_ITS_OWN}\nmount --make-shared /mnt/cvmfs"
    told = root_doctor("--quick", through=(*poorer(script), "chroot", "/mnt"))
    assert one(told.of("mounts", "ok"), "/cvmfs is passed on to machines"), told.findings


def test_no_engine(root_doctor) -> None:
    told = root_doctor(PATH="/nonexistent")
    assert told.code == 2
    assert one(told.of("runtimes"), "no runtime works on this host", "apt-get install podman")
    assert one(told.of("runtimes", "note"), "podman is not here: podman is not installed", "apt-get install podman")


def test_a_stopped_engine_that_a_machinetype_needs(root_doctor) -> None:
    config = """
        [runtimes.podman]
        socket = "/nowhere/nobody.sock"
        [machinetypes.atlas]
        runtime = "podman"
        root_image = "docker://localhost/x"
    """
    told = root_doctor(config=config)
    assert one(told.of("runtimes"), "podman does not work", "does not answer", "machinetypes atlas need it")


def test_a_configuration_that_cannot_be_used(root_doctor) -> None:
    told = root_doctor("--quick", config='[settings]\nspcae = "x"\n', PATH="/nonexistent")
    assert one(told.of("configuration"), "did you mean space?", "lm config check")


def test_a_daemon_that_gives_no_answer(root_doctor) -> None:
    path = root_doctor.home / "run/lmd.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        threading.Thread(target=_hang_up, args=(listening,), daemon=True).start()
        told = root_doctor("--quick", PATH="/nonexistent")
    path.unlink()
    assert one(told.of("daemon"), f"the daemon at {path} does not answer", "journalctl --unit lmd"), told.findings


def _hang_up(listening: socket.socket) -> None:
    """Close each connection as it comes, until the socket is gone."""
    with contextlib.suppress(OSError):
        while True:
            listening.accept()[0].close()
