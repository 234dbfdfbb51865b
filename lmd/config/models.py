"""The configuration's tables as checked, frozen models. Option names are Vac's where Vac has one.

Values that a model holds are normal: sizes are numbers, capabilities have no CAP_ prefix, paths of the host are
absolute (the loader resolves them against the directory of the file that set them).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator

from lmd.config import rules, virtual
from lmd.config.problems import Problem
from lmd.config.values import (
    GB,
    Budget,
    Bytes,
    Count,
    Days,
    DnsLabel,
    DnsName,
    HostPath,
    InsidePath,
    Line,
    MiB,
    Moment,
    Notice,
    OptionName,
    Processors,
    Rating,
    Seconds,
    Share,
    Text,
)
from runtimes.contract import Limit, Network, UserNamespace

Capability = Annotated[str, BeforeValidator(rules.capability)]
Device = Annotated[str, AfterValidator(rules.device)]
ExitCode = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,2})$")]
UserDataOptions = Mapping[OptionName, Text]
UserDataFiles = Mapping[OptionName, Line]


class Table(BaseModel):
    """A table of the configuration: frozen, and no key but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Settings(Table):
    """`[settings]`: what holds for this host, and the defaults of all machinetypes."""

    space: DnsName = Field("lm-run", description="Name of the space that the machines belong to, a DNS name.")
    mb_per_processor: MiB = Field(
        2048, description="Memory for each processor of a machine; a hard limit that includes swap."
    )
    disk_gb_per_processor: GB | None = Field(
        None, description="Disk of a virtual machine for each processor; what for is said at the key of machinetypes."
    )
    hs06_per_processor: Rating | None = Field(
        None,
        description="HS06 (or HEPscore23) rating of one processor of this host. Without it the keys hs06 and hs06_job"
        " are left out of the features.",
    )
    processors_per_superslot: Processors = Field(
        1,
        description="Processors that are made to come free together, for machinetypes that need several: the most that"
        " one machine gets, unless its min_processors are more.",
    )
    overload_per_processor: Rating = Field(
        1.5, description="Load for each processor (in use, and of the host) above which nothing is started."
    )
    share_unit: Literal["hs06", "processors"] = Field(
        "hs06", description="What target shares are shares of. Without hs06_per_processor one processor counts 1."
    )
    accounting_window_seconds: Seconds = Field(
        86400,
        description="Time over which shares are met: what a machinetype has had less, it gets more of afterwards, up to"
        " one and a half times its share. 0: only what runs now counts.",
    )
    max_starting_machines: Count | None = Field(
        None, description="No more are started while so many are starting. Without it: no limit."
    )
    draining: StrictBool = Field(False, description="Whether this factory starts nothing more.")
    shutdown_time: Moment | None = Field(
        None, description="When all machines of this factory must be gone; they are told so at once."
    )
    image_budget: Bytes | None = Field(
        None,
        description="How much the images that lmd has built or brought into engines may take together. When it is more,"
        " the least recently used are removed, but none that a machine or a configured machinetype needs. Without it"
        " nothing is removed unasked.",
    )
    console_bytes: Bytes = Field(
        1_000_000, ge=131_072, description="How much of a machine's console is kept: its beginning and its end."
    )
    joboutputs_bytes: Bytes = Field(1_000_000_000, ge=1, description="How much a machine may leave in $JOBOUTPUTS.")
    joboutputs_files: Count = Field(5000, description="How many files and directories it may leave there.")
    factory_name: DnsName | None = Field(
        None, description="Name of this factory in its space. Without it: the host's name."
    )
    total_processors: Budget | None = Field(
        None,
        description="Processors that the daemon's machines may use: a number; or the absolute path of a file, or a"
        " list with a command and its arguments, whose first word is the number, read again every few seconds."
        " Without it: all of the host.",
    )
    machines_dir_days: Days = Field(3.0, description="How long the directory of an ended machine is kept, in days.")
    history_days: Days = Field(30.0, description="How long the database keeps ended machines and events, in days.")
    history_bytes: Bytes = Field(
        200_000_000, ge=1_000_000, description="How large the database may grow; the oldest history goes first."
    )
    user_data_options: UserDataOptions = Field(
        default_factory=dict,
        description="Value that replaces `##user_data_option_NAME##` in the user_data of every machinetype.",
    )
    user_data_files: UserDataFiles = Field(
        default_factory=dict,
        description="File whose content replaces `##user_data_option_NAME##` in the user_data of every machinetype.",
    )

    @model_validator(mode="after")
    def _combination(self) -> "Settings":
        rules.together(rules.patterns(self.user_data_options, self.user_data_files))
        return self


class Policy(Table):
    """`[policy]`: what this site allows machinetypes to ask for."""

    capabilities: tuple[Capability, ...] = Field((), description="Linux capabilities that a machinetype may keep.")
    devices: tuple[Device, ...] = Field((), description="Device files of the host that a machinetype may use.")
    host_network: StrictBool = Field(False, description='Whether a machinetype may use `network = "host"`.')
    nested_containers: StrictBool = Field(True, description="Whether a machinetype may ask for `nested_containers`.")
    cvmfs_repositories: tuple[Annotated[str, Field(pattern=rules.REPOSITORY)], ...] | None = Field(
        None, description="CernVM-FS repositories that a machinetype may name. Without it: any."
    )


class NetworkOptions(Table):
    """`[network]`: the factory's own network, for machinetypes with `network = "lmd"`."""

    ipv6: StrictBool = Field(
        True, description="Whether machines have IPv6 too, by a unique local prefix and NAT of the host's."
    )
    libvirt: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="Whether libvirt makes the network, with DHCP and names, as virtual machines need it; `auto`: where"
        " libvirt answers.",
    )
    services: tuple[Annotated[str, AfterValidator(rules.service)], ...] = Field(
        (), description='Services of this host that machines may use, such as `"tcp 3128"` for a Squid.'
    )


class Cvmfs(Table):
    """`[cvmfs]`: how CernVM-FS repositories come to this host and its machines."""

    provider: Literal["auto", "system", "embedded"] = Field(
        "auto",
        description="`system`: the distribution's client, by autofs or `mount -t cvmfs`; `embedded`: the reader that"
        " comes with lmd; `auto`: the first where `cvmfs2` is installed, else the second.",
    )
    server_url: tuple[Line, ...] = Field(
        (), description="Servers of the repositories for the embedded reader; `@fqrn@` stands for the name."
    )
    http_proxy: tuple[Line, ...] = Field(
        (), description="The site's proxies, groups in the order in which they are tried, `|` between their members."
    )
    public_key: tuple[HostPath, ...] = Field(
        (), description="Files with master keys, or directories of `*.pub`. Without it: as the reader finds them."
    )
    quota_mb: Count | None = Field(None, description="Most that the embedded reader's cache holds; 4000 without it.")
    settings: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")], Text] = Field(
        default_factory=dict,
        description="More settings of the embedded reader (`CVMFS_TIMEOUT`), and variables of links (`ARCH`).",
    )
    probe_seconds: Annotated[Seconds, Field(ge=1)] = Field(
        30, description="Longest time in which a mounted repository has to answer."
    )
    idle_seconds: Annotated[Seconds, Field(ge=1)] = Field(
        60, description="How long the embedded reader keeps a repository mounted that no machine needs."
    )


class PodmanOptions(Table):
    """`[runtimes.podman]`: how the Podman runtime works on this host."""

    socket: Annotated[Line, AfterValidator(rules.unix_socket)] | None = Field(
        None,
        description="Socket of the Podman service, a path or `unix:///path`. Without it: the one that answers, or one"
        " of our own.",
    )
    oci_runtime: Literal["crun", "runc"] | None = Field(
        None, description="OCI runtime of a service of our own. Without it: one that works on this host."
    )
    root: HostPath | None = Field(
        None, description="Directory in which a service of our own keeps images and containers. Without it: Podman's."
    )
    runroot: HostPath | None = Field(None, description="Its directory for state that a restart of the host ends.")
    tmpdir: HostPath | None = Field(None, description="Its directory for locks and for the lists of what runs.")
    network_config_dir: HostPath | None = Field(None, description="Its directory for the definitions of networks.")
    first_uid: Count | None = Field(
        None, description="First host user id of the range that machines get their own ids from."
    )
    uid_count: Count | None = Field(None, description="Length of that range; each machine takes 65536 of it.")


class DockerOptions(Table):
    """`[runtimes.docker]`: how the Docker runtime works on this host."""

    socket: Annotated[Line, AfterValidator(rules.unix_socket)] | None = Field(
        None,
        description="Socket of Docker's daemon, a path or `unix:///path`. Without it: `$DOCKER_HOST` if that is one,"
        " else `/run/docker.sock`.",
    )
    ping_seconds: Annotated[float, Field(ge=0.01, le=600)] | None = Field(
        None, description="How long the daemon may take to say that it is there. Without it: 5."
    )


class KvmOptions(Table):
    """`[runtimes.kvm]`: how virtual machines run on this host."""

    uri: Annotated[Line, AfterValidator(rules.libvirt_uri)] | None = Field(
        None, description="The libvirt daemon to use. Without it: `qemu:///system`."
    )
    acceleration: Literal["auto", "kvm", "emulated"] = Field(
        "auto",
        description="`kvm`: with the processor's help, or not at all; `emulated`: without; `auto`: with it where a test"
        " shows that it works.",
    )
    log_dir: HostPath | None = Field(
        None, description="Where libvirt keeps QEMU's logs. Without it: `/var/log/libvirt/qemu`."
    )
    call_seconds: Count | None = Field(None, description="Longest wait for an answer of libvirt. Without it: 30.")
    image_file_bytes: Count | None = Field(
        None,
        description="Container images with more content than this are shared with machines as directories; of others"
        " a disk file is made. Without it: 1000000000.",
    )
    first_uid: Count | None = Field(
        None, description="First host user id of the range that machines get their own ids from."
    )
    uid_count: Count | None = Field(None, description="Length of that range; each machine takes 65536 of it.")


OPTIONS: Mapping[str, type[Table]] = {"podman": PodmanOptions, "docker": DockerOptions, "kvm": KvmOptions}
"""The tables `[runtimes.NAME]` that are checked here; other runtimes check their own."""


Where = Literal["factory", "machine"]


def _on_the_factory() -> dict[Literal["where"], Where]:
    return {"where": "factory"}


class MachineType(Table):
    """`[machinetypes.NAME]`: what a machine of this type is, gets and may do."""

    name: DnsLabel = Field(description="The NAME of the table: a-z, 0-9 and hyphen, at most 63 characters.")
    machine_model: Annotated[
        Literal["container", "direct", "vm-raw", "cernvm3", "cernvm4"], BeforeValidator(rules.machine_model)
    ] = Field(
        "container",
        description="What the machine is: `container`, a container image; `direct`, a virtual machine whose kernel is"
        " loaded without a bootloader; `vm-raw`, a disk image with a bootloader of its own; `cernvm3` and `cernvm4`, a"
        " boot ISO and an empty disk.",
    )
    runtime: Annotated[Line, AfterValidator(rules.runtime)] = Field(
        "auto", description="What runs it: `podman`, `docker`, another runtime that is installed, or `auto`."
    )
    isolation: Literal["container", "vm"] = Field(
        default_factory=virtual.isolation,
        description="How it is kept apart: `container`, or `vm`, a virtual machine that runs the same image with the"
        " same environment. Without it: `vm` where the model or the runtime makes one, else `container`.",
    )
    root_image: Annotated[Line, AfterValidator(rules.root_image)] = Field(
        description="Root file system: a reference (`docker://` before it is allowed), `oci-archive:FILE`,"
        " `docker-archive:FILE`, `oci:DIRECTORY` (an OCI image layout), or the path of an unpacked root directory or"
        " of an archive. For virtual machines also the path of a disk image (qcow2 or raw) or of a boot ISO, and"
        " `lmd:micro` for the initramfs alone. A path begins with `/`, `./` or `../`."
    )
    pull: Literal["missing", "always", "never"] = Field(
        "missing", description="When a reference is fetched from its registry."
    )
    user_data: Annotated[Line, AfterValidator(rules.user_data)] | None = Field(
        None,
        description="Path, or http(s) URL, of the file that the machine finds as /user_data, after its"
        " `##user_data_…##` patterns have been replaced. It is the machine's command unless `entrypoint` is given.",
    )
    user_data_options: UserDataOptions = Field(
        default_factory=dict, description="Value that replaces `##user_data_option_NAME##` in user_data."
    )
    user_data_files: UserDataFiles = Field(
        default_factory=dict,
        description="File whose content replaces `##user_data_option_NAME##` and `##user_data_file_NAME##` in"
        " user_data.",
    )
    entrypoint: Annotated[tuple[Text, ...], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="Command to run in place of user_data or of the image's own, a word an element."
    )
    args: Annotated[tuple[Text, ...], Field(max_length=1000)] | None = Field(
        None, description="Arguments in place of the image's own; an empty list drops those."
    )
    user: Annotated[str, Field(pattern=rules.USER)] | None = Field(
        None,
        description="User inside the machine, `NAME`, `UID`, `NAME:GROUP` or `UID:GID`. Without it: root for"
        " user_data, else the image's.",
    )
    environment: Mapping[Annotated[str, AfterValidator(rules.variable)], Text] = Field(
        default_factory=dict, description="Environment variables of the machine's command."
    )
    secret_files: Mapping[Annotated[InsidePath, AfterValidator(rules.free_path)], Line] = Field(
        default_factory=dict,
        description="Files that only the machine's root may read: path in the machine = path on the host. The content"
        " appears in no log and no listing.",
    )
    target_share: Share = Field(
        0.0, description="Share of the space that a daemon gives to this type, beside those of the others; 0: none."
    )
    machinegroup: Line | None = Field(
        None, description="Types with the same one share what a single type would get. Without it: its own."
    )
    interruptible: StrictBool = Field(
        False,
        description="Whether the machine may be told, grace_secs before, to end early, when another type needs its"
        " processors. Such a type fills gaps.",
    )
    machine_class: Literal["normal", "idle"] = Field(
        "normal",
        alias="class",
        description='`"idle"`: runs beside the others, above the processors of the factory, with the lowest weight,'
        " on what they leave unused.",
    )
    min_processors: Processors = Field(1, description="Fewest processors that the machine can work with.")
    max_processors: Processors = Field(
        default_factory=lambda data: data["min_processors"],
        description="Most processors that the machine can use.",
    )
    mb_per_processor: MiB = Field(2048, description="Memory for each processor.")
    disk_gb_per_processor: GB | None = Field(
        None,
        description="Disk of a virtual machine for each processor: the root disk of cernvm3 and cernvm4 (40 GB without"
        " it), a second, empty disk of vm-raw, and what is written to the root and to `tmp_binds` of other machines"
        " (without it, 40 GB if there are `tmp_binds`, else the root is kept in memory).",
    )
    pids: Count = Field(4096, description="Most processes and threads at a time.")
    open_files: Count | None = Field(None, description="Most open files a process. Without it: the runtime's choice.")
    console_bytes: Bytes = Field(1_000_000, ge=131_072, description="How much of the console is kept.")
    joboutputs_bytes: Bytes = Field(1_000_000_000, ge=1, description="How much may be left in $JOBOUTPUTS.")
    joboutputs_files: Count = Field(5000, description="How many files and directories may be left there.")
    require_limits: Annotated[
        frozenset[Limit], BeforeValidator(rules.require_limits, json_schema_input_type=bool | list[Limit])
    ] = Field(
        frozenset(),
        description="Limits that must be enforced, or the machine is not started: a list of `processors`, `memory`,"
        " `pids`, `open_files`; `true` means all. Other limits are enforced where the host can.",
    )
    max_wallclock_seconds: Annotated[Seconds, Field(ge=1)] = Field(
        86400, description="Longest life; the machine is ended then."
    )
    min_wallclock_seconds: Annotated[Seconds, Field(ge=1)] = Field(
        default_factory=lambda data: data["max_wallclock_seconds"],
        description="Shortest life that is worth a start.",
    )
    fizzle_seconds: Seconds = Field(
        600, description="A machine that ends younger than this, and says nothing else, has found no work."
    )
    backoff_seconds: Seconds = Field(10, description="Wait after a machine of this type ended with an abort code.")
    grace_secs: Seconds = Field(
        1800, description="Notice between an earlier shutdown time and the end; grace_secs of the features."
    )
    notice: Notice = Field(
        "sigterm",
        description="How a machine learns of an earlier end, beside its features: `features` (they alone), `sigterm`"
        " (at once), or a list with a command that is run in it. By force at the end of its grace, whichever it is.",
    )
    machines_dir_days: Days = Field(3.0, description="How long its directory is kept when it has ended, in days.")
    heartbeat_file: Annotated[str, AfterValidator(rules.file_name)] | None = Field(
        None, description="Name of the file in $JOBOUTPUTS that a healthy machine writes again and again."
    )
    heartbeat_seconds: Seconds = Field(
        0, description="Longest time between two heartbeats; 0: the file must exist, its age does not matter."
    )
    features_form: Literal["path", "file-url", "http"] = Field(
        default_factory=virtual.features_form,
        description="What $MACHINEFEATURES, $JOBFEATURES and $JOBOUTPUTS hold: a path, a file:// URL, or an http:// URL"
        " of the metadata server, where outputs are PUT. Without it: `http` for virtual machines that start a system of"
        " their own, else `path`.",
    )
    metadata_token_required: StrictBool = Field(
        False, description="Whether the metadata is closed to requests without a session token (EC2's IMDSv2)."
    )
    root_public_key: Annotated[Line, AfterValidator(rules.file_path)] | None = Field(
        None, description="File with the SSH public key that cloud-init lets in, as the metadata's public key."
    )
    outcome: Annotated[
        Mapping[Annotated[int, Field(ge=0, le=255)], Annotated[str, AfterValidator(rules.shutdown_message)]],
        BeforeValidator(rules.exit_codes, json_schema_input_type=Mapping[ExitCode, str]),
    ] = Field(
        default_factory=dict,
        description='Shutdown message for an exit code, for payloads that write none: `{ 75 = "300 no work" }`.',
    )
    network: Network = Field(
        default_factory=virtual.network,
        description="Network of the machine: `lmd`, the factory's own, with a fixed address, metadata and no other"
        " machine in reach; `bridge`, the runtime's; `host` only if [policy] allows it. Without it: `lmd` for virtual"
        " machines that start a system of their own, else `bridge`.",
    )
    contextualisation: Literal["metadata", "seed"] = Field(
        default_factory=virtual.contextualisation,
        description="Where a virtual machine that starts a system of its own finds user_data: the metadata server, or a"
        " NoCloud CD. Without it: `metadata` in the network `lmd`, else `seed`.",
    )
    user_namespace: UserNamespace = Field(
        UserNamespace.AUTO,
        description="`required`: not started without a range of user ids of its own; `auto`: one where the host can.",
    )
    nested_containers: StrictBool = Field(
        False, description="Whether the payload may make namespaces and mounts (Apptainer, unshare) inside."
    )
    capabilities: tuple[Capability, ...] = Field(
        (), description="Linux capabilities to keep, of those that [policy] allows."
    )
    devices: tuple[Device, ...] = Field((), description="Device files of the host, of those that [policy] allows.")
    architecture: (
        Annotated[Literal["amd64", "arm64", "ppc64le", "riscv64", "s390x"], BeforeValidator(rules.architecture)] | None
    ) = Field(None, description="Processor architecture that the image needs. Without it: the host's.")
    read_only: StrictBool = Field(False, description="Whether the root file system is read-only.")
    tmpfs: Mapping[Annotated[InsidePath, AfterValidator(rules.free_path)], Annotated[Bytes, Field(ge=4096)]] = Field(
        default_factory=dict, description="Empty file systems in memory: path = size. They count as memory."
    )
    tmp_binds: tuple[Annotated[InsidePath, AfterValidator(rules.free_path)], ...] = Field(
        (), description="Empty directories on the host's disk that go with the machine."
    )

    cvmfs_repositories: Annotated[
        tuple[Annotated[str, Field(pattern=rules.REPOSITORY)], ...], Field(max_length=100)
    ] = Field(
        (),
        description="CernVM-FS repositories that the machine finds below /cvmfs, by their full names; `*`: all that"
        " this host has mounted.",
    )
    cvmfs: Mapping[Literal["where"], Where] = Field(
        default_factory=_on_the_factory,
        description='`cvmfs.where`: `"factory"`, mounted on the host and bound into the machine; `"machine"`, mounted'
        " in the machine's own namespaces, by a client that is part of it.",
    )

    kernel: Annotated[Line, AfterValidator(rules.file_path)] | None = Field(
        None,
        description="Kernel of a virtual machine that boots without a bootloader. Without it: that of `lmd:micro`.",
    )
    initramfs: Annotated[Line, AfterValidator(rules.file_path)] | None = Field(
        None, description="Its initramfs. Without it: that of `lmd:micro`, or none if there is a `kernel`."
    )
    kernel_arguments: Annotated[str, AfterValidator(rules.kernel_arguments)] = Field(
        "", description="More arguments for the kernel, separated by spaces."
    )
    hugepages: StrictBool = Field(False, description="Whether a virtual machine's memory is made of huge pages.")
    pinning: StrictBool = Field(
        False, description="Whether each processor of a virtual machine is bound to one of the host's."
    )
    numa_node: Annotated[int, Field(ge=0, le=1023, strict=True)] | None = Field(
        None, description="NUMA node of the host that a virtual machine's processors and memory are taken from."
    )
    graphics: StrictBool = Field(
        False, description="Whether a virtual machine has a screen, shown by VNC on a Unix socket of its directory."
    )

    @model_validator(mode="after")
    def _combination(self) -> "MachineType":
        rules.together(rules.combination(self))
        return self

    @property
    def cvmfs_where(self) -> str:
        """`factory` or `machine`."""
        return self.cvmfs.get("where", "factory")

    @property
    def runs_user_data(self) -> bool:
        """Whether /user_data is the machine's command."""
        own_system = self.machine_model in virtual.SELF_STARTING
        return self.user_data is not None and self.entrypoint is None and not own_system


@dataclass(frozen=True, slots=True)
class Config:
    """A checked configuration.

    `runtimes` has each runtime's options as strings, as `runtimes.contract.Settings.options` wants them. `disabled`
    has the machinetypes that cannot be used, with what is wrong. `origins` says which file set a key, by its path
    (such as `("machinetypes", "atlas", "root_image")`); what it lacks is a default.
    """

    settings: Settings = field(default_factory=Settings)
    policy: Policy = field(default_factory=Policy)
    runtimes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    machinetypes: Mapping[str, MachineType] = field(default_factory=dict)
    disabled: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)
    origins: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    cvmfs: Cvmfs = field(default_factory=Cvmfs)
