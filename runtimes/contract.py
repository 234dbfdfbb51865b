"""The contract between what decides and what runs machines.

A runtime moves machines in and out of existence and reports what it sees. Features, user data, decisions, retries,
accounting and persistence are not its business. The invariants are the tests of `runtimes.conformance`:

1. The id is chosen by the caller and is the machine's name in the engine; owner, space, machinetype and spec digest
   are stamped beside it. What lacks the stamp is never touched.
2. `machines` is complete or raises `Unavailable`: an engine that cannot be reached never looks empty.
3. `create` with the same digest returns the existing machine, with another raises `Conflict`; a refused create leaves
   nothing behind. `stop` and `destroy` are idempotent in every phase. An exited machine stays listed until destroyed.
4. Nothing that a running machine needs lives in the calling process or dies with it.
5. A runtime holds no state that correctness needs: killed at any await, it leaves what `machines` can explain.
6. End reasons come from engine facts; `Capabilities.end_reasons` says which of them an engine can tell.
"""

import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Protocol, runtime_checkable

MACHINE_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A machine's id is one DNS label: it is also the machine's host name and its name in the engine."""


class RuntimeFault(Exception):
    """Base of the four errors of the contract; its text is one line that says what to do."""


class Unavailable(RuntimeFault):
    """The engine did not answer: nothing may be concluded about any machine."""


class Rejected(RuntimeFault):
    """The engine refuses this spec for good; trying again will not help."""


class Exhausted(RuntimeFault):
    """The engine has no room for this spec now; later it may."""


class Conflict(RuntimeFault):
    """The id exists already, with another spec or without our stamp."""


class State(StrEnum):
    """The phase of a machine as its engine shows it."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"


class EndReason(StrEnum):
    """Why a machine is no longer running, from engine facts alone."""

    CLEAN = "clean"  # exit code 0, or a guest that powered itself off
    FAILED = "failed"  # another exit code
    OOM = "oom"  # the engine saw the memory limit kill it
    KILLED = "killed"  # ended by a signal
    CRASHED = "crashed"  # never ran its payload, or the guest's kernel or the hypervisor died
    LOST = "lost"  # ended, and the engine cannot say how


class Network(StrEnum):
    """The network a machine is given."""

    BRIDGE = "bridge"
    HOST = "host"
    NONE = "none"
    LMD = "lmd"  # the factory's own: a fixed address, metadata, no other machine in reach; needs `Spec.nic`


class ImageKind(StrEnum):
    """How an image's location is to be read."""

    REFERENCE = "reference"  # registry.example.org/name:tag, or a name in the engine's store
    OCI_ARCHIVE = "oci-archive"  # one tar file in the OCI image layout
    OCI_LAYOUT = "oci-layout"  # a directory in the OCI image layout
    DOCKER_ARCHIVE = "docker-archive"  # one tar file as `docker save` writes it
    ROOT_DIRECTORY = "root-directory"  # an unpacked root file system, used in place
    DISK_QCOW2 = "disk-qcow2"  # a disk as a qcow2 file; the kind states the format, so that nobody has to guess it
    DISK_RAW = "disk-raw"  # a disk as it is, byte by byte
    BOOT_ISO = "boot-iso"  # a bootable CD, beside an empty disk of `Spec.disk_bytes`
    INITRAMFS = "initramfs"  # the initramfs that `Spec.boot` names is the root (location: the same file)


CONTAINER_IMAGES = frozenset(
    {
        ImageKind.REFERENCE,
        ImageKind.OCI_ARCHIVE,
        ImageKind.OCI_LAYOUT,
        ImageKind.DOCKER_ARCHIVE,
        ImageKind.ROOT_DIRECTORY,
    }
)
"""What container engines can start from."""


class Limit(StrEnum):
    """A resource that a runtime can limit."""

    PROCESSORS = "processors"
    MEMORY = "memory"
    PIDS = "pids"
    OPEN_FILES = "open_files"


class Delivery(StrEnum):
    """How the environment can reach a machine."""

    BIND = "bind"
    HTTP = "http"
    VIRTIOFS = "virtiofs"
    SEED = "seed"


class UserNamespace(StrEnum):
    """Whether a machine must have a range of user ids of its own."""

    REQUIRED = "required"  # a runtime that cannot is refused
    AUTO = "auto"  # where the runtime can


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Where a machine's root file system comes from. `pull` (references only): missing, always or never."""

    kind: ImageKind
    location: str
    pull: str = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A file or directory of the host inside the machine.

    `owned_by_machine`: the machine's root must own it, so the runtime changes its owner to the mapped root before the
    start. `propagate`: file systems that are mounted below `source` later appear in the machine.
    """

    source: Path
    target: PurePosixPath
    read_only: bool = True
    owned_by_machine: bool = False
    propagate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """An empty file system in memory, at most `size_bytes` large."""

    target: PurePosixPath
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a machine may use. `memory_bytes` is hard and includes swap; None leaves the engine's default."""

    processors: float | None = None
    memory_bytes: int | None = None
    pids: int | None = None
    open_files: int | None = None

    def asked(self) -> frozenset[Limit]:
        """The limits that are set."""
        values = {
            Limit.PROCESSORS: self.processors,
            Limit.MEMORY: self.memory_bytes,
            Limit.PIDS: self.pids,
            Limit.OPEN_FILES: self.open_files,
        }
        return frozenset(limit for limit, value in values.items() if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A machine's place in the factory's own network (`Network.LMD`).

    `port` is the name that the host's end of the connection must have, in `bridge`: the rules against spoofing go by
    it. `network` is libvirt's name of the network, "" where libvirt has no part in it. A container runtime makes an
    empty network namespace and puts the interface into it before the payload starts (`runtimes.containers.nic`); a
    hypervisor connects `port` itself. IPv6 is "" on a host without it.
    """

    address: str
    prefix: int
    gateway: str
    address6: str = ""
    prefix6: int = 64
    gateway6: str = ""
    mac: str
    port: str
    bridge: str
    mtu: int = 1500
    network: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """A kernel that the hypervisor starts by itself, in seconds and without a bootloader (virtual machines only).

    With it, a disk image holds one file system and no partitions: the machine's root, as is a root directory.
    An initramfs of `images/micro` finds the machine's description (command, environment, mounts, limits) in the
    virtiofs share `lmd`, makes the machine look as a container does, runs the payload and reports its end; any other
    may do the same, or nothing of it. `command_line` is added to the runtime's own words.
    """

    kernel: Path
    initramfs: Path | None = None
    command_line: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where on its host a virtual machine runs: host processors to be pinned to (empty: any), the NUMA node of its
    memory, and the size in bytes of the huge pages that back it."""

    cpus: tuple[int, ...] = ()
    numa_node: int | None = None
    hugepage_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What `before_start` is given: the machine's namespaces exist, its payload does not run yet."""

    id: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """All that a runtime needs to bring one machine into existence.

    `entrypoint` None keeps the image's own, as do `args` and `working_directory` None. `scratch` lists disk-backed
    directories that go with the machine. `capabilities` are the Linux capabilities the payload keeps (none by default),
    without the CAP_ prefix. `lifetime_seconds` is the engine's own backstop: where the engine can, it ends the machine
    by itself when nobody of ours is left to do it. `required_limits` names the limits that must be enforced; a runtime
    that cannot, rejects.

    For virtual machines: `boot` None starts what is on the image; images of kind ROOT_DIRECTORY and INITRAMFS need it.
    `disk_bytes` is the size of an empty disk that goes with the machine: under a BOOT_ISO the root disk (vda), else a
    second one (vdb); a direct-boot machine keeps there what it writes to its root and to `scratch`. `seed` is a NoCloud
    CD. `uuid` is the machine's in engines that have one. `graphics` asks for VNC on a Unix socket. `placement` None
    leaves it to the host.

    `idle` asks for the lowest weight of processor time that the runtime can give: the machine gets what all others of
    the engine leave.
    """

    id: str
    owner: str  # factory:NAME or run:UID
    space: str
    machinetype: str
    image: Image
    entrypoint: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    scratch: tuple[PurePosixPath, ...] = ()
    limits: Limits = Limits()
    required_limits: frozenset[Limit] = frozenset(Limit)
    network: Network = Network.BRIDGE
    nic: Nic | None = None
    read_only_root: bool = False
    user_namespace: UserNamespace = UserNamespace.AUTO
    nested_containers: bool = False
    capabilities: frozenset[str] = frozenset()
    devices: tuple[str, ...] = ()
    architecture: str | None = None
    user: str | None = None
    console_bytes: int = 1_000_000
    lifetime_seconds: int | None = None
    before_start: Callable[[Started], Awaitable[None]] | None = None
    boot: Boot | None = None
    disk_bytes: int | None = None
    seed: Path | None = None
    uuid: str | None = None
    working_directory: PurePosixPath | None = None
    graphics: bool = False
    placement: Placement | None = None
    idle: bool = False

    def __post_init__(self) -> None:
        if not MACHINE_ID.fullmatch(self.id):
            raise ValueError(f"machine id {self.id!r} is not a DNS label (a-z, 0-9, hyphen; at most 63 characters)")

    def digest(self) -> str:
        """SHA-256 in hex; the stamp by which a repeated create is recognised.

        Over all fields that are not at their default, without `before_start`: a field that a later version adds does
        not turn the machines of before into others.
        """
        values = {
            f.name: v for f in fields(self) if (v := getattr(self, f.name)) != _default(f) and f.name != "before_start"
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=_plain).encode()).hexdigest()


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _plain(value: Any) -> Any:
    """Turn what json does not know into something that sorts and prints the same each time."""
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (Image, Mount, Tmpfs, Limits, Boot, Placement, Nic)):
        return {f.name: getattr(value, f.name) for f in fields(value)}  # json comes back for what is within
    return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a machine ended. `at` in Unix seconds; `exit_code` and `at` None where the engine does not know."""

    reason: EndReason
    exit_code: int | None = None
    at: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One machine as its engine shows it now; times in Unix seconds.

    `first_uid` is the host's user id of the machine's root (0: no user namespace, None: not known). `pid` is the
    machine's first process on this host, while it runs. `limits` are those found in force, not those asked for.
    """

    id: str
    runtime: str
    owner: str
    space: str
    machinetype: str
    digest: str
    state: State
    created: float
    started: float | None = None
    end: End | None = None
    image_digest: str | None = None
    first_uid: int | None = None
    pid: int | None = None
    processors: float | None = None
    memory_bytes: int | None = None
    address: str | None = None
    mac: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a machine has used: CPU seconds and network bytes since its start, memory in bytes now and at its peak."""

    cpu_seconds: float
    memory_bytes: int
    memory_peak_bytes: int | None = None
    disk_bytes: int | None = None
    network_received_bytes: int | None = None
    network_sent_bytes: int | None = None
    oom_kills: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a runtime can do on this host. `absent` says why for whatever is missing, by the name of the field."""

    isolation: str  # container or vm
    images: frozenset[ImageKind] = frozenset()
    delivery: frozenset[Delivery] = frozenset()
    limits: frozenset[Limit] = frozenset()
    networks: frozenset[Network] = frozenset()
    user_namespace: bool = False
    nested_containers: bool = False
    fuse: bool = False  # within nested containers
    read_only_root: bool = False
    scratch: bool = False
    devices: bool = False
    before_start: bool = False
    boot: bool = False
    disks: bool = False  # Spec.disk_bytes and Spec.seed
    graphics: bool = False
    placement: bool = False
    idle: bool = False  # the lowest weight of processor time, for Spec.idle
    usage: bool = True
    architectures: frozenset[str] = frozenset()
    end_reasons: frozenset[EndReason] = frozenset()
    absent: Mapping[str, str] = field(default_factory=dict)


class Health(StrEnum):
    """The answer of a probe."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Whether a runtime works here, why not, and the line to type that would help."""

    health: Health
    reason: str = ""
    remedy: str = ""
    version: str = ""
    capabilities: Capabilities | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a runtime is told when it is made; directories are the caller's, `options` the runtime's own table."""

    state_dir: Path
    run_dir: Path
    cache_dir: Path
    options: Mapping[str, str] = field(default_factory=dict)


class Runtime(Protocol):
    """One way to run logical machines. Every method may raise `Unavailable`; none blocks the event loop."""

    name: ClassVar[str]

    async def probe(self) -> Probe:
        """Find out by doing whether this runtime works here. Never raises for an engine that is not there."""

    async def machines(self) -> Sequence[Seen]:
        """Every machine of ours, alive or ended; complete, or raises `Unavailable`."""

    async def create(self, spec: Spec) -> Seen:
        """Bring the machine into existence and start it; idempotent on the id and digest.

        Raises `Rejected`, `Exhausted` or `Conflict`, and then nothing of it is left behind. After `Unavailable` the
        machine may exist: list before trying again.
        """

    async def stop(self, machine_id: str, *, grace: float) -> None:
        """Ask the machine to end, wait `grace` seconds, then force it. A machine that is not there is success."""

    async def destroy(self, machine_id: str) -> None:
        """Leave nothing: disks, networks, mounts, volumes, cgroups. A machine that is not there is success."""

    async def usage(self) -> Mapping[str, Usage]:
        """What every running machine of ours has used, in bulk, by id."""

    def watch(self) -> AsyncIterator[str]:
        """Yield the ids of machines to look at again; a hint that may lose or repeat, and ends if its source does."""

    async def aclose(self) -> None:
        """Let go of connections and threads; machines go on."""


@runtime_checkable
class Images(Protocol):
    """Optional: images kept by the engine."""

    async def ensure(self, image: Image) -> str:
        """Make the image present; return its digest (`sha256:…`). Raises `Rejected` if there is no such image."""

    async def images(self) -> Mapping[str, int]:
        """Images of ours in the engine's store: reference to size in bytes."""

    async def remove_image(self, reference: str) -> None:
        """Remove one image; absent is success."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleChunk:
    """A piece of console output. `skipped` bytes before it were lost or passed over."""

    data: bytes
    skipped: int = 0


@runtime_checkable
class Logs(Protocol):
    """Optional: what a machine writes to its console."""

    def console(self, machine_id: str, *, follow: bool) -> AsyncIterator[ConsoleChunk]:
        """Yield the console from its kept beginning; with `follow` until the machine has ended."""


@runtime_checkable
class Console(Protocol):
    """Optional: a terminal at a machine's console, for machines that have one beside their log."""

    async def terminal(self, machine_id: str) -> Sequence[str]:
        """The argument list of a host command that joins the caller's terminal to the console of a running machine.

        Raises `Rejected` if the machine does not run.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """What a command inside a machine left; output is cut at the limit that was asked for."""

    exit_code: int
    output: bytes
    errors: bytes


@runtime_checkable
class Exec(Protocol):
    """Optional: commands inside a running machine, in the machine's own environment."""

    async def execute(self, machine_id: str, command: Sequence[str], *, limit: int = 1_000_000) -> ExecResult:
        """Run to its end; raises `Rejected` if the machine does not run or the command cannot be started."""

    async def interactive(self, machine_id: str, command: Sequence[str], *, terminal: bool) -> Sequence[str]:
        """The argument list of a host command that joins the caller's terminal to `command` in the machine."""


@runtime_checkable
class Reclaims(Protocol):
    """Optional: for callers who may not read or remove what a machine's users have written (rootless engines)."""

    async def reclaim(self, path: Path) -> None:
        """Make the caller the owner of all below `path`, which an ended machine has written; links are not followed."""


def unmet(spec: Spec, can: Capabilities) -> list[str]:
    """What `spec` asks and a runtime with these capabilities lacks, a sentence each; empty if it can be tried."""
    asked = [
        ("images", spec.image.kind in can.images, f"image kind {spec.image.kind}"),
        ("networks", spec.network in can.networks, f"network {spec.network}"),
        ("nic", spec.network is not Network.LMD or spec.nic is not None, "a place in the network lmd"),
        ("scratch", can.scratch or not spec.scratch, "scratch directories"),
        ("devices", can.devices or not spec.devices, "devices"),
        ("read_only_root", can.read_only_root or not spec.read_only_root, "a read-only root"),
        ("nested_containers", can.nested_containers or not spec.nested_containers, "nested containers"),
        ("boot", can.boot or spec.boot is None, "a kernel of the caller's choice"),
        ("disks", can.disks or (spec.disk_bytes is None and spec.seed is None), "disks of its own"),
        ("graphics", can.graphics or not spec.graphics, "graphics"),
        ("placement", can.placement or spec.placement is None, "placement on processors and memory"),
        ("before_start", can.before_start or spec.before_start is None, "a step before the payload starts"),
        ("idle", can.idle or not spec.idle, "the lowest weight of processor time, for an idle machine"),
        (
            "user_namespace",
            can.user_namespace or spec.user_namespace is not UserNamespace.REQUIRED,
            "a user namespace of its own",
        ),
        (
            "architectures",
            spec.architecture is None or spec.architecture in can.architectures,
            f"architecture {spec.architecture}",
        ),
    ]
    asked += [
        ("limits", limit in can.limits, f"an enforced limit on {limit}")
        for limit in sorted(spec.required_limits & spec.limits.asked())
    ]
    return [
        what + (f" ({can.absent[name]})" if name in can.absent else "")
        for name, fulfilled, what in asked
        if not fulfilled
    ]
