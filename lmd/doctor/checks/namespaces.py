"""Whether namespaces can be made: by making one, and by the limits of the kernel that say how many."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, note, ok, problem, warning
from lmd.doctor.looking import complaint, number, text

KINDS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
ENOUGH = 256
APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"
CLONE = "kernel.unprivileged_userns_clone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespaces:
    """`most` of each kind (user.max_*_namespaces); `apparmor` and `clone` are the values of the two switches, None
    where this kernel has none; `refused` is what making a user namespace said, empty if it works."""

    rootless: bool
    most: Mapping[str, int | None]
    apparmor: int | None
    clone: int | None
    refused: str


def gather(asked: Asked) -> Namespaces:
    """A user namespace with a mount namespace in it is made, and gone again with its process."""
    return Namespaces(
        rootless=asked.rootless,
        most={kind: number(f"/proc/sys/user/max_{kind}_namespaces") for kind in KINDS},
        apparmor=number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        clone=number("/proc/sys/kernel/unprivileged_userns_clone"),
        refused=complaint(["unshare", "--user", "--map-root-user", "--mount", "true"]) or "",
    )


def rule(spaces: Namespaces) -> Iterator[Finding]:
    """What is switched off, and the switch."""
    for kind, most in spaces.most.items():
        if most is not None and most < ENOUGH:
            yield _few(kind, most)
    switches = [(APPARMOR, spaces.apparmor, 1, 0), (CLONE, spaces.clone, 0, 1)]
    off = [(name, better) for name, value, bad, better in switches if value == bad]
    for name, better in off:
        what = "ordinary users" if spaces.rootless else "payloads that start containers of their own"
        report = problem if spaces.rootless and spaces.refused else warning
        yield report(f"{name} keeps {what} from making user namespaces", _sysctl(name, better))
    if spaces.refused and not off and spaces.most.get("user") != 0:
        yield problem(
            f"no user namespace can be made: {spaces.refused}", "sysctl -a | grep -e userns -e max_user_namespaces"
        )
    elif not spaces.refused:
        yield ok("a user namespace with a mount namespace in it can be made")


def _few(kind: str, most: int) -> Finding:
    name = f"user.max_{kind}_namespaces"
    raise_it = _sysctl(name, 15_000)
    if most:
        return warning(f"{name} = {most}: few machines fit", raise_it)
    if kind == "net":
        return warning('user.max_net_namespaces = 0: only types with network = "host" can run', raise_it)
    what = (
        "machines cannot have user ids of their own, nor containers in them"
        if kind == "user"
        else "no machine can start"
    )
    return problem(f"{name} = 0: {what}", raise_it)


def _sysctl(name: str, value: int) -> str:
    return f"echo {name}={value} > /etc/sysctl.d/90-lmd.conf && sysctl --system"


@dataclass(frozen=True, slots=True)
class Security:
    """SELinux: `enforcing`, `permissive` or empty for none. AppArmor: on or not."""

    selinux: str
    apparmor: bool


def gather_security(asked: Asked) -> Security:
    """What the kernel says of its two security modules."""
    enforce = text("/sys/fs/selinux/enforce")
    return Security(
        selinux={"1": "enforcing", "0": "permissive"}.get(enforce or "", ""),
        apparmor=text("/sys/module/apparmor/parameters/enabled") == "Y",
    )


def rule_security(security: Security) -> Iterator[Finding]:
    """SELinux that enforces is right; it has to know containers."""
    if security.selinux == "enforcing":
        yield note(
            "SELinux is enforcing: machines reach their directories only with the policy for containers",
            "dnf install container-selinux; after a denial: ausearch -m avc -ts recent",
        )
    elif security.selinux:
        yield ok(f"SELinux is {security.selinux}")
    yield ok(f"AppArmor is {'on' if security.apparmor else 'off'}")


NAMESPACES = Check("namespaces", gather, rule)
SECURITY = Check("security", gather_security, rule_security)
