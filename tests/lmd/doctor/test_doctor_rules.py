"""The rules of the doctor's checks: from facts to findings, on hosts that this one is not."""

from pathlib import Path

import pytest

from lmd.config.problems import Problem
from lmd.doctor.checks import (
    clock,
    configuration,
    containers_conf,
    daemon,
    devices,
    disk,
    groups,
    host,
    ids,
    limits,
    memory,
    mounts,
    network,
)
from lmd.doctor.checks import namespaces as spaces
from lmd.doctor.finding import Finding, Level, Report
from lmd.doctor.runtimes import Found, Runtimes
from lmd.doctor.runtimes import rule as runtimes_rule
from lmd.doctor.trial import Tried
from runtimes.cgroups import Layout
from runtimes.contract import Capabilities, Health, Probe
from runtimes.idranges import MACHINE_IDS, IdRange

POOL = IdRange(2_000_000_000, 4 * MACHINE_IDS)
ALL = dict.fromkeys(("cpu", "memory", "pids"), True)


def worst(findings) -> Finding:
    return max(findings, key=lambda found: found.level)


def said(findings, level: Level) -> list[str]:
    return [found.sentence for found in findings if found.level is level]


def an_ids(**changes: object) -> ids.Ids:
    return ids.Ids(**({"rootless": False, "user": "x", "pools": {"podman": POOL}, "helpers": {}} | changes))


@pytest.mark.parametrize(
    ("promised", "level", "words"),
    [
        ([], Level.OK, "4 machines at a time"),
        ([IdRange(100_000, MACHINE_IDS)], Level.OK, "4 machines at a time"),
        ([IdRange(POOL.first + 1, 1)], Level.WARNING, "3 machines fit"),
        ([POOL], Level.PROBLEM, "no machine fits"),
    ],
)
def test_root_s_pool_has_room_for_what_nobody_else_was_promised(promised, level, words) -> None:
    found = worst(ids.rule(an_ids(promised=promised)))
    assert (found.level, words in found.sentence) == (level, True)
    assert level is Level.OK or "first_uid" in found.remedy


def test_a_pool_that_is_none_is_told_with_the_option_to_set() -> None:
    found = worst(ids.rule(an_ids(pools={"podman": "user id pool 0+1: needs first >= 65536"})))
    assert (found.level, "first_uid" in found.remedy) == (Level.PROBLEM, True)


def test_the_line_that_gives_an_ordinary_user_ids_takes_none_that_another_has() -> None:
    taken = [IdRange(100_000, 65_536), IdRange(165_536, 65_536)]
    found = list(ids.rule(an_ids(rootless=True, user="ada", promised=taken)))
    assert [one.level for one in found] == [Level.PROBLEM, Level.PROBLEM]
    assert found[0].remedy.startswith("sudo usermod --add-subuids 231072-296607 --add-subgids 231072-296607 ada")


def test_an_ordinary_user_with_ids_and_helpers_needs_nothing() -> None:
    own = [IdRange(100_000, MACHINE_IDS)]
    assert worst(ids.rule(an_ids(rootless=True, own=own, own_groups=own, promised=own))).level is Level.OK


def test_too_few_ids_and_a_helper_without_its_bit_are_told() -> None:
    own = [IdRange(100_000, 1000)]
    facts = an_ids(rootless=True, own=own, own_groups=own, helpers={"newuidmap": "has neither"})
    found = list(ids.rule(facts))
    assert [one.level for one in found] == [Level.PROBLEM, Level.WARNING, Level.WARNING]
    assert "uidmap" in found[0].remedy


def a_groups(**changes: object) -> groups.Groups:
    facts = {
        "rootless": False,
        "layout": Layout.V2,
        "unified": frozenset(ALL),
        "writable": ALL,
        "oci_runtimes": frozenset({"crun", "runc"}),
    }
    return groups.Groups(**(facts | changes))


@pytest.mark.parametrize(
    ("changes", "level", "sentence", "remedy"),
    [
        ({}, Level.OK, "v2", ""),
        ({"layout": Layout.V1, "unified": frozenset()}, Level.OK, "v1", ""),
        ({"layout": Layout.NONE}, Level.PROBLEM, "no control groups", "mount -t cgroup2"),
        (
            {"layout": Layout.HYBRID, "unified": frozenset({"hugetlb"})},
            Level.NOTE,
            "runc is used",
            "-o hugetlb hugetlb",
        ),
        (
            {"layout": Layout.HYBRID, "unified": frozenset({"hugetlb"}), "oci_runtimes": frozenset({"crun"})},
            Level.PROBLEM,
            "crun refuses",
            "apt-get install runc",
        ),
        ({"rootless": True, "layout": Layout.V1}, Level.WARNING, "version 1", "unified_cgroup_hierarchy"),
        ({"rootless": True, "writable": {"pids": True}}, Level.WARNING, "cpu, memory", "Delegate=cpu memory pids"),
        ({"writable": {"cpu": True, "pids": True}}, Level.PROBLEM, "memory", "cgroup_disable"),
        ({"writable": ALL | {"pids": False}}, Level.PROBLEM, "read-only for pids", "remount,rw"),
    ],
)
def test_control_groups(changes, level, sentence, remedy) -> None:
    found = worst(groups.rule(a_groups(**changes)))
    assert (found.level, sentence in found.sentence, remedy in found.remedy) == (level, True, True), found


def a_limits(**changes: object) -> limits.Limits:
    facts = {
        "files": 1_048_576,
        "processes": None,
        "may_raise": False,
        "pid_max": 4_194_304,
        "processors": 8,
        "open_files": {},
        "zombies": 0,
    }
    return limits.Limits(**(facts | changes))


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, Level.OK, "open files 1048576"),
        ({"files": None}, Level.OK, "open files unlimited"),
        ({"files": 20_000}, Level.NOTE, "RLIMIT_NOFILE: Operation not permitted"),
        ({"files": 20_000, "may_raise": True}, Level.OK, "open files 20000"),
        ({"files": 1024, "may_raise": True}, Level.WARNING, "only 1024 files"),
        ({"files": 20_000, "open_files": {"atlas": 65_536}}, Level.WARNING, "machinetype atlas asks for 65536"),
        ({"processes": 1000}, Level.WARNING, "1000 processes"),
        ({"pid_max": 32_767}, Level.NOTE, "room for 7 machines"),
        ({"zombies": 500}, Level.WARNING, "reaped by pid 1"),
    ],
)
def test_limits(changes, level, words) -> None:
    found = worst(limits.rule(a_limits(**changes)))
    assert (found.level, words in found.sentence) == (level, True), found


def test_the_capability_to_raise_limits_is_read_from_the_status() -> None:
    assert limits.may_raise("Name:\tx\nCapEff:\t000001ffffffffff\n")
    assert not limits.may_raise("Name:\tx\nCapEff:\t000001fffeffffff\n")
    assert not limits.may_raise("")


def a_spaces(refused: str = "", apparmor: int | None = None, clone: int | None = None, *, rootless=True, **most: int):
    return spaces.Namespaces(
        rootless=rootless,
        most=dict.fromkeys(spaces.KINDS, 96_365) | most,
        apparmor=apparmor,
        clone=clone,
        refused=refused,
    )


@pytest.mark.parametrize(
    ("facts", "level", "sentence", "remedy"),
    [
        (a_spaces(), Level.OK, "can be made", ""),
        (a_spaces("No space left on device", user=0), Level.PROBLEM, "user.max_user_namespaces = 0", "=15000"),
        (a_spaces(net=0), Level.WARNING, 'only types with network = "host"', "user.max_net_namespaces=15000"),
        (a_spaces(pid=0), Level.PROBLEM, "no machine can start", "user.max_pid_namespaces=15000"),
        (a_spaces(mnt=10), Level.WARNING, "few machines fit", "user.max_mnt_namespaces=15000"),
        (
            a_spaces("Permission denied", apparmor=1),
            Level.PROBLEM,
            "apparmor",
            "apparmor_restrict_unprivileged_userns=0",
        ),
        (a_spaces("Operation not permitted", clone=0), Level.PROBLEM, "userns_clone", "userns_clone=1"),
        (a_spaces(apparmor=1, rootless=False), Level.WARNING, "containers of their own", "userns=0"),
        (a_spaces("Operation not permitted"), Level.PROBLEM, "Operation not permitted", "sysctl"),
    ],
)
def test_namespaces(facts, level, sentence, remedy) -> None:
    found = worst(spaces.rule(facts))
    assert (found.level, sentence in found.sentence, remedy in found.remedy) == (level, True, True), found


def test_a_security_module_that_enforces_is_named_with_what_it_takes() -> None:
    found = worst(spaces.rule_security(spaces.Security("enforcing", False)))
    assert (found.level, "container-selinux" in found.remedy) == (Level.NOTE, True)
    assert worst(spaces.rule_security(spaces.Security("permissive", True))).level is Level.OK


ROOT_PRIVATE = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw"
ROOT_SHARED = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
AUTOFS = "90 27 0:50 / /cvmfs rw,relatime shared:40 - autofs /etc/auto.cvmfs rw,fd=6"
CVMFS_PRIVATE = "90 27 0:50 / /cvmfs rw,relatime - autofs /etc/auto.cvmfs rw,fd=6"
REPOSITORY = "91 90 0:51 / /cvmfs/atlas.cern.ch ro,nosuid,nodev,relatime shared:41 - fuse cvmfs2 ro,user_id=998"
REPOSITORY_PRIVATE = "91 27 0:51 / /cvmfs/atlas.cern.ch ro,nosuid,nodev,relatime - fuse cvmfs2 ro,user_id=998"


@pytest.mark.parametrize(
    ("rows", "directory", "level", "sentence", "remedy"),
    [
        ([ROOT_SHARED], False, Level.NOTE, "no /cvmfs", ""),
        ([ROOT_SHARED, AUTOFS, REPOSITORY], True, Level.OK, "by autofs; 1 repositories", ""),
        ([ROOT_PRIVATE, CVMFS_PRIVATE], True, Level.WARNING, "not a shared mount", "mount --make-rshared /cvmfs"),
        (
            [ROOT_PRIVATE, REPOSITORY_PRIVATE],
            True,
            Level.WARNING,
            "not a shared",
            "mount --bind /cvmfs /cvmfs && mount --",
        ),
        ([ROOT_PRIVATE], True, Level.NOTE, "empty directory", "mount --bind /cvmfs"),
        ([ROOT_SHARED, REPOSITORY], True, Level.OK, "passed on", ""),
    ],
)
def test_whether_later_mounts_below_cvmfs_reach_machines(rows, directory, level, sentence, remedy) -> None:
    found = worst(mounts.rule(mounts.Mounts(mounts.parsed("\n".join(rows)), directory)))
    assert (found.level, sentence in found.sentence, found.remedy.startswith(remedy)) == (level, True, True), found


def a_device(path: str, mode: int | None = 0o666, refused: str = "", group: str = "kvm") -> devices.Device:
    return devices.Device(path, mode, refused, group)


@pytest.mark.parametrize(
    ("fuse", "kvm", "tun", "level", "words"),
    [
        ((), (), (), Level.OK, "can be opened"),
        ((0o600,), (), (), Level.WARNING, "/dev/fuse is root's alone (mode 0600)"),
        ((None,), (), (), Level.WARNING, "no /dev/fuse"),
        ((), (None,), (), Level.NOTE, "no /dev/kvm"),
        ((), (0o660, "Permission denied"), (), Level.NOTE, "Permission denied"),
        ((), (0o660,), (), Level.OK, "can be opened"),
        ((), (0o600,), (), Level.NOTE, "not for the group kvm (mode 0600"),
        ((), (0o660, "", "root"), (), Level.NOTE, "group root"),
        ((), (), (0o600, "Permission denied"), Level.WARNING, 'only network = "none" or "host"'),
        ((), (), (None,), Level.WARNING, "no /dev/net/tun"),
    ],
)
def test_devices(fuse, kvm, tun, level, words) -> None:
    facts = devices.Devices(
        rootless=True,
        user="ada",
        fuse=a_device("/dev/fuse", *fuse),
        kvm=a_device("/dev/kvm", *kvm),
        tun=a_device("/dev/net/tun", *tun),
    )
    found = worst(devices.rule(facts))
    assert (found.level, words in found.sentence) == (level, True), found
    assert level is Level.OK or found.remedy


def a_network(**changes: object) -> network.Network:
    facts = {"rootless": False, "in_the_way": "", "nat": "", "nft": True, "user_mode": ["slirp4netns"]}
    return network.Network(**(facts | changes))


@pytest.mark.parametrize(
    ("changes", "level", "sentence", "remedy"),
    [
        ({}, Level.OK, "can be translated", ""),
        ({"nat": None}, Level.PROBLEM, "iptables is not installed", "apt-get install iptables"),
        ({"nat": "can't initialize iptables table `nat'"}, Level.PROBLEM, "can't initialize", "modprobe"),
        ({"in_the_way": "avahi0 (169.254.7.2/16)"}, Level.NOTE, "taken by avahi0", "NOZEROCONF"),
        ({"in_the_way": "avahi0", "wanted": ["vm"]}, Level.PROBLEM, "machinetypes vm need it", "NOZEROCONF"),
        ({"nft": False}, Level.NOTE, "nft is not installed", "apt-get install nftables"),
        ({"nft": False, "wanted": ["vm"]}, Level.PROBLEM, "machinetypes vm need it", "apt-get install nftables"),
        ({"rootless": True, "user_mode": []}, Level.WARNING, "neither slirp4netns nor pasta", "slirp4netns"),
        ({"rootless": True, "nat": None, "nft": False}, Level.OK, "slirp4netns", ""),
    ],
)
def test_network(changes, level, sentence, remedy) -> None:
    found = worst(network.rule(a_network(**changes)))
    assert (found.level, sentence in found.sentence, remedy in found.remedy) == (level, True, True), found


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, Level.OK, "50.0 GB free"),
        ({"free": 100}, Level.PROBLEM, "only 0.0 GB"),
        ({"free": 5 * 10**9}, Level.WARNING, "5.0 GB"),
        ({"inodes": 10}, Level.PROBLEM, "only 10 files"),
        ({"inodes": None}, Level.OK, "free"),
        ({"read_only": True}, Level.PROBLEM, "read-only"),
        ({"no_exec": True}, Level.PROBLEM, "noexec"),
        ({"error": "belongs to user 7"}, Level.PROBLEM, "belongs to user 7"),
    ],
)
def test_disk(changes, level, words) -> None:
    facts = {"what": "state", "path": Path("/var/lib/lmd"), "free": 50 * 10**9, "inodes": 10**6}
    found = worst(disk.rule([disk.Room(**(facts | changes))]))
    assert (found.level, words in found.sentence) == (level, True), found


@pytest.mark.parametrize(
    ("total", "available", "level"), [(64, 60, Level.OK), (64, 1, Level.WARNING), (8, 7, Level.NOTE)]
)
def test_memory_is_held_against_what_machines_get(total, available, level) -> None:
    facts = memory.Memory(total=total * 2**30, available=available * 2**30, processors=8, mb_per_processor=2048)
    assert worst(memory.rule(facts)).level is level


def test_meminfo_is_read_in_bytes() -> None:
    assert memory.parsed("MemTotal:  2 kB\nMemAvailable: 1 kB\nHugePages_Total: 0\n") == {
        "MemTotal": 2048,
        "MemAvailable": 1024,
    }


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, Level.OK, "is synchronised"),
        ({"synchronised": None}, Level.NOTE, "cannot be told"),
        ({"synchronised": False}, Level.WARNING, "nothing synchronises"),
        ({"error_microseconds": 16_000_000}, Level.WARNING, "wrong by 16.0 s"),
        ({"now": 0.0}, Level.PROBLEM, "before lmd was installed"),
        ({"now": 5e9}, Level.PROBLEM, "beyond 2100"),
    ],
)
def test_clock(changes, level, words) -> None:
    facts = {"now": 1.8e9, "installed": 1.7e9, "synchronised": True, "error_microseconds": 1000}
    found = worst(clock.rule(clock.Clock(**(facts | changes))))
    assert (found.level, words in found.sentence) == (level, True), found


def test_the_configuration_s_problems_are_told() -> None:
    wrong = Problem("f.toml", ("machinetypes", "a"), "is wrong")
    assert worst(configuration.rule(configuration.Configuration([wrong], [], 0))).level is Level.PROBLEM
    assert worst(configuration.rule(configuration.Configuration([], [wrong], 2))).level is Level.WARNING
    assert worst(configuration.rule(configuration.Configuration([], [], 2))).level is Level.OK
    assert worst(configuration.rule(configuration.Configuration([], [], 0))).level is Level.NOTE


def test_the_host_is_told_with_the_versions_of_engines_helpers() -> None:
    facts = host.Host(
        system="Debian",
        kernel="6.1",
        machine="x86_64",
        lmd="1",
        python="3.11",
        container="",
        helpers={"crun": "crun 1.8"},
    )
    assert said(host.rule(facts), Level.OK) == ["Debian, kernel 6.1, x86_64; lmd 1, Python 3.11", "crun 1.8"]


CAN = Capabilities(isolation="container", nested_containers=True, absent={"limits": "version 1"})


def found(name: str = "podman", health: Health = Health.HEALTHY, reason: str = "", **changes: object) -> Found:
    healthy = health is Health.HEALTHY
    probe = Probe(health=health, reason=reason, remedy="apt-get install it", capabilities=CAN if healthy else None)
    return Found(**({"name": name, "probe": probe} | changes))


RAN = Tried(seconds=0.2, ids=65_536, nested=True)


@pytest.mark.parametrize(
    ("facts", "level", "sentence", "remedy"),
    [
        ([found(tried=RAN)], Level.NOTE, "podman lacks limits: version 1", ""),
        ([found(tried=Tried(ids=1, nested=True))], Level.WARNING, "single user id", "podman system migrate"),
        ([found(tried=Tried(ids=65_536))], Level.WARNING, "nested_containers does not work", ""),
        (
            [found(tried=RAN), found("docker", Health.UNHEALTHY, "no answer within 20 s", hung=True)],
            Level.WARNING,
            "docker does not work: no answer within 20 s (that is: the engine hangs)",
            "journalctl",
        ),
        (
            [found(tried=RAN), found("kvm", Health.UNHEALTHY, "Failed to connect socket to '/x': No such file")],
            Level.NOTE,
            "nobody answers at the engine's socket",
            "systemctl enable --now virtqemud.socket",
        ),
        (
            [found(tried=RAN), found("docker", Health.UNHEALTHY, "connection refused", configured=True)],
            Level.PROBLEM,
            "nobody answers at the engine's socket",
            "systemctl enable --now docker",
        ),
        ([found(reason="machines are emulated", wanted=("vm",))], Level.WARNING, "machines are emulated", "apt-get"),
        ([found(reason="machines are emulated")], Level.NOTE, "machines are emulated", "apt-get"),
        (
            [found(tried=RAN), found("docker", Health.MISSING, "x")],
            Level.NOTE,
            "docker is not here",
            "apt-get install it",
        ),
        (
            [found(tried=RAN), found("docker", Health.MISSING, "x", wanted=("atlas",))],
            Level.PROBLEM,
            "machinetypes atlas need it",
            "apt-get install it",
        ),
        (
            [found(health=Health.MISSING)],
            Level.PROBLEM,
            "no runtime works on this host: podman",
            "apt-get install podman",
        ),
        ([], Level.PROBLEM, "none is known", "apt-get install podman"),
        (
            [found(tried=Tried(failed="crun: cgroups in hybrid mode not supported", without_network="the same"))],
            Level.PROBLEM,
            "mixed layout",
            "apt-get install runc",
        ),
        (
            [found(tried=Tried(failed="netavark: iptables: not found", without_network=""))],
            Level.PROBLEM,
            "machines run, but not in a network",
            "apt-get install iptables",
        ),
    ],
)
def test_runtimes(facts, level, sentence, remedy) -> None:
    findings = list(runtimes_rule(Runtimes(facts)))
    matching = [one for one in findings if one.level is level and sentence in one.sentence and remedy in one.remedy]
    assert matching, findings
    assert worst(findings).level is level


@pytest.mark.parametrize(("level", "code"), [(Level.OK, 0), (Level.NOTE, 0), (Level.WARNING, 1), (Level.PROBLEM, 2)])
def test_the_worst_finding_makes_the_exit_code(level: Level, code: int) -> None:
    assert Report([Finding(Level.OK, "a"), Finding(level, "b")]).exit_code == code


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (daemon.Daemon(False), Level.NOTE, "no daemon runs"),
        (daemon.Daemon(True), Level.OK, "the daemon answers"),
        (daemon.Daemon(True, "the daemon at /x does not answer"), Level.PROBLEM, "does not answer"),
        (daemon.Daemon(True, warnings=["docker does not answer"]), Level.WARNING, "warns: docker does not answer"),
    ],
)
def test_the_daemon(facts, level, words) -> None:
    found = worst(daemon.rule(facts))
    assert (found.level, words in found.sentence) == (level, True), found


CONF = Path("/etc/containers/containers.conf")


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (containers_conf.Conf(path=CONF, engine={"exit_command_delay": 1}), Level.OK, "is read by Podman"),
        (containers_conf.Conf(path=CONF), Level.NOTE, "sets no exit_command_delay"),
        (containers_conf.Conf(path=CONF, wrong="line 3"), Level.WARNING, "cannot be read"),
        (
            containers_conf.Conf(path=CONF, engine={"cgroup_manager": "systemd"}, systemd=False),
            Level.WARNING,
            "systemd does not run here",
        ),
    ],
)
def test_containers_conf(facts, level, words) -> None:
    found = worst(containers_conf.rule(facts))
    assert (found.level, words in found.sentence) == (level, True), found


def test_no_containers_conf_is_nothing_to_say() -> None:
    assert list(containers_conf.rule(containers_conf.Conf())) == []
