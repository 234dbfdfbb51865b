"""What single keys of a machinetype may hold, and which of its keys cannot stand together."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lmd.config import virtual
from lmd.config.clashes import Clash, Clashes
from lmd.config.values import line, shorten
from runtimes import registry
from runtimes.contract import ImageKind, Limit

if TYPE_CHECKING:
    from lmd.config.models import MachineType

BUILT = "lmd:"
"""Begins the names of images by recipes of ours; what a name stands for is known when it is built."""
MICRO = "lmd:micro"
"""The kit for machines without a bootloader; as a root_image, its initramfs alone."""
USER_DATA_OPTION = "user_data_option_"
USER_DATA_FILE = "user_data_file_"
USER = r"^([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10})(:([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10}))?$"
OWN_VARIABLES = frozenset({"MACHINEFEATURES", "JOBFEATURES", "JOBOUTPUTS"})
OWN_PREFIX = "LM_"
OWN_PATHS = ("/etc/machinefeatures", "/etc/jobfeatures", "/var/spool/joboutputs", "/user_data")
OWN_KERNEL_ARGUMENTS = frozenset({"init", "rdinit"})
LONGEST_KERNEL_ARGUMENTS = 1500
KERNEL_PATHS = ("/proc", "/sys", "/dev")
_CAPABILITIES = (
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH"
    " FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN"
    " NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT"
    " SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG"
    " WAKE_ALARM"
)
CAPABILITIES = frozenset(_CAPABILITIES.split())
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_MESSAGE = re.compile(r"[1-7][0-9]{2} \S.{0,198}")
_REFERENCE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:/@-]{0,1022}")
_KINDS = {
    "oci-archive:": ImageKind.OCI_ARCHIVE,
    "docker-archive:": ImageKind.DOCKER_ARCHIVE,
    "oci:": ImageKind.OCI_LAYOUT,
}


def nearest(name: object, names: Iterable[str]) -> str:
    """`, did you mean X?` where a known name is close, else nothing."""
    close = difflib.get_close_matches(str(name)[:80], sorted(names), n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def split_image(root_image: str) -> tuple[ImageKind | None, str]:
    """The kind that a root_image names, and its location; None for a plain path, which has to be looked at.

    >>> split_image("docker://example.org/a:1")
    (<ImageKind.REFERENCE: 'reference'>, 'example.org/a:1')
    """
    for prefix, kind in _KINDS.items():
        if root_image.startswith(prefix):
            return kind, root_image.removeprefix(prefix)
    if root_image.startswith(("/", "./", "../")):
        return None, root_image
    return ImageKind.REFERENCE, root_image.removeprefix("docker://")


def root_image(value: str) -> str:
    """A root_image that can be read; else raises ValueError."""
    kind, location = split_image(value)
    if not location:
        raise ValueError(f"expected a path after {shorten(value)}")
    if kind is ImageKind.REFERENCE and not _REFERENCE.fullmatch(location):
        raise ValueError(f"expected an image reference, or a path that begins with / or ./, got {shorten(value)}")
    return value


def user_data(value: str) -> str:
    """A path or an http(s) URL; else raises ValueError."""
    if "://" in value and not re.match(r"https?://[^/\s]+", value):
        raise ValueError(f"expected a path or an http(s) URL, got {shorten(value)}")
    return value


def unix_socket(value: str) -> str:
    """The path of a Unix socket, or its `unix://` URL; else raises ValueError."""
    if not re.fullmatch(r"(unix://)?/.+", value):
        raise ValueError(f"expected /path or unix:///path, got {shorten(value)}")
    return value


def libvirt_uri(value: str) -> str:
    """A URI of libvirt's QEMU driver; else raises ValueError."""
    if not re.fullmatch(r"qemu(\+unix)?://[^/\s]*/(system|session|embed)(\?\S*)?", value):
        raise ValueError(f"expected a URI such as qemu:///system, got {shorten(value)}")
    return value


def file_path(value: str) -> str:
    """A path of the host, which the loader has made absolute."""
    return value


def kernel_arguments(value: str) -> str:
    """Words for the kernel's command line; else raises ValueError. What decides how the machine starts is ours."""
    line(value)
    if len(value) > LONGEST_KERNEL_ARGUMENTS or not value.isascii():
        raise ValueError(f"expected at most {LONGEST_KERNEL_ARGUMENTS} ASCII characters")
    for word in value.split():
        if word.partition("=")[0] in OWN_KERNEL_ARGUMENTS or word.startswith("lmd."):
            raise ValueError(f"{shorten(word)} is set by lmd; leave it out")
    return value


def runtime(value: str) -> str:
    """`auto` or a runtime that is known here; else raises ValueError that lists those."""
    known = ["auto", *sorted(registry.locations())]
    if value not in known:
        raise ValueError(f"no runtime {shorten(value)}, known are {', '.join(known)}{nearest(value, known)}")
    return value


def machine_model(value: Any) -> Any:
    """Passes all but the models of Vac that have another name here, for which it raises ValueError."""
    if value in ("docker", "singularity"):
        raise ValueError(f'expected "container", got {shorten(value)}; which engine runs it is said by runtime')
    return value


def service(value: str) -> str:
    """A service of the host, as `tcp 3128`; else raises ValueError."""
    found = re.fullmatch(r"(?:tcp|udp) ([0-9]{1,5})", value)
    if not found or not 1 <= int(found[1]) <= 65535:
        raise ValueError(f'expected a protocol and a port, as in "tcp 3128", got {shorten(value)}')
    return value


def architecture(value: Any) -> Any:
    """Passes all but the kernel's names of architectures, for which it raises ValueError with the image's name."""
    if isinstance(value, str) and value in _MACHINES:
        raise ValueError(f"expected the name that images use, {_MACHINES[value]}, got {shorten(value)}")
    return value


def variable(name: str) -> str:
    """A name that an environment variable of a machine may have; else raises ValueError."""
    if not _VARIABLE.fullmatch(name):
        raise ValueError("expected the name of a variable: letters, digits and _, no digit first")
    if name in OWN_VARIABLES:
        raise ValueError("every machine is given this variable; it cannot be set")
    if name.startswith(OWN_PREFIX):
        raise ValueError(f"names that begin with {OWN_PREFIX} are given by lmd")
    return name


def free_path(path: str) -> str:
    """A path in a machine that nothing else occupies; else raises ValueError."""
    if any(path == own or path.startswith(own + "/") for own in OWN_PATHS):
        raise ValueError("every machine has something of its own there; choose another path")
    if any(path == own or (path.startswith(own + "/") and not path.startswith("/dev/shm")) for own in KERNEL_PATHS):  # noqa: S108
        raise ValueError("/proc, /sys and /dev are the kernel's; choose another path")
    return path


def device(path: str) -> str:
    """A device file's path; else raises ValueError."""
    line(path)
    if not path.startswith("/dev/") or any(part in ("", ".", "..") for part in path[1:].split("/")):
        raise ValueError(f"expected a path below /dev, got {shorten(path)}")
    return path


def capability(value: Any) -> str:
    """A Linux capability's name in capitals without CAP_; else raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"expected the name of a Linux capability, got {shorten(value)}")
    name = value.upper().removeprefix("CAP_")
    if name not in CAPABILITIES:
        raise ValueError(f"no Linux capability {shorten(value)}{nearest(name, CAPABILITIES)}")
    return name


def file_name(value: str) -> str:
    """The name of a file in $JOBOUTPUTS; else raises ValueError."""
    line(value)
    if value in ("", ".", "..") or "/" in value or len(value.encode()) > 255:
        raise ValueError(f"expected the name of a file in $JOBOUTPUTS, without a slash, got {shorten(value)}")
    return value


def require_limits(value: Any) -> Any:
    """All limits for true, none for false; anything else is passed on."""
    if isinstance(value, bool):
        return frozenset(Limit) if value else frozenset()
    return value


def exit_codes(value: Any) -> Any:
    """A table with its keys as numbers. Raises ValueError for a key that is no exit code."""
    if not isinstance(value, Mapping):
        return value
    wrong = [key for key in value if not re.fullmatch(r"0|[1-9][0-9]{0,2}", str(key)) or int(key) > 255]
    if wrong:
        raise ValueError(f"expected exit codes 0 to 255 as keys, got {', '.join(map(shorten, wrong[:5]))}")
    return {int(key): text for key, text in value.items()}


def shutdown_message(value: str) -> str:
    """`NNN text` in one line (vacuum platform, shutdown_message); else raises ValueError."""
    line(value)
    if not _MESSAGE.fullmatch(value):
        raise ValueError(f'expected "NNN text" with a code of 100 to 799, as in "300 no work", got {shorten(value)}')
    return value


def together(clashes: Iterable[Clash]) -> None:
    """Raises `Clashes` if there is any."""
    if found := list(clashes):
        raise Clashes(found)


REPOSITORY = r"^(\*|[A-Za-z0-9][A-Za-z0-9_-]{0,62}(\.[A-Za-z0-9][A-Za-z0-9_-]{0,62}){1,7})$"
"""A CernVM-FS repository's full name, or `*` for all."""


def combination(machinetype: "MachineType") -> Iterator[Clash]:
    """The keys of a machinetype that cannot stand together."""
    yield from _lives(machinetype)
    yield from virtual.connection(machinetype)
    yield from _commands(machinetype)
    yield from _places(machinetype)
    yield from _repositories(machinetype)
    kind, _ = split_image(machinetype.root_image)
    yield from virtual.combination(machinetype, kind is not None and not machinetype.root_image.startswith(BUILT))
    yield from patterns(machinetype.user_data_options, machinetype.user_data_files)


def _repositories(mt: "MachineType") -> Iterator[Clash]:
    if mt.cvmfs_where == "machine" and "*" in mt.cvmfs_repositories:
        yield (
            ("cvmfs_repositories", "cvmfs"),
            '"*" is what the host has mounted: name them, or use cvmfs.where = "factory"',
        )
    if mt.cvmfs_where == "machine" and mt.isolation == "vm":
        yield ("cvmfs", "isolation"), 'where = "machine" is for containers: a virtual machine gets the host\'s mount'


def patterns(options: Iterable[str], files: Iterable[str]) -> Iterator[Clash]:
    """The patterns of user_data that have both a value and a file."""
    for name in sorted(set(options) & set(files)):
        keys = (f"{USER_DATA_FILE}{name}", f"{USER_DATA_OPTION}{name}")
        yield keys, f"fills the same pattern as {keys[1]}; keep one of them"


def _lives(mt: "MachineType") -> Iterator[Clash]:
    if mt.max_processors < mt.min_processors:
        yield (
            ("max_processors", "min_processors"),
            f"is {mt.max_processors}, less than min_processors ({mt.min_processors})",
        )
    if mt.min_wallclock_seconds > mt.max_wallclock_seconds:
        yield (
            ("min_wallclock_seconds", "max_wallclock_seconds"),
            f"is {mt.min_wallclock_seconds}, more than max_wallclock_seconds ({mt.max_wallclock_seconds})",
        )
    if mt.heartbeat_seconds and mt.heartbeat_file is None:
        yield ("heartbeat_seconds", "heartbeat_file"), "needs heartbeat_file, the name of the file to watch"
    if mt.heartbeat_file == "shutdown_message":
        yield ("heartbeat_file",), "shutdown_message is the file in which a machine says how it ended; name another"


def _commands(mt: "MachineType") -> Iterator[Clash]:
    kind, _ = split_image(mt.root_image)
    if mt.pull != "missing" and kind is not ImageKind.REFERENCE:
        yield ("pull", "root_image"), f'"{mt.pull}" is for image references, and root_image is a file or directory'
    if mt.runs_user_data and mt.user is not None and mt.user.split(":")[0] not in ("root", "0"):
        yield (
            ("user", "user_data", "entrypoint"),
            "only root can run /user_data, which may hold secrets; leave user out and change the user in the script,"
            " or give an entrypoint",
        )
    if mt.user_data is None:
        for prefix, names in ((USER_DATA_OPTION, mt.user_data_options), (USER_DATA_FILE, mt.user_data_files)):
            for name in names:
                yield (f"{prefix}{name}", "user_data"), "is given, but there is no user_data to put it into"
    if mt.entrypoint is not None and not mt.entrypoint[0]:
        yield ("entrypoint",), "the first element names the command and cannot be empty"


def _places(mt: "MachineType") -> Iterator[Clash]:
    seen: dict[str, str] = {}
    for key, paths in (("tmpfs", mt.tmpfs), ("tmp_binds", mt.tmp_binds), ("secret_files", mt.secret_files)):
        for path in paths:
            if path in seen:
                yield (key, seen[path]), f"{shorten(path)} is already taken by {seen[path]}"
            seen.setdefault(path, key)
