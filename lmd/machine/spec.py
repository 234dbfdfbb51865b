"""A machinetype and its place on this host as the spec that a runtime gets. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from lmd.config.files import image_kind
from lmd.config.models import MachineType
from lmd.environment import features
from lmd.environment.directory import Directory
from lmd.environment.features import Allocation
from lmd.machine.start import Start, command, disk_bytes
from lmd.repositories.handing import Handed
from runtimes.contract import Image, ImageKind, Limits, Mount, Network, Nic, Placement, Spec, Tmpfs

LIFETIME_MARGIN = 120
"""Seconds after the shutdown time at which the engine ends a machine that nobody of ours looks after any more."""

ASIDE = PurePosixPath("/run/lmd")
"""Where the environment lies in a root directory that is used in place and lacks the usual mount points."""

RESOLV_CONF = PurePosixPath("/etc/resolv.conf")

PLACES = {
    "MACHINEFEATURES": features.MACHINEFEATURES,
    "JOBFEATURES": features.JOBFEATURES,
    "JOBOUTPUTS": features.JOBOUTPUTS,
    "user_data": features.USER_DATA,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is decided about one machine before it is made."""

    id: str
    owner: str
    space: str
    machinetype: MachineType
    image: Image
    allocation: Allocation
    command: tuple[str, ...] | None = None  # in place of the type's own
    detached: bool = False  # an operator has asked the daemon for it
    repositories: Handed = field(default_factory=Handed)
    nic: Nic | None = None  # its place in the factory's own network
    start: Start | None = None  # of a virtual machine
    placement: Placement | None = None

    @property
    def image_named(self) -> str:
        """The image as its type has it, also where the machine is made of what was unpacked from it."""
        return (self.start.named if self.start else "") or self.image.location

    @property
    def image_id(self) -> str | None:
        """The id of the container image that a virtual machine runs; None where the engine tells it."""
        return self.start.described.image_id if self.start and self.start.described else None


def targets(plan: Plan, exists: Mapping[PurePosixPath, bool]) -> dict[str, PurePosixPath]:
    """Where the parts of the environment lie in the machine, by variable (and `user_data`).

    In a root directory that a container uses in place no mount point can be made: what it lacks (`exists`) lies below
    `ASIDE`, in a tmpfs. The variables always tell the truth.
    """
    if plan.image.kind is not ImageKind.ROOT_DIRECTORY or plan.start is not None:
        return dict(PLACES)
    return {name: path if exists.get(path) else ASIDE / path.name for name, path in PLACES.items()}


def existing(root: Path) -> dict[PurePosixPath, bool]:
    """Which of the usual places a root directory has, of the right kind and no link. Reads the file system."""
    found = {path: root / path.relative_to("/") for path in PLACES.values()}
    return {
        path: not real.is_symlink() and (real.is_file() if path == features.USER_DATA else real.is_dir())
        for path, real in found.items()
    }


def spec(plan: Plan, directory: Directory, places: Mapping[str, PurePosixPath], secrets: Sequence[Path]) -> Spec:
    """The spec of a machine whose files are in `directory`; `secrets` in the order of the type's `secret_files`.

    Raises `NoCommand`.
    """
    type_, given = plan.machinetype, plan.allocation
    entrypoint, args = _command(plan, places)
    made = Spec(
        id=plan.id,
        owner=plan.owner,
        space=plan.space,
        machinetype=type_.name,
        image=plan.image,
        entrypoint=entrypoint,
        args=args,
        environment=features.variables(type_.features_form, places) | features.twins(given) | dict(type_.environment),
        mounts=_mounts(type_, directory, places, secrets) + plan.repositories.mounts,
        tmpfs=tuple(Tmpfs(target=PurePosixPath(path), size_bytes=size) for path, size in type_.tmpfs.items())
        + (plan.repositories.tmpfs if type_.isolation == "container" else ()),
        scratch=tuple(PurePosixPath(path) for path in type_.tmp_binds),
        limits=Limits(
            processors=given.processors,
            memory_bytes=given.memory_bytes,
            pids=type_.pids,
            open_files=type_.open_files,
        ),
        required_limits=type_.require_limits,
        network=type_.network,
        nic=plan.nic,
        seed=directory.seed if seeded(type_) else None,
        read_only_root=type_.read_only,
        user_namespace=type_.user_namespace,
        nested_containers=type_.nested_containers,
        capabilities=frozenset(type_.capabilities),
        devices=type_.devices,
        architecture=type_.architecture,
        user=type_.user or ("0:0" if type_.runs_user_data else None),
        console_bytes=type_.console_bytes,
        idle=type_.machine_class == "idle",
        lifetime_seconds=int(given.shutdown_time - given.started) + given.grace + LIFETIME_MARGIN,
    )
    return made if plan.start is None else _virtual(made, plan, plan.start)


def _virtual(made: Spec, plan: Plan, start: Start) -> Spec:
    """The same as a virtual machine: what engines take from a container image is said in the spec."""
    type_ = plan.machinetype
    made = replace(
        made,
        boot=start.boot,
        disk_bytes=disk_bytes(type_, plan.allocation.processors),
        uuid=plan.allocation.job_id,
        graphics=type_.graphics,
        placement=plan.placement,
    )
    if start.boot is None:  # its own system starts, and is told by the metadata alone
        return replace(
            made, entrypoint=None, args=None, environment={}, mounts=(), user=None, limits=_outer(made.limits)
        )
    entrypoint, args = command(start, made.entrypoint, made.args)
    said = start.described
    folder = said.working_directory if said else ""
    return replace(
        made,
        entrypoint=entrypoint,
        args=args,
        environment={**(said.environment if said else {}), **made.environment},
        user=made.user or (said.user if said else "") or None,
        working_directory=PurePosixPath(folder) if folder.startswith("/") else None,
    )


def _outer(limits: Limits) -> Limits:
    """Those that the host sets; a system of its own counts its processes and files itself."""
    return Limits(processors=limits.processors, memory_bytes=limits.memory_bytes)


def needed(type_: MachineType) -> Spec | None:
    """What a runtime would be asked for the smallest machine of a type, before anything is made for it: to choose the
    runtime by. Looks at a file of the image. None for virtual machines, whose images are made to fit."""
    if type_.isolation != "container":
        return None
    built = type_.root_image.startswith("lmd:")
    try:
        kind, location = (ImageKind.OCI_ARCHIVE, "") if built else image_kind(type_.root_image)
    except ValueError:  # what is wrong with the image is said where it is looked for
        kind, location = ImageKind.REFERENCE, ""
    plan = Plan(
        id="needed",
        owner="",
        space="",
        machinetype=type_,
        image=Image(kind=kind, location=location),
        allocation=Allocation(
            job_id="needed",
            processors=type_.min_processors,
            memory_bytes=type_.mb_per_processor * type_.min_processors * 2**20,
            started=0,
            shutdown_time=type_.max_wallclock_seconds,
            grace=0,
            hs06_per_processor=None,
            swap_bytes=0,
        ),
    )
    nowhere = Directory(Path("/nowhere"))
    made = spec(plan, nowhere, dict(PLACES), [nowhere.path] * len(type_.secret_files))
    nic = Nic(address="", prefix=0, gateway="", mac="", port="", bridge="")
    return replace(made, nic=nic if made.network is Network.LMD else None)


def seeded(type_: MachineType) -> bool:
    """Whether a machine of this type gets its user_data on a CD."""
    return type_.machine_model == "vm-raw" and type_.contextualisation == "seed"


def _command(plan: Plan, places: Mapping[str, PurePosixPath]) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    type_ = plan.machinetype
    if plan.command is not None:
        return plan.command, ()
    if type_.runs_user_data:
        return (str(places["user_data"]),), type_.args or ()
    return type_.entrypoint, type_.args


def _mounts(
    type_: MachineType, directory: Directory, places: Mapping[str, PurePosixPath], secrets: Sequence[Path]
) -> tuple[Mount, ...]:
    mounts = [
        Mount(source=directory.machinefeatures, target=places["MACHINEFEATURES"]),
        Mount(source=directory.jobfeatures, target=places["JOBFEATURES"]),
        Mount(source=directory.joboutputs, target=places["JOBOUTPUTS"], read_only=False, owned_by_machine=True),
    ]
    if type_.user_data is not None:
        mounts.append(Mount(source=directory.user_data, target=places["user_data"], owned_by_machine=True))
    if type_.network is Network.LMD and type_.isolation == "container":
        mounts.append(Mount(source=directory.resolv_conf, target=RESOLV_CONF))
    mounts += [
        Mount(source=source, target=PurePosixPath(target), owned_by_machine=True)
        for source, target in zip(secrets, type_.secret_files, strict=True)
    ]
    return tuple(mounts)
