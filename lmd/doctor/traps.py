"""What engines say in obscure words, and what it means: each trap with its remedy. Pure."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trap:
    """`said` is a pattern of the engine's words, `meaning` ours, `remedy` a line to type."""

    said: re.Pattern[str]
    meaning: str
    remedy: str


def _trap(said: str, meaning: str, remedy: str) -> Trap:
    return Trap(re.compile(said, re.IGNORECASE), meaning, remedy)


NOBODY_ANSWERS = _trap(
    r"connection refused|no such file or directory.*\.sock|cannot connect to the docker daemon|"
    r"failed to connect socket|its daemon does not run",
    "nobody answers at the engine's socket",
    "systemctl start docker.socket (or podman.socket, virtqemud.socket, libvirtd)",
)
SERVICES = {
    "docker": "systemctl enable --now docker",
    "kvm": "systemctl enable --now virtqemud.socket (or libvirtd)",
    "podman": "systemctl enable --now podman.socket",
}
"""The line to type for an engine's own service."""

TRAPS = (
    _trap(
        r"cgroups? in hybrid mode not supported",
        "crun refuses control groups in mixed layout while the unified side lists a controller",
        'apt-get install runc; then oci_runtime = "runc" in [runtimes.podman]',
    ),
    _trap(
        r"setrlimit.*RLIMIT_\w+.*not permitted|RLIMIT_\w+.*operation not permitted",
        "the engine asks for more open files or processes than its own hard limit, and may not raise it",
        'set default_ulimits = ["nofile=N:N", "nproc=N:N"] with N from ulimit -Hn in [containers] of containers.conf',
    ),
    _trap(
        r"slirp4netns.*(not found|executable file|no such file)|could not find slirp4netns|pasta.*not found",
        "the user-mode network of rootless machines is not installed",
        "apt-get install slirp4netns (dnf install slirp4netns)",
    ),
    _trap(
        r"/dev/net/tun|failed to (open|create) tun",
        "rootless networks need /dev/net/tun, which cannot be opened",
        "modprobe tun; chmod 666 /dev/net/tun",
    ),
    _trap(
        r"(newuidmap|newgidmap).*(not found|executable file)",
        "newuidmap and newgidmap are not installed",
        "apt-get install uidmap (dnf install shadow-utils)",
    ),
    _trap(
        r"no sub[ug]id ranges found|cannot find mappings for user|cannot set up namespace using|"
        r"there might not be enough ids available|potentially insufficient u?g?ids|write to uid_map failed",
        "this user has no subordinate ids, or too few",
        "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER && podman system migrate",
    ),
    _trap(
        r"could not find enough available ids|no free range of \d+ user ids",
        "the ranges of user ids have no room for another machine",
        "end machines (lm ps), or enlarge the pool: uid_count in [runtimes.podman]",
    ),
    _trap(
        r"(clone|unshare|user namespaces?|userns|reexec)[^;]*(no space left on device)|user namespaces are not enabled|"
        r"cannot clone: no space left",
        "no more namespaces may be made: user.max_user_namespaces is used up or 0",
        "echo user.max_user_namespaces=15000 > /etc/sysctl.d/90-lmd.conf && sysctl --system",
    ),
    _trap(
        r"(cannot clone|unshare|reexec|user namespace)[^;]*(operation not permitted|permission denied)",
        "this user may not make user namespaces",
        "sysctl kernel.unprivileged_userns_clone=1 (Debian) or kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)",
    ),
    _trap(
        r"is (mounted on / but it is )?not a shared( or slave)? mount",
        "what is bound with later mounts has to be a shared mount",
        "mount --bind /cvmfs /cvmfs && mount --make-rshared /cvmfs",
    ),
    _trap(
        r"iptables.*(not found|executable file|no such file|failed|can't initialize)|netavark.*iptables|"
        r"netavark: (no such file|permission denied)|"
        r"table .?nat.? .*(does not exist|not exist)",
        "addresses of machines cannot be translated",
        "apt-get install iptables (dnf install iptables-nft); modprobe iptable_nat",
    ),
    _trap(
        r"(could not find|no such|network bridge not found).*docker0|docker0.*(not found|does not exist)",
        "Docker's bridge is gone; a second dockerd with --bridge=none deletes it",
        "systemctl restart docker",
    ),
    _trap(
        r"avc:|selinux|relabel|lsetxattr.*permission denied",
        "SELinux has forbidden it",
        "dnf install container-selinux; then: ausearch -m avc -ts recent",
    ),
    _trap(
        r"permission denied[^;]*docker\.sock|docker\.sock[^;]*permission denied|dial unix[^;]*permission denied",
        "this user may not talk to the engine",
        "run lm as root, or: sudo usermod --append --groups docker $USER (which gives the user root's power)",
    ),
    _trap(r"no space left on device|disk quota exceeded", "the disk is full", "lm image prune; df -h"),
    _trap(r"too many open files", "the engine has no more file descriptors", "LimitNOFILE= in the engine's unit"),
    _trap(
        r"database is locked|database configuration mismatch|overwriting it with|mismatched database",
        "the engine's own database was made with other settings",
        "podman system reset removes all of this engine's containers and images; or give back the old settings",
    ),
    _trap(
        r"mount_program|fuse-overlayfs|overlay.*(not supported|invalid argument|is not supported over)",
        "the overlay driver does not work on this file system",
        "apt-get install fuse-overlayfs; or keep the store on ext4 or xfs: root in [runtimes.podman]",
    ),
    NOBODY_ANSWERS,
    _trap(
        r"did not answer|does not answer|no answer within|timed out|read timeout",
        "the engine hangs",
        "journalctl -u podman -u docker -u libvirtd; ps -eo pid,stat,wchan,args | grep ' [DT]'",
    ),
)
"""From the narrow to the wide: the first that fits is taken."""


def remedy(trap: Trap, engine: str) -> str:
    """The line to type for this engine."""
    return SERVICES.get(engine, trap.remedy) if trap is NOBODY_ANSWERS else trap.remedy


def explained(text: str) -> Trap | None:
    """The trap whose words an engine has used, if it is a known one."""
    return next((trap for trap in TRAPS if trap.said.search(text)), None)
